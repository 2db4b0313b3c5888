"""The command `evaluate`: runs, or anyone's predictions, judged on a store; the floor and the passport beside it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from sentinode.errors import UndefinedScore, UsageProblem, shown
from sentinode.fit.probe import Floor, colour_histogram, fit_floor, floor_rows, load_floor
from sentinode.flows.choosing import abstention_of, check_aims, threshold_for
from sentinode.flows.evidence import gallery_of, record_of, write_report
from sentinode.flows.stress import stress_of
from sentinode.judge.judgement import Judgement, judge_scores
from sentinode.progress import Progress
from sentinode.report.gallery import Gallery
from sentinode.run import claim_folder, not_left_empty, read_json, write_json
from sentinode.scores import Scores, align, read_scores, write_scores
from sentinode.settings import EvaluateSettings, JudgeSettings, settings_from
from sentinode.tiles.passport import Contamination, Marks, marks_of, seen_of
from sentinode.tiles.split import GUESSED, OPTIMISTIC, Split, read_split
from sentinode.tiles.store import Store, open_store
from sentinode.tiles.units import true_slides

Floats = npt.NDArray[np.float64]
OUT_OF_FOLD = "out of fold"
"""Begins the protocol of scores of which each is by a model that was not shown the tile."""
MOST_MISTAKES = 200
"""Shown on the page at most: each costs its own picture and 65 forward passes."""


def evaluate(
    *inputs: str | Path,
    out: str | Path,
    settings: EvaluateSettings | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    **options: Any,
) -> Judgement:
    """Judge what the inputs say about the last of them, a store with labels.

    Parameters
    ----------
    inputs
        One or more run folders (several are an ensemble) or one table of predictions, then the store to judge on.
    out
        Folder for judgement.json, report.html, scores.parquet and figures.
    settings, options
        An `EvaluateSettings`, and single settings by name over it.
    overwrite
        Replace a judgement that is there.
    quiet
        Say nothing.

    Returns
    -------
    Judgement
        As in judgement.json.

    Raises
    ------
    UsageProblem, RunProblem, ScoresProblem, StoreProblem
        For inputs that do not fit.
    UndefinedScore
        If the store's labels do not allow a figure.
    """
    settings = settings_from(EvaluateSettings, settings, options)
    if len(inputs) < 2:
        raise UsageProblem(
            "runs or one scores file, then the store to judge on",
            f"{len(inputs)} inputs",
            "sentinode evaluate RUN...|scores.csv T.store --out DIR",
        )
    if not 0 <= settings.mistakes <= MOST_MISTAKES:
        raise UsageProblem(
            f"0 to {MOST_MISTAKES} mistakes to show", str(settings.mistakes), "change --mistakes; 12 is the default"
        )
    check_aims(settings)
    folder, progress = Path(out), Progress(quiet)
    store = labelled_store(Path(inputs[-1]))
    claim_folder(folder, "judgement.json", resume=False, overwrite=overwrite)
    with not_left_empty(folder):
        runs, scores = scored([Path(given) for given in inputs[:-1]], store, settings.views, quiet)
        threshold, source = threshold_for(runs, settings)
        progress.say("judging: figures, intervals, floor, passport")
        floor = floor_of(settings, runs)
        beside = floor.probability(colour_histogram(store.tiles)) if floor else floor_beside(scores)
        judgement = judge_scores(scores, threshold, source, beside, settings.resamples, settings.seed)
        judgement = with_origin(judgement, runs, store)
        judgement = replace(
            judgement,
            record=record_of(tuple(map(str, inputs)), folder, settings, store, runs),
            abstention=abstention_of(runs, scores, settings.coverage),
            stress=stress_of(runs, store, threshold, settings, progress),
        )
        gallery = gallery_of(scores.table, judgement, store, runs, settings, progress)
        progress.say("drawing the page")
        write_results(folder, scores, beside, judgement, gallery)
    return judgement


def labelled_store(path: Path) -> Store:
    """Open a store to judge on; StoreProblem if it is empty, UndefinedScore if none of its tiles has a label."""
    store = open_store(path)
    store.need_tiles()
    if not (store.rows["label"].to_numpy() >= 0).any():
        raise UndefinedScore(
            f"labels in {shown(store.path)}", f"{len(store):,} tiles without one", "judge on a labelled store, or use 'predict'"
        )
    return store


def scored(named: list[Path], store: Store, views: int, quiet: bool) -> tuple[list[Path], Scores]:
    """Return which of the inputs are runs, and the scores of `store` by them or by the one table that is named."""
    runs = [path for path in named if path.is_dir()]
    if runs and len(runs) < len(named):
        raise UsageProblem("runs only, or one scores file", "both", "judge them one at a time")
    if runs:
        from sentinode.infer.predict import score_store

        return runs, align(score_store(runs, store, views, quiet), store.rows)
    if len(named) > 1:
        raise UsageProblem("one scores file", f"{len(named)} files", "judge them one at a time")
    if not named[0].is_file():
        raise UsageProblem("a run folder or a scores file", f"nothing at {shown(named[0])}", "check the name")
    if views != 1:
        raise UsageProblem("--views with runs", "a scores file, whose views are fixed", "leave --views out")
    return [], align(read_scores(named[0]), store.rows)


def floor_of(settings: JudgeSettings, runs: list[Path]) -> Floor | None:
    """Return the colour floor of `--floor` (a run or a store), or of the first run; None where neither is given."""
    if settings.floor is None:
        return load_floor(runs[0] / "floor.npz") if runs else None
    path = Path(settings.floor)
    if (path / "floor.npz").is_file():
        return load_floor(path / "floor.npz")
    if not (path / "store.json").is_file():
        raise UsageProblem("a run or a store for --floor", shown(path), "name one that exists")
    store = open_store(path)
    labels = store.rows["label"].to_numpy()
    rows = floor_rows(store.rows["id"].astype(str).tolist(), labels, settings.seed)
    return fit_floor(colour_histogram(store.tiles, rows), labels[rows])


def floor_beside(scores: Scores) -> Floats | None:
    """Return the colour floor that a table of scores out of fold brings along, each fold's own; None where there is none."""
    if "floor_probability" not in scores.table or not out_of_fold(scores.header):
        return None
    beside = pd.to_numeric(scores.table["floor_probability"], errors="coerce").to_numpy(np.float64)
    return beside if np.isfinite(beside).all() and (beside >= 0).all() and (beside <= 1).all() else None


