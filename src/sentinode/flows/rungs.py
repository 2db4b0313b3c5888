"""The rungs of the ladder: each is made once, kept in a folder, and scored on the tiles that chose and on those that judge."""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from sentinode.errors import RunProblem, UndefinedScore, UsageProblem, nearest, shown
from sentinode.fit.parts import Parts
from sentinode.fit.probe import colour_histogram, keep_floor_sample, load_floor
from sentinode.fit.train import train
from sentinode.flows.attempts import attempt, attempts_at, extracted_all, seconds_of
from sentinode.judge.bootstrap import weights_in_chunks
from sentinode.judge.statement import TILES, Slides, slides_of
from sentinode.machine.plan import choose_device
from sentinode.nets.trained import Run, weights_digest
from sentinode.progress import Progress
from sentinode.run import read_json, write_json
from sentinode.scores import Scores, logit_of, probability_of, read_scores, write_scores
from sentinode.settings import RUNGS, LadderSettings, TrainSettings, resolved
from sentinode.tiles.store import Store

Floats = npt.NDArray[np.float64]

SAMPLED = "simple-cnn-5-percent"
"""The study's simple CNN on a 5 % sample: trained beside the rungs."""
TITLES = {
    "floor": "colour floor",
    "simple-cnn": "simple CNN",
    "p4m-cnn": "equivariant CNN",
    "frozen": "frozen backbone",
    "finetune": "fine-tuned backbone",
    "ensemble": "ensemble",
    SAMPLED: "simple CNN, 5 % sample",
}
"""How the rungs are called."""
HEADS = {"logistic": "logistic regression", "linear": "a dense head", "mlp": "a hidden layer and a dense head"}
"""How the heads on a backbone are called; fine-tuning begins with them."""
OWN = ("simple-cnn", "p4m-cnn")
"""Rungs whose network is our own: settings that concern backbones do not reach them."""
OF_BACKBONES = ("weights", "input_size", "head", "feature_views", "freeze", "layer_decay", "recalibrate_bn", "features")
"""Those settings."""
CLOCK = {"simple-cnn": 2, "p4m-cnn": 3, "finetune": 5, SAMPLED: 1}
"""Parts of `minutes` that each training gets. The floor, and features of a frozen backbone, take what they need."""
MEMBER = "finetune-"
"""How the names of runs begin that are fine-tuned for the ensemble alone."""
VIEWS = 8
"""Dihedral views over which the ensemble's members are averaged."""
CHUNK = 1024
"""Tiles that are read from the store at a time."""


def chosen_rungs(text: str) -> tuple[str, ...]:
    """Return the rungs that `text` names, from the lowest; UsageProblem for a name that is none, or for none at all."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in RUNGS:
            raise UsageProblem(f"rungs among {', '.join(RUNGS)}", shown(name), nearest(name, list(RUNGS)))
    if not names:
        raise UsageProblem("rungs to climb", "none", "name some in --rungs, or leave --rungs out")
    return tuple(name for name in RUNGS if name in names)


def settings_of(rung: str, settings: LadderSettings, trained: Sequence[str]) -> TrainSettings:
    """Return what `rung` is trained with: the ladder's settings, its own network, and its part of the minutes of all `trained`."""
    plain = TrainSettings(**{one.name: getattr(settings, one.name) for one in dataclasses.fields(TrainSettings)})
    defaults = {one.name: one.default for one in dataclasses.fields(TrainSettings)}
    minutes = None
    if settings.minutes is not None and rung in CLOCK:
        minutes = settings.minutes * CLOCK[rung] / sum(map(clock_of, trained))
    changes: dict[str, Any] = {"minutes": minutes}
    if rung == SAMPLED:
        changes["sample"] = "5%"
    if rung in OWN or rung == SAMPLED:
        own = "simple-cnn" if rung == SAMPLED else rung
        changes |= {name: defaults[name] for name in OF_BACKBONES} | {"model": own, "backbone": "scratch"}
    else:
        changes |= {"backbone": rung}
    return resolved(dataclasses.replace(plain, **changes))


def clock_of(name: str) -> int:
    """Return the parts of `minutes` that a training gets; a member of the ensemble gets those of the fine-tuned rung."""
    return CLOCK["finetune"] if name.startswith(MEMBER) else CLOCK.get(name, 0)


