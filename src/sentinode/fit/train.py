"""The command `train`: settings, data, plan, model, loop, record, in this order."""

import dataclasses
import functools
import hashlib
import json
import math
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from sentinode.errors import RunProblem, SplitProblem, UsageProblem, shown
from sentinode.fit.checkpoint import Interruption, interruption, read_checkpoint, write_checkpoint
from sentinode.fit.feed import make_feed
from sentinode.fit.loop import Judge, Progressing, fit
from sentinode.fit.measure import GREY, new_state, step_seconds
from sentinode.fit.probe import keep_floor_sample
from sentinode.fit.record import finish, write_history
from sentinode.judge.auroc import auroc
from sentinode.machine.memory import set_allocator
from sentinode.machine.plan import Plan, make_plan
from sentinode.nets.forward import Logits, logits, placed
from sentinode.nets.trained import ModelFacts, Run, build, load
from sentinode.nets.transform import Preprocessing, Transform
from sentinode.progress import Progress, Tick
from sentinode.run import claim_folder, read_json, write_json
from sentinode.settings import TrainSettings, settings_from
from sentinode.tiles.passport import with_passport
from sentinode.tiles.split import Split, given_split, make_split, sample_rows
from sentinode.tiles.store import Store, open_store


@dataclass(frozen=True)
class Parts:
    """Who trains and who chooses: the split (of both stores, one behind the other), and each part's store and rows (int64 [n])."""

    split: Split
    train: tuple[Store, npt.NDArray[np.int64]]
    valid: tuple[Store, npt.NDArray[np.int64]]

    def passport(self) -> Split:
        """Return the split with digests, of all tiles that train or choose, that survive turning and mirroring."""
        whole = self.split
        if self.valid[0] is self.train[0]:
            return with_passport(whole, self.train[0].tiles)
        n = len(self.train[0])
        halves = [dataclasses.replace(whole, table=table.reset_index(drop=True)) for table in (whole.table[:n], whole.table[n:])]
        tables = [
            with_passport(half, store.tiles).table for half, (store, _) in zip(halves, (self.train, self.valid), strict=True)
        ]
        return dataclasses.replace(whole, table=pd.concat(tables, ignore_index=True))


def train(
    store: str | Path | Store,
    *,
    out: str | Path,
    valid: str | Path | None = None,
    settings: TrainSettings | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    **options: Any,
) -> Run:
    """Train a network on a packed store and write it, with its record, as a run folder.

    Parameters
    ----------
    store
        A store with labels; tiles whose label is unknown are left out.
    out
        The run folder to write.
    valid
        A store that chooses (epoch, threshold); without it a part of `store` is split off, by slide where all are known.
    settings, options
        A `TrainSettings`, and single settings by name over it.
    resume
        Go on with an unfinished run of the same settings and tiles; a finished one is opened.
    overwrite
        Replace a run of that name.
    quiet
        Say nothing.

    Returns
    -------
    Run
        The best network by validation AUROC, with its record.

    Raises
    ------
    UsageProblem, StoreProblem, SplitProblem, RunProblem, MachineProblem
        For settings, tiles, splits, folders and machines that do not fit.
    """
    began = time.perf_counter()
    set_allocator()
    settings = checked(settings_from(TrainSettings, settings, options))
    progress, folder = Progress(quiet), Path(out)

    parts = choose_parts(store, valid, settings)
    fingerprint = fingerprint_of(settings, parts)
    if claim_folder(folder, "run.json", resume=resume, overwrite=overwrite) and not (folder / "unfinished.json").exists():
        return load(folder)

    plan = resumed_plan(folder, fingerprint, settings) or plan_for(parts, settings, progress)
    torch.set_num_threads(plan.threads)
    kept = {"fingerprint": fingerprint, "settings": dataclasses.asdict(settings), "plan": dataclasses.asdict(plan)}
    write_json(folder / "unfinished.json", kept)
    keep_floor_sample(folder / "floor.npz", *parts.train)
    preprocessing = colours_of(*parts.train)
    transform = Transform(preprocessing, parts.train[0].px).to(plan.device)
    facts = ModelFacts(
        network=settings.model,
        arguments={"dropout": settings.dropout},
        preprocessing=preprocessing,
        px=parts.train[0].px,
        classes=parts.train[0].classes,
        logit_shift=float(np.log(plan.positive_share / (1 - plan.positive_share))) if settings.balance else 0.0,
    )

    torch.manual_seed(settings.seed)
    network = placed(build(facts.network, facts.arguments), plan.device)
    state = new_state(network, settings, plan)
    if (folder / "resume" / "state.safetensors").exists():
        read_checkpoint(folder / "resume" / "state.safetensors", state, fingerprint)
        progress.say(f"resumed at epoch {state.epoch + 1}, step {state.step}")
    else:
        state.seconds = time.perf_counter() - began

    feeds = [make_feed(of, rows, device=plan.device, resident=plan.resident) for of, rows in (parts.train, parts.valid)]
    judge = Judge(feeds[1], functools.partial(score, feeds[1].labels.cpu().numpy(), facts.logit_shift))
    with interruption() as asked, training_bar(progress, settings, len(feeds[0])) as tick:
        keeper = Keeper(folder, fingerprint, settings, progress, asked, len(feeds[0]), tick)
        fit(state, feeds[0], judge, transform, settings, plan, keeper)
    state.average.load_state_dict(state.best)
    raw = logits(state.average, feeds[1].in_order(64), transform)
    return finish(folder, state, raw, facts, parts, settings, plan)