def out_of_fold(header: dict[str, Any]) -> str:
    """Return the protocol of scores out of fold, "" of others."""
    protocol = str(header.get("protocol", ""))
    return protocol if protocol.startswith(OUT_OF_FOLD) else ""


@dataclass(frozen=True)
class Origin:
    """Where test tiles stand to training tiles: the protocol, what was seen of them, and sentences for the reader."""

    protocol: str
    passport: Contamination | None
    warnings: tuple[str, ...]


def origin_of(splits: list[Split], store: Store, marks: Marks | None = None) -> Origin:
    """Compare a test store with what the runs' splits say was trained on.

    The protocol is `other slides` if all slides are known on both sides and none is shared with training or choosing, `grouped`
    if test slides chose but none trained, `random tiles` if slides or tiles are shared with training, and `unknown` otherwise.
    `marks` are those of the labelled tiles, where they are known already.
    """
    if not splits:
        return Origin("unknown", None, ("protocol unknown: what these predictions were trained on is not known",))
    at = np.flatnonzero(store.rows["label"].to_numpy() >= 0)
    labelled = store.rows.iloc[at]
    seen = seen_of(splits, labelled, marks or marks_of(store.tiles, at))
    tables = [split.table for split in splits]
    train, valid = (
        {group for table in tables for group in true_slides(table.loc[table["part"] == part, "group"].to_numpy()).tolist()}
        for part in ("train", "valid")
    )
    test = set(true_slides(labelled["group"].to_numpy()).tolist())
    if (test & train) - {""} or seen.trained_on:
        protocol = "random tiles"
    elif "" in test | train | valid:
        protocol = "unknown"
    else:
        protocol = "grouped" if test & valid else "other slides"
    warnings = list(seen.warnings())
    if protocol == "unknown":
        warnings.append("protocol unknown: the slides of training or test tiles are not known, so shared ones cannot be excluded")
    warnings += [f"training and valid: {text}" for split in splits for text in split.warnings]
    return Origin(protocol, seen, tuple(dict.fromkeys(warnings)))


def with_origin(judgement: Judgement, runs: list[Path], store: Store) -> Judgement:
    """Return the judgement with protocol, passport and warnings; contamination comes first."""
    protocol = "" if runs else out_of_fold(judgement.header)
    origin = origin_of([read_split(run / "split.parquet") for run in runs], store)
    if protocol:
        said = "each tile by a model that was not shown it, by what the table of scores says"
        leaky = {"random": OPTIMISTIC, "pseudo": GUESSED}
        origin = Origin(protocol, None, (said, *(text for word, text in leaky.items() if word in protocol)))
    return replace(
        judgement,
        protocol=origin.protocol,
        contaminated=origin.passport.is_contaminated if origin.passport else False,
        passport=origin.passport.as_dict() if origin.passport else {},
        warnings=(*origin.warnings, *remarks_on(judgement.header, runs, store), *judgement.warnings),
        header=judgement.header | {"runs_named": [run.name for run in runs], "test_store": store.digest},
    )


def remarks_on(header: dict[str, Any], runs: list[Path], store: Store) -> list[str]:
    """Return what a reader must know of scores and of the runs that made them: labels, classes, other stores, clipping."""
    warnings = list(store.remarks())
    if header.get("labels_overruled"):
        warnings.append(f"{header['labels_overruled']:,} labels of the scores differ from the store's, which were used")
    for run in runs:
        classes = tuple(map(str, read_json(run / "model.json").get("classes", ())))
        if classes != store.classes:
            here, there = (" and ".join(map(shown, names)) for names in (store.classes, classes))
            warnings.append(f"negative and positive are {here} here, {there} in the run {shown(run.name)}: taken as the same")
    if header.get("store") not in (None, store.digest):
        warnings.append("the scores were made on another store with the same ids")
    if header.get("clipped"):
        warnings.append(f"{header['clipped']:,} probabilities lie within 1e-7 of 0 or 1; only the logit column is affected")
    return warnings


def write_results(folder: Path, scores: Scores, floor: Floats | None, judgement: Judgement, gallery: Gallery | None) -> None:
    """Write scores.parquet, the figures, the page, and judgement.json last: a folder with it is finished."""
    write_json(folder / "unfinished.json", {"command": "evaluate"})
    if floor is not None:
        scores = replace(scores, table=scores.table.assign(floor_probability=floor))
    write_scores(folder / "scores.parquet", scores)
    write_report(folder, scores.table, judgement, gallery)
    write_json(folder / "judgement.json", judgement.as_dict())
    (folder / "unfinished.json").unlink()
