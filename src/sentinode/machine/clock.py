"""The clock of `--minutes`: what a training costs by measured rates, and what fits before the deadline. Arithmetic; nothing is measured.

It is planned backwards: from the deadline go the record, the last scores and a validation; before these stand as many steps as are
left; before the first step stands what each tile costs once. Where too little is left for some passes over all tiles, fewer train.
"""

import dataclasses
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

AIM = 0.985
"""Share of the minutes that is planned for: what is not foreseen takes the rest, and a little early is better than late."""
LEAST_EPOCHS = 4
"""Passes over the training tiles that a plan should have time for, so that there are epochs to choose from."""
LEAST_TILES = 200
"""Fewer tiles than these are never taken, where there are as many."""
CHOOSING_SHARE = 0.25
"""Most of the time that goes to the tiles that choose."""

_began: ContextVar[float | None] = ContextVar("began", default=None)


@contextmanager
def counting_from(began: float) -> Iterator[None]:
    """Let the clock of the one training inside have started at `began` (`time.perf_counter`): a command starts before its imports end."""
    token = _began.set(began)
    try:
        yield
    finally:
        _began.reset(token)


def running() -> float:
    """Return the seconds that this process has run already, where Linux tells them; 0 elsewhere."""
    try:
        started = int(Path("/proc/self/stat").read_text("utf-8").rpartition(")")[2].split()[19])  # field 22, in ticks since boot
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, IndexError, ValueError):
        return 0.0


def start_of_clock() -> float:
    """Return when the clock of a job that begins now has started, by `time.perf_counter`."""
    began = _began.get()
    return time.perf_counter() if began is None else began


@dataclass(frozen=True)
class Costs:
    """What a training takes, in seconds, as measured on this machine.

    `step`: an optimiser step on `batch` tiles. `features`: of a training tile, that the head begins with, and `exact` of one that
    chooses. `validate`: of a tile that chooses, each time; `last`: its score in plain fp32, which decides the threshold. `digest`:
    what a run keeps of a tile. `before` and `record`: all that does not grow with tiles before the first step and after the last.
    """

    step: float
    batch: int
    validate: float
    last: float
    digest: float
    record: float
    features: float = 0.0
    exact: float = 0.0
    before: float = 0.0

    def at_size(self, px: int, of: int) -> "Costs":
        """Return the costs where the network sees `px` and not `of`: its arithmetic grows with the square."""
        names = ("step", "validate", "last", "features", "exact")
        return dataclasses.replace(self, **{name: (px / of) ** 2 * getattr(self, name) for name in names})

    def end(self, train: int, choose: int) -> float:
        """Return the seconds between the last validation and the end of the command."""
        return self.record + choose * self.last + (train + choose) * self.digest


@dataclass(frozen=True)
class Fit:
    """What fits before a deadline: tiles that train, tiles that choose, passes over the former."""

    train: int
    choose: int
    epochs: float

    def enough(self, least: int) -> bool:
        """Return whether at least so many tiles train for `LEAST_EPOCHS`."""
        return self.train >= least and self.epochs >= LEAST_EPOCHS * 0.999


def fit_before(deadline: float, costs: Costs, n_train: int, n_choose: int, *, sampled: bool = True) -> Fit:
    """Return what fits into `deadline` seconds from now, of `n_train` tiles that may train and `n_choose` that may choose.

    Where time is short fewer tiles train, for `LEAST_EPOCHS` passes. With `sampled` False all of them do, however short.
    """
    left = max(deadline - costs.before - costs.record, 0.0)
    once, step = costs.exact + costs.last + costs.digest, costs.step / costs.batch
    room = int(CHOOSING_SHARE * left / max(once + LEAST_EPOCHS * costs.validate, 1e-12))
    choose = min(n_choose, max(LEAST_TILES, room))
    left -= choose * once
    room = int(max(left - LEAST_EPOCHS * choose * costs.validate, 0) / (costs.features + costs.digest + LEAST_EPOCHS * step))
    train = min(n_train, max(LEAST_TILES, room)) if sampled else n_train
    left -= train * (costs.features + costs.digest)
    return Fit(train, choose, max(left, 0.0) / (train * step + choose * costs.validate))


@dataclass(frozen=True)
class Picked:
    """What `minutes` decided: settings by name, how many tiles choose (0: all), the precision that was measured, reasons by name.

    `end` and `validation` are the seconds that the record and a validation are expected to take.
    """

    changes: dict[str, Any] = field(default_factory=dict)
    choosers: int = 0
    precision: str = ""
    end: float = 0.0
    validation: float = 0.0
    reasons: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return one line a choice, with its reason."""
        return [f"  {name}: {why}" for name, why in self.reasons.items()]
