"""Who trains and who chooses, and what decides a run: the part of `train` that is the same for every network."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from sentinode.errors import SplitProblem, UsageProblem, shown
from sentinode.run import read_json
from sentinode.settings import TrainSettings, sample_of
from sentinode.tiles.holdout import Held, hold
from sentinode.tiles.passport import with_passport
from sentinode.tiles.split import Split, given_split, make_split, sample_rows
from sentinode.tiles.store import Store, open_store


@dataclass(frozen=True)
class Parts:
    """Who trains and who chooses: the split (of both stores, one behind the other), and each part's store and rows (int64 [n])."""

    split: Split
    train: tuple[Store, npt.NDArray[np.int64]]
    valid: tuple[Store, npt.NDArray[np.int64]]

    @property
    def positive_share(self) -> float:
        """Share of positives among the training tiles."""
        store, rows = self.train
        return float((store.rows["label"].to_numpy()[rows] == 1).mean())

    def labels(self, part: Literal["train", "valid"]) -> npt.NDArray[np.int64]:
        """Return the labels 0 or 1, int64 [n], of a part."""
        store, rows = getattr(self, part)
        return np.asarray(store.rows["label"].to_numpy()[rows], np.int64)

    def lines(self) -> tuple[str, ...]:
        """Return how many tiles train and choose, and what to beware of."""
        counts = f"{len(self.train[1]):,} tiles train, {len(self.valid[1]):,} choose ({self.split.how} split)"
        return (counts, *self.split.warnings)

    def passport(self) -> Split:
        """Return the split with digests, of all tiles that train or choose, that survive turning and mirroring."""
        whole = self.split
        for store, _ in (self.train, self.valid):
            store.check()
        if self.valid[0] is self.train[0]:
            return with_passport(whole, self.train[0].tiles)
        n = len(self.train[0])
        halves = [dataclasses.replace(whole, table=table.reset_index(drop=True)) for table in (whole.table[:n], whole.table[n:])]
        tables = [
            with_passport(half, store.tiles).table for half, (store, _) in zip(halves, (self.train, self.valid), strict=True)
        ]
        return dataclasses.replace(whole, table=pd.concat(tables, ignore_index=True))


def choose_parts(store: str | Path | Store, valid: str | Path | None, settings: TrainSettings) -> Parts:
    """Open the stores and decide who trains and who chooses; the sample is drawn from the tiles that train.

    Of a fold that is held out nothing trains or chooses.
    """
    source = store if isinstance(store, Store) else open_store(store)
    source.need_tiles()
    if settings.domains is not None and not settings.fold:
        raise UsageProblem("--fold with the name of a domain beside --domains", "none", "name the domain that is held out")
    held = hold(source.rows, settings.fold, settings.split, settings.domains) if settings.fold else None
    left_out = None if held is None else held.rows
    if valid is None:
        split = make_split(source.rows, settings.split, settings.valid_share, settings.seed, left_out)
        split = sample_rows(with_folds(warned(split, source), held), sample_of(settings), seed=settings.seed)
        return Parts(split, (source, split.rows_of("train")), (source, split.rows_of("valid")))
    chooser = open_store(valid)
    if (chooser.px, chooser.classes) != (source.px, source.classes):
        raise SplitProblem(
            f"tiles of {source.px} px with classes {shown(source.classes)} in --valid",
            f"{chooser.px} px with classes {shown(chooser.classes)}",
            "pack both stores the same way",
        )
    split = with_folds(warned(given_split(source.rows, chooser.rows, left_out), source, chooser), held)
    split = sample_rows(split, sample_of(settings), seed=settings.seed)
    return Parts(split, (source, split.rows_of("train")), (chooser, split.rows_of("valid") - len(source)))


def warned(split: Split, *stores: Store) -> Split:
    """Return the split with what is to be said of the stores themselves."""
    return dataclasses.replace(split, warnings=(*split.warnings, *(text for store in stores for text in store.remarks())))


def fewer(parts: Parts, settings: TrainSettings, choosers: int) -> Parts:
    """Return the parts with the sample of `settings` of the tiles that train, and `choosers` of those that choose, 0 for all."""
    split, before = sample_rows(parts.split, sample_of(settings), seed=settings.seed), len(parts.train[0])
    if choosers:
        split = sample_rows(split, str(choosers), seed=settings.seed, part="valid")
    (store, _), (chooser, _) = parts.train, parts.valid
    return Parts(split, (store, split.rows_of("train")), (chooser, split.rows_of("valid") - (0 if chooser is store else before)))


def with_folds(split: Split, held: Held | None) -> Split:
    """Return the split with each tile's fold and what is to be said of the one that is held out; as it is where none is."""
    if held is None:
        return split
    fold = np.full(len(split.table), -1, np.int16)
    fold[: len(held.rows)] = held.folds.fold
    said = f"fold {shown(held.name)} is held out: {len(held.judged()):,} tiles neither train nor choose"
    return dataclasses.replace(split, table=split.table.assign(fold=fold), warnings=(*split.warnings, said, *held.warnings))


def deciding(settings: TrainSettings) -> dict[str, Any]:
    """Return the settings that decide what comes of a training: all but where it keeps what it can make again."""
    return {name: value for name, value in dataclasses.asdict(settings).items() if name != "features"}


def fingerprint_of(settings: TrainSettings, parts: Parts, weights: str) -> str:
    """Return a digest of what decides a run: settings, tiles and the digest of the pretrained weights."""
    facts = [deciding(settings), parts.train[0].digest, parts.valid[0].digest, weights]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def unfinished(folder: Path, fingerprint: str, settings: TrainSettings) -> dict[str, Any]:
    """Return what an unfinished run in `folder` kept, {} where there is none.

    Raises UsageProblem if it was started with another fingerprint: going on would mix two runs.
    """
    path = folder / "unfinished.json"
    if not path.exists():
        return {}
    kept = read_json(path)
    if kept.get("fingerprint") != fingerprint:
        now, then = deciding(settings), kept.get("settings", {})
        changed = [
            f"{name} {shown(now[name])}, not {shown(then[name])}" for name in now if name in then and then[name] != now[name]
        ]
        raise UsageProblem(
            f"the settings and tiles that {shown(folder)} was started with",
            "; ".join(changed) or "other tiles",
            "resume with the same command, or start anew with --overwrite",
        )
    return kept