def checked(settings: TrainSettings) -> TrainSettings:
    """Return `settings` if their numbers can be meant; UsageProblem names the first that cannot."""
    ranges = {
        "valid_share": (0.0, 1.0),
        "warmup": (0.0, 1.0),
        "dropout": (0.0, 1.0),
        "ema": (0.0, 1.0),
        "jpeg": (0.0, 1.0),
        "colour": (0.0, 5.0),
        "lr": (0.0, 100.0),
    }
    for name, (low, high) in ranges.items():
        if not low <= getattr(settings, name) <= high:
            raise UsageProblem(
                f"{name} between {low:g} and {high:g}", str(getattr(settings, name)), f"change --{name.replace('_', '-')}"
            )
    least = {
        "epochs": 1,
        "batch": 1,
        "patience": 0,
        "seed": 0,
        "micro_batch": 0,
        "threads": 0,
        "weight_decay": 0,
        "checkpoint_s": 0,
    }
    for name, low in least.items():
        if not low <= getattr(settings, name) < math.inf:
            raise UsageProblem(f"{name} of at least {low}", str(getattr(settings, name)), f"change --{name.replace('_', '-')}")
    if settings.minutes is not None and not 0 < settings.minutes < math.inf:
        raise UsageProblem("minutes above 0", str(settings.minutes), "change --minutes, or use --epochs")
    return settings


def choose_parts(store: str | Path | Store, valid: str | Path | None, settings: TrainSettings) -> Parts:
    """Open the stores and decide who trains and who chooses; the sample is drawn from the tiles that train."""
    source = store if isinstance(store, Store) else open_store(store)
    if valid is None:
        split = make_split(source.rows, settings.split, valid_share=settings.valid_share, seed=settings.seed)
        split = sample_rows(split, settings.sample, seed=settings.seed)
        return Parts(split, (source, split.rows_of("train")), (source, split.rows_of("valid")))
    chooser = open_store(valid)
    if (chooser.px, chooser.classes) != (source.px, source.classes):
        raise SplitProblem(
            f"tiles of {source.px} px with classes {shown(source.classes)} in --valid",
            f"{chooser.px} px with classes {shown(chooser.classes)}",
            "pack both stores the same way",
        )
    split = sample_rows(given_split(source.rows, chooser.rows), settings.sample, seed=settings.seed)
    return Parts(split, (source, split.rows_of("train")), (chooser, split.rows_of("valid") - len(source)))


def fingerprint_of(settings: TrainSettings, parts: Parts) -> str:
    """Return a digest of what decides a run: settings and tiles."""
    facts = [dataclasses.asdict(settings), parts.train[0].digest, parts.valid[0].digest]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def resumed_plan(folder: Path, fingerprint: str, settings: TrainSettings) -> Plan | None:
    """Return the plan that an unfinished run of this fingerprint was started with: going on under another would change it."""
    path = folder / "unfinished.json"
    if not path.exists():
        return None
    kept = read_json(path)
    if kept.get("fingerprint") != fingerprint:
        now, then = dataclasses.asdict(settings), kept.get("settings", {})
        changed = [f"{name} {shown(now[name])}, not {shown(value)}" for name, value in then.items() if now.get(name) != value]
        raise UsageProblem(
            f"the settings and tiles that {shown(folder)} was started with",
            "; ".join(changed) or "other tiles",
            "resume with the same command, or start anew with --overwrite",
        )
    return Plan(**kept["plan"])