@dataclass(frozen=True)
class Part:
    """Tiles that rungs are judged on: `valid`, which also chose, or `test`, which did not. `rows` int64 [n] are the labelled."""

    name: str
    store: Store
    rows: npt.NDArray[np.int64]
    slides: Slides

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Labels [n], 0 or 1."""
        return self.store.rows["label"].to_numpy(np.int64)[self.rows]

    def scores(self, logits: Floats, header: dict[str, Any]) -> Scores:
        """Return logits [n] as a table of scores of this part."""
        table = self.store.rows.iloc[self.rows][["id", "group", "label"]].reset_index(drop=True)
        columns = {"logit": logits, "probability": probability_of(logits)}
        return Scores(pd.DataFrame(table).assign(**columns), header | {"store": self.store.digest, "part": self.name})


def part_of(name: str, store: Store, rows: npt.NDArray[np.int64], resamples: int) -> Part:
    """Return a part, after a look at its unit of chance: slides, or tiles where resampled slides lack a class too often.

    Raises UndefinedScore if a class has fewer than two tiles, with which no two rungs could be compared.
    """
    labels, groups = store.rows["label"].to_numpy()[rows], store.rows["group"].astype(str).to_numpy()[rows]
    n_positive, n_negative = int((labels == 1).sum()), int((labels == 0).sum())
    if min(n_positive, n_negative) < 2:
        raise UndefinedScore(
            f"at least two tiles of each class to judge on in {name}",
            f"{n_positive:,} positive and {n_negative:,} negative in {shown(store.path)}",
            "name a store that has both",
        )
    slides = slides_of(groups)
    if slides.usable:
        of_class = [np.bincount(slides.codes[labels == label], minlength=slides.n).astype(float) for label in (1, 0)]
        try:
            for _ in weights_in_chunks(of_class[0], of_class[1], resamples):
                pass
        except UndefinedScore as error:
            why = f"no interval over {slides.n} slides ({error.found}): every interval {TILES}"
            slides = Slides(slides.codes, slides.n, False, (why,))
    return Part(name, store, rows, slides)


@dataclass(frozen=True)
class Climbed:
    """A rung that was reached: its logits [n] by part, and what it cost.

    `views` holds the logits over eight views, where an ensemble needs them. Rates are tiles a second; 0 where there is none.
    `tiles` is how many trained it. `lack`: what is missing in the minutes, "" where they are whole.
    """

    name: str
    title: str
    logits: dict[str, Floats]
    minutes: float
    train_rate: float
    predict_rate: float
    megabytes: float
    weights: int
    network: str = ""
    head: str = ""
    tiles: int = 0
    lack: str = ""
    notes: tuple[str, ...] = ()
    views: dict[str, Floats] = dataclasses.field(default_factory=dict)
    views_rate: float = 0.0


def climb_floor(folder: Path, parts: Parts, judged: Sequence[Part]) -> Climbed:
    """Fit the floor on at most 8,000 training tiles and score the parts by colour alone."""
    home, began = folder / "rungs" / "floor", time.perf_counter()
    if not (home / "rung.json").is_file():
        with attempt(folder, "floor"):
            keep_floor_sample(home / "floor.npz", *parts.train)
            floor = load_floor(home / "floor.npz")
        seconds = time.perf_counter() - began
        write_json(home / "rung.json", {"seconds": seconds, "tiles_per_s": floor.n / seconds})
    cost, floor = read_json(home / "rung.json"), load_floor(home / "floor.npz")
    logits, began = {}, time.perf_counter()
    for part in judged:
        logits[part.name] = logit_of(floor.probability(colour_histogram(part.store.tiles, part.rows)))
        header = {"rung": "floor", "note": "colour alone"}
        write_scores(folder / "scores" / f"floor-{part.name}.parquet", part.scores(logits[part.name], header))
    return Climbed(
        name="floor",
        title=TITLES["floor"],
        logits=logits,
        minutes=cost["seconds"] / 60,
        train_rate=cost["tiles_per_s"],
        predict_rate=sum(len(part.rows) for part in judged) / (time.perf_counter() - began),
        megabytes=(home / "floor.npz").stat().st_size / 1e6,
        weights=0,
    )


def train_rung(folder: Path, name: str, store: Store, settings: TrainSettings, valid: str | None, progress: Progress) -> Run:
    """Train a rung into DIR/rungs/NAME, go on with an unfinished one, or open a finished one."""
    home = folder / "rungs" / name
    unfinished, there = (home / "unfinished.json").exists(), (home / "run.json").exists()
    if there and not unfinished:
        return train(store, out=home, valid=valid, settings=settings, resume=True, quiet=progress.quiet)
    with attempt(folder, name, features_folders(settings, store, valid)):
        return train(store, out=home, valid=valid, settings=settings, resume=unfinished, quiet=progress.quiet)


def features_folders(settings: TrainSettings, store: Store, valid: str | None) -> list[Path]:
    """Return where a training keeps its features, as `extract` decides it."""
    if settings.features:
        return [Path(settings.features)]
    stores = [store.path, *([Path(valid)] if valid else [])]
    return [path.with_name(path.name.removesuffix(".store") + ".features") for path in stores]


def climb(folder: Path, run: Run, judged: Sequence[Part], *, title: str, views: bool, device: str, progress: Progress) -> Climbed:
    """Score the parts with a trained run, over eight views as well where an ensemble will need them."""
    name, cost = run.path.name, run.record["cost"]
    ids = pd.read_parquet(run.path / "valid.parquet", columns=["id"])["id"]
    expected = judged[0].store.rows["id"].to_numpy()[judged[0].rows]
    if set(ids) != set(expected):
        raise RunProblem(
            f"{shown(run.path)} to have chosen on the ladder's validation tiles", "other tiles", "start anew with --overwrite"
        )
    attempts = attempts_at(folder, name)
    split = pd.read_parquet(run.path / "split.parquet", columns=["digest", "part"])
    needed = split.loc[split["part"].isin(["train", "valid"]), "digest"].nunique()  # equal tiles are extracted once
    seconds, lack = seconds_of(cost, attempts, needed)
    notes = [f"its minutes are at least these: {lack}"] if lack else []
    if run.record["settings"]["backbone"] == "finetune" and attempts and not extracted_all(attempts, needed):
        notes.append("its head began on features that were there already, whose extraction is not in its minutes")
    logits, rates = {}, []
    for part in judged:
        logits[part.name], rate = scored(folder, run, part, 1, device, progress)
        rates.append(rate)
    turned, turned_rates = {}, [0.0]
    if views:
        several = [scored(folder, run, part, VIEWS, device, progress) for part in judged]
        turned = {part.name: one for part, (one, _) in zip(judged, several, strict=True)}
        turned_rates = [rate for _, rate in several]
    return Climbed(
        name=name,
        title=title,
        network=run.facts.network,
        head=HEADS[run.record["settings"]["head"]] if run.record["settings"]["backbone"] != "scratch" else "a dense head",
        tiles=run.record["data"]["train"]["n"],
        lack=lack,
        notes=tuple(notes),
        logits=logits,
        minutes=seconds / 60,
        train_rate=cost["tiles_per_s"],
        predict_rate=rates[-1],
        megabytes=(run.path / "model.safetensors").stat().st_size / 1e6,
        weights=sum(one.numel() for one in run.model.parameters()),
        views=turned,
        views_rate=turned_rates[-1],
    )


def scored(folder: Path, run: Run, part: Part, views: int, device: str, progress: Progress) -> tuple[Floats, float]:
    """Return the logits [n] of a part by a run, and tiles a second; what was scored before is read."""
    suffix = "" if views == 1 else f"-{views}-views"
    path = folder / "scores" / f"{run.path.name}-{part.name}{suffix}.parquet"
    header = {"rung": run.path.name, "runs": [weights_digest(run.path)], "views": views}
    wanted = header | {"store": part.store.digest}
    if path.exists():
        found = read_scores(path)
        if wanted.items() <= found.header.items() and len(found) == len(part.rows):
            return found.table["logit"].to_numpy(np.float64), float(found.header["tiles_per_s"])
    run.model.to(choose_device(device)[0])
    began, kept = time.perf_counter(), []
    with progress.track(f"scoring {part.name} by {run.path.name}, {views} view{'s' * (views > 1)}", len(part.rows)) as done:
        for start in range(0, len(part.rows), CHUNK):
            kept.append(run.logits(part.store.tiles[part.rows[start : start + CHUNK]], views=views, done=done))
    logits = np.concatenate(kept).astype(np.float64)
    rate = len(logits) / (time.perf_counter() - began)
    write_scores(path, part.scores(logits, header | {"tiles_per_s": rate}))
    return logits, rate
