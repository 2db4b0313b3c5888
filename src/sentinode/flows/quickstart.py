"""The command `quickstart`: tissue, store, model, judgement, submission and one picture, in about two minutes.

Every step is the function a user would call next; this file only strings them together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from sentinode.errors import UsageProblem, shown
from sentinode.fit.probe import colour_histogram, load_floor
from sentinode.fit.train import train
from sentinode.flows.evaluate import evaluate
from sentinode.flows.evidence import record_of, write_report
from sentinode.infer.predict import predict
from sentinode.judge.judgement import Judgement, judge_scores
from sentinode.nets.trained import Run
from sentinode.progress import Progress
from sentinode.report.learning import write_learning_curve
from sentinode.report.overview import write_overview
from sentinode.run import claim_folder, write_json
from sentinode.scores import read_scores
from sentinode.settings import EvaluateSettings
from sentinode.tiles.pack import pack
from sentinode.tiles.store import Store
from sentinode.tiles.synth import synthesise, write_kaggle_folder

TRAIN_SLIDES, JUDGE_SLIDES, TEST_SLIDES, TILES = 30, 10, 1, 100
"""Synthetic slides that train, judge and stay unlabelled, and tiles of each slide."""
DIFFICULTY = 0.8
"""Of the tissue: hard enough that some tiles are wrong, and worth a look."""
MINUTES = 1.2
"""Of training; the rest of the two minutes packs, judges and draws."""
PROTOCOLS = {"random": "random tiles", "grouped": "grouped"}
"""How a judgement calls a run's own split."""
CHOSEN_HERE = "these tiles also chose the epoch and the threshold: the figures are optimistic; judge on tiles of other slides"
"""Stands first where no other tiles were there to judge on."""
STEPS = (
    "Step by step; SLIDES.csv (id,slide) lets split and intervals know about slides, leave it out if you have none:",
    "  sentinode pack DIR --out tiles.store --groups SLIDES.csv",
    "  sentinode info tiles.store --verify",
    "  sentinode train tiles.store --out run",
    "  sentinode pack OTHER_SLIDES --out test.store",
    "  sentinode evaluate run test.store --out judgement",
    "  sentinode predict run DIR --out submission.csv --submission",
)
"""What to type next."""
CHUNK = 1024
"""Tiles whose colours are counted at a time."""


@dataclass(frozen=True)
class Quickstart:
    """What quickstart wrote into `out`: the judgement, the picture, and a submission where there were unlabelled tiles."""

    out: Path
    judgement: Judgement
    picture: Path
    submission: Path | None
    data: Path | None

    @property
    def page(self) -> Path:
        """The page of the judgement."""
        return self.out / "judgement" / "report.html"

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        submission = None if self.submission is None else str(self.submission)
        paths = {"out": str(self.out), "picture": str(self.picture), "page": str(self.page), "submission": submission}
        return paths | {"judgement": self.judgement.as_dict()}

    def __repr__(self) -> str:
        """Return `lines` as one text: what a notebook shows."""
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """Return the judgement, where things are, and the commands to type next."""
        lines = [*self.judgement.lines(), "", f"picture: {shown(self.picture)}", f"page: {shown(self.page)}"]
        if self.submission is not None:
            lines.append(f"submission: {shown(self.submission)}")
        if self.data is None:
            lines += ["", "The same with your own tiles (a Kaggle folder, class folders, a CSV manifest, PCam HDF5):"]
            lines += ["  sentinode quickstart --data DIR --out mine"]
        return [*lines, "", *STEPS]


def quickstart(
    out: str | Path = "quickstart",
    data: str | Path | None = None,
    *,
    minutes: float = MINUTES,
    seed: int = 0,
    overwrite: bool = False,
    quiet: bool = False,
) -> Quickstart:
    """Go the whole way once: tiles, store, model, judgement, submission, picture.

    Parameters
    ----------
    out
        A new folder for all of it.
    data
        Anything `pack` takes; without it, synthetic tissue is made, and judged on slides that took no part in training.
        With it, the part of the tiles that chose the epoch is judged, and the judgement says so first.
    minutes
        Training time.
    seed
        Of tissue, split and training.
    overwrite
        Replace an earlier quickstart of that name.
    quiet
        Say nothing.

    Returns
    -------
    Quickstart
        The judgement and where everything is.

    Raises
    ------
    UsageProblem, DataProblem, UndefinedScore, MachineProblem
        As the single commands do.
    """
    folder, progress = Path(out), Progress(quiet)
    source = None if data is None else Path(data)
    if source is not None and not source.exists():
        raise UsageProblem("a folder or file for --data", f"nothing at {shown(source)}", "check the name")
    claim_folder(folder, "overview.png", resume=False, overwrite=overwrite)
    write_json(folder / "unfinished.json", {"command": "quickstart", "seed": seed})
    if source is None:
        progress.say("1/5 painting synthetic tissue")
        make_tissue(folder, seed)
    tiles = folder / "tissue" if source is None else source
    progress.say("2/5 packing")
    store = pack(tiles, out=folder / "train.store", groups=slides_beside(tiles), quiet=quiet)
    progress.say(f"3/5 training for {minutes:g} minutes")
    run = train(store, out=folder / "run", model="simple-cnn", sample="100%", minutes=minutes, seed=seed, quiet=quiet)
    progress.say("4/5 judging")
    if source is None:
        judge_store = pack(folder / "held-out", out=folder / "test.store", groups=slides_beside(folder / "held-out"), quiet=quiet)
        judgement = evaluate(run.path, judge_store.path, out=folder / "judgement", seed=seed, quiet=quiet)
        scores = read_scores(folder / "judgement" / "scores.parquet").table
        beside = floor_column(scores)
    else:
        judge_store = store
        judgement, scores, beside = judge_own(run, store, folder / "judgement", seed)
    progress.say("5/5 predicting and drawing")
    submission = submit(run, tiles, folder / "submission.csv", quiet)
    picture = draw(folder, run, (scores, beside), judge_store, judgement)
    (folder / "unfinished.json").unlink()
    return Quickstart(folder, judgement, picture, submission, source)


