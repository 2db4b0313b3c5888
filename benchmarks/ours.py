"""Our side of the feed and epoch suites: the product's own feed and step, on a packed store, one variant a process."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.clock import Measured
from benchmarks.peers import BATCH, MEAN, STD
from sentinode.machine.memory import peak_bytes, set_allocator

PEAK_S = 1.0
"""Seconds that the convolution peak is measured after each epoch."""


def open_feed(store: Path) -> Any:
    """Return the resident feed of a store's labelled tiles, as training makes it; the store is opened by its public format."""
    import torch

    from sentinode.fit.feed import Feed

    labels = pd.read_parquet(store / "rows.parquet", columns=["label"])["label"].to_numpy()
    rows = np.flatnonzero(labels >= 0)
    tiles = torch.from_numpy(np.load(store / "tiles.npy", mmap_mode="r")[rows])
    return Feed(tiles, np.arange(len(rows)), torch.from_numpy(labels[rows].astype(np.float32)))


def feeding(store: Path) -> Callable[[], Measured]:
    """Return a function that runs once through the store: rows gathered in random order, dihedral views, normalised."""
    set_allocator()
    import torch

    from sentinode.fit.augment import Augmentation, augmented
    from sentinode.fit.feed import epoch_order
    from sentinode.nets.transform import Preprocessing, Transform

    feed, epoch = open_feed(store), 0
    transform = Transform(Preprocessing(MEAN, STD), 96)
    chance, changes = torch.Generator().manual_seed(0), Augmentation(dihedral=True, colour=0.0, jpeg=0.0)

    def work() -> Measured:
        nonlocal epoch
        epoch += 1
        start, n, total = time.perf_counter(), 0, 0.0
        for tiles, _ in feed.batches(epoch_order(len(feed), BATCH, 0, epoch)):
            x = augmented(tiles, transform.mean, transform.std, changes, chance)
            n += len(x)
            total += float(x[0, 0, 0, 0])
        return {"seconds": time.perf_counter() - start, "n": n, "touched": total}

    work()
    return work


def copying(store: Path) -> Callable[[], Measured]:
    """Return a function that gathers the rows in random order and makes them float32: what no feed can do without."""
    set_allocator()
    from sentinode.fit.feed import epoch_order

    feed, epoch = open_feed(store), 0

    def work() -> Measured:
        nonlocal epoch
        epoch += 1
        start, n, total = time.perf_counter(), 0, 0.0
        for tiles, _ in feed.batches(epoch_order(len(feed), BATCH, 0, epoch)):
            x = tiles.float()
            n += len(x)
            total += float(x[0, 0, 0, 0])
        return {"seconds": time.perf_counter() - start, "n": n, "touched": total}

    work()
    return work


def with_share(work: Callable[[], Measured], operations: float, *precisions: str) -> Callable[[], Measured]:
    """Return `work`, after which the convolution peak is measured: the share of it that `operations` a tile are, at its rate.

    Of several precisions the one with the highest peak counts.
    """
    from sentinode.machine.probe import convolution_peak

    def measured() -> Measured:
        found = work()
        peak = max(convolution_peak("cpu", precision, PEAK_S) for precision in precisions)
        return found | {"peak_flop_per_s": peak, "share_of_peak": operations * found["n"] / found["seconds"] / peak}

    return measured


def epochs(
    model: Any, settings: Any, feed: Any, transform: Any, *, resident_bytes: int = 0, steps: int | None = None
) -> tuple[Callable[[], Measured], Any]:
    """Return a function that trains `model` for one epoch, or its first `steps`, as `sentinode train` does, and the plan.

    Two steps are taken before. The device is waited for at the end of each epoch.
    """
    import torch

    from sentinode.fit.feed import epoch_order
    from sentinode.fit.loop import take_step
    from sentinode.fit.measure import new_state, step_seconds
    from sentinode.machine.plan import make_plan

    plan = make_plan(
        settings,
        px=transform.input_px,
        resident_bytes=resident_bytes,
        positive_share=float(feed.labels.mean()),
        step_seconds=lambda plan: step_seconds(model, settings, plan, transform),
    )
    state, epoch = new_state(model, settings, plan), 0

    def taken(order: list[Any]) -> Measured:
        start, cpu, seen, loss = time.perf_counter(), time.process_time(), state.tiles_seen, state.loss_sum
        for batch in feed.batches(order):
            take_step(state, batch, transform, settings, plan)
        if plan.device.startswith("cuda"):
            torch.cuda.synchronize(plan.device)
        n = state.tiles_seen - seen
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
        return {"seconds": seconds, "cpu_seconds": cpu_seconds, "n": n, "loss": (state.loss_sum - loss) / n}

    def work() -> Measured:
        nonlocal epoch
        epoch += 1
        return taken(epoch_order(len(feed), settings.batch, 0, epoch)[:steps])

    taken(epoch_order(len(feed), settings.batch, 0, 0)[:2])
    return work, plan


def told(plan: Any) -> dict[str, Any]:
    """Return what a plan chose, and why, for a record."""
    chosen = {name: getattr(plan, name) for name in ("device", "precision", "micro_batch", "threads", "resident")}
    return {"plan": chosen, "reasons": plan.reasons}


def training(
    store: Path, *, precision: str, recipe: str, steps: int | None = None
) -> tuple[Callable[[], Measured], dict[str, Any]]:
    """Return a function that trains one epoch of the simple CNN with our step, and what the plan chose.

    `precision`: "auto" lets the plan measure and choose. `recipe`: "peer" augments as the peer does (views only), "default" as
    `sentinode train` does (colour too).
    """
    set_allocator()
    from sentinode.fit.measure import flop_per_tile
    from sentinode.nets.forward import placed
    from sentinode.nets.trained import build
    from sentinode.nets.transform import Preprocessing, Transform
    from sentinode.settings import TrainSettings, resolved, settings_from

    changes = {"colour": 0.0} if recipe == "peer" else {}
    settings = resolved(settings_from(TrainSettings, None, {"precision": precision, "batch": BATCH, **changes}))
    feed, transform = open_feed(store), Transform(Preprocessing(MEAN, STD), 96)
    model = placed(build(settings.model, {"dropout": settings.dropout}), "cpu")
    one, plan = epochs(model, settings, feed, transform, resident_bytes=feed.tiles.nbytes, steps=steps)
    operations = flop_per_tile(model, 96)
    work = with_share(lambda: one() | {"bytes": peak_bytes()}, operations, plan.precision)
    return work, told(plan) | {"flop_per_tile": operations}