def plan_for(parts: Parts, settings: TrainSettings, progress: Progress) -> Plan:
    """Make the plan and say it."""
    store, rows = parts.train
    trial = placed(build(settings.model, {"dropout": settings.dropout}), "cpu")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    plan = make_plan(
        settings,
        px=store.px,
        resident_bytes=(len(rows) + len(parts.valid[1])) * store.px * store.px * 3,
        positive_share=float((store.rows["label"].to_numpy()[rows] == 1).mean()),
        step_seconds=lambda plan: step_seconds(trial, settings, plan, Transform(GREY, store.px)),
    )
    for line in (f"{len(rows):,} tiles train, {len(parts.valid[1]):,} choose ({parts.split.how} split)", *parts.split.warnings):
        progress.say(line)
    for line in ("plan:", *plan.lines()):
        progress.say(line)
    return plan


def colours_of(store: Store, rows: npt.NDArray[np.int64]) -> Preprocessing:
    """Return mean and standard deviation of the colours (scaled 0 to 1) of at most 4,096 training tiles, evenly spaced."""
    some = rows[:: -(-len(rows) // 4096)]
    total, squares, count = np.zeros(3), np.zeros(3), 0
    for part in np.array_split(some, -(-len(some) // 256)):
        pixels = store.tiles[part].reshape(-1, 3).astype(np.float64) / 255
        total, squares, count = total + pixels.sum(0), squares + (pixels**2).sum(0), count + len(pixels)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1e-4))
    r, g, b = (round(float(v), 6) for v in mean)
    u, v, w = (round(float(x), 6) for x in std)
    return Preprocessing((r, g, b), (u, v, w))


def score(labels: npt.NDArray[np.float32], shift: float, raw: Logits) -> tuple[float, float]:
    """Return (binary cross-entropy, AUROC) of raw logits [n], the prevalence put back by `shift`."""
    if not np.isfinite(raw).all():
        raise RunProblem(
            "a training that stays finite",
            f"{int((~np.isfinite(raw)).sum()):,} of {len(raw):,} validation logits that are not",
            "start anew with --overwrite and a lower --lr",
        )
    x = raw.astype(np.float64) + shift
    loss = np.mean(np.logaddexp(0, x) - labels * x)
    return float(loss), auroc(labels.astype(np.int64), x)


def training_bar(progress: Progress, settings: TrainSettings, n_train: int) -> AbstractContextManager[Tick]:
    """Return a bar over all tiles to be trained, or over the seconds of `minutes`; off a terminal the line an epoch is enough."""
    if settings.minutes is not None:
        return progress.track("training", round(60 * settings.minutes), "s", lines=False)
    return progress.track("training", settings.epochs * n_train, lines=False)


class Keeper:
    """What happens between steps: checkpoints, the history file, bar and lines, and the end that a signal asks for."""

    def __init__(
        self,
        folder: Path,
        fingerprint: str,
        settings: TrainSettings,
        progress: Progress,
        asked: Interruption,
        n_train: int,
        tick: Tick,
    ) -> None:
        self.checkpoint = functools.partial(write_checkpoint, folder / "resume" / "state.safetensors", fingerprint=fingerprint)
        self.folder, self.settings, self.progress, self.asked, self.n_train = folder, settings, progress, asked, n_train
        self.tick, self.ticked, self.saved = tick, 0, time.monotonic()

    def __call__(self, state: Progressing, when: str) -> None:
        """Keep `state` after a step or an epoch."""
        by_clock = self.settings.minutes is not None
        at = int(state.seconds) if by_clock else state.epoch * self.n_train + state.tiles_seen
        self.tick(at - self.ticked)
        self.ticked = at
        due = when == "epoch" or time.monotonic() - self.saved >= self.settings.checkpoint_s
        if due or self.asked.asked:
            self.checkpoint(state=state)
            self.saved = time.monotonic()
        if when == "epoch":
            write_history(self.folder / "history.csv", state.history)
            self.progress.say(self.line(state), always=bool(state.stopped_by))
        if self.asked.asked and not state.stopped_by:
            self.progress.say("interrupted: nothing is lost; the same command with --resume goes on", always=True)
            raise KeyboardInterrupt

    def line(self, state: Progressing) -> str:
        """Return the epoch's line."""
        last = state.history[-1]
        best = " (best)" if state.best_epoch + 1 == last["epoch"] else ""
        of = "" if self.settings.minutes is not None else f"/{self.settings.epochs}"
        return (
            f"epoch {last['epoch']}{of}: train loss {last['train_loss']:.4f}, valid loss {last['valid_loss']:.4f}, "
            f"valid AUROC {last['valid_auroc']:.4f}{best}, {state.seconds:.0f} s"
        )