def make_tissue(folder: Path, seed: int) -> None:
    """Write `tissue/` (slides that train, and one without labels in its test/) and `held-out/` (other slides, to judge on)."""
    known = synthesise(TRAIN_SLIDES + TEST_SLIDES, TILES, difficulty=DIFFICULTY, seed=2 * seed)
    write_kaggle_folder(folder / "tissue", known, n_unlabelled=TEST_SLIDES * TILES)
    write_kaggle_folder(folder / "held-out", synthesise(JUDGE_SLIDES, TILES, difficulty=DIFFICULTY, seed=2 * seed + 1))


def slides_beside(tiles: Path) -> str | None:
    """Return the table of slides that lies in a folder of tiles as slides.csv, if there is one."""
    table = tiles / "slides.csv"
    return str(table) if table.is_file() else None


def judge_own(run: Run, store: Store, folder: Path, seed: int) -> tuple[Judgement, pd.DataFrame, npt.NDArray[np.float64] | None]:
    """Judge the part of a store that chose the epoch, and say so; return its scores and the floor beside them as well."""
    found = read_scores(run.path / "valid.parquet")
    rows = rows_of(found.table, store)
    counts = [colour_histogram(store.tiles[rows[start : start + CHUNK]]) for start in range(0, len(rows), CHUNK)]
    beside = load_floor(run.path / "floor.npz").probability(np.concatenate(counts))
    judgement = judge_scores(found, run.facts.threshold, run.facts.threshold_rule, beside, seed=seed)
    split = str(run.record["data"]["split"])
    warnings = (CHOSEN_HERE, *run.record.get("warnings", []), *judgement.warnings)
    named = (str(run.path), str(store.path))
    # The part of the store that chose is judged, which `evaluate` cannot be asked for.
    record = record_of(named, folder, EvaluateSettings(seed=seed, mistakes=0), store, [run.path]) | {"command": []}
    judgement = replace(
        judgement, protocol=PROTOCOLS.get(split, "unknown"), warnings=tuple(dict.fromkeys(warnings)), record=record
    )
    write_report(folder, found.table.assign(floor_probability=beside), judgement, None)
    write_json(folder / "judgement.json", judgement.as_dict())
    return judgement, found.table, beside


def rows_of(scores: pd.DataFrame, store: Store) -> npt.NDArray[np.intp]:
    """Return where in the store each scored tile is, intp [n]."""
    rows: npt.NDArray[np.intp] = np.asarray(pd.Index(store.rows["id"]).get_indexer(pd.Index(scores["id"])))
    if (rows < 0).any():
        missing = scores["id"].iloc[int(np.argmin(rows))]
        raise UsageProblem("scores of this store's tiles", f"id {shown(missing)}", "use the run's own store")
    return rows


def floor_column(scores: pd.DataFrame) -> npt.NDArray[np.float64] | None:
    """Return the floor's probabilities [n] where the scores have them."""
    return scores["floor_probability"].to_numpy(float) if "floor_probability" in scores else None


def submit(run: Run, tiles: Path, target: Path, quiet: bool) -> Path | None:
    """Write a submission if the folder has unlabelled tiles as Kaggle has them; return it."""
    test = tiles / "test"
    if not (tiles / "train_labels.csv").is_file() or not test.is_dir() or not any(test.iterdir()):
        return None
    predict(run.path, tiles, out=target, submission=True, quiet=quiet)
    return target


def draw(
    folder: Path,
    run: Run,
    columns: tuple[pd.DataFrame, npt.NDArray[np.float64] | None],
    store: Store,
    judgement: Judgement,
) -> Path:
    """Draw the learning curve and the overview; return the overview, the last file that quickstart writes."""
    history = pd.read_csv(run.path / "history.csv")
    write_learning_curve(folder, history)
    scores, beside = columns
    known = scores["label"].to_numpy() >= 0
    shown_scores = scores[known]
    tiles: Sequence[npt.NDArray[np.uint8]] = [store.tiles[row] for row in rows_of(shown_scores, store)]
    labels, probability = (shown_scores[name].to_numpy() for name in ("label", "probability"))
    floor = None if beside is None else beside[known]
    return write_overview(folder / "overview.png", history, labels, probability, floor, tiles, judgement.as_dict())[0]
