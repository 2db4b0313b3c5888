"""Rates of the steps between images and a trained network, each measured for a moment: tiles per second."""

import math
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from sentinode.errors import StoreProblem, shown
from sentinode.fit.augment import Augmentation, augmented
from sentinode.fit.feed import Feed, epoch_order
from sentinode.fit.measure import GREY, step_seconds
from sentinode.machine.disk import scattered_speed
from sentinode.machine.plan import Plan
from sentinode.nets.forward import placed
from sentinode.nets.trained import build
from sentinode.nets.transform import Transform
from sentinode.settings import TrainSettings
from sentinode.tiles.store import BACK, Store, Tiles

TRIAL_READS = 4096
"""Most tiles that are read to measure how fast that goes."""


def feed_rate(tiles: Tiles, settings: TrainSettings, plan: Plan, seconds: float = 0.5) -> float:
    """Return tiles per second gathered in random order from `tiles` uint8 [n, px, px, 3], augmented and normalised on the device.

    Resident or from the memory map, as `plan` says; nothing is done with the batches.
    """
    device = plan.device
    source = torch.from_numpy(np.array(tiles)).to(device) if plan.resident else tiles
    feed = Feed(source, np.arange(len(tiles)), torch.zeros(len(tiles), device=device))
    changes = Augmentation(settings.dihedral, settings.colour, settings.jpeg)
    transform = Transform(GREY, tiles.shape[1]).to(device)
    chance = torch.Generator().manual_seed(settings.seed)
    done, epoch, start = 0, 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for some, _ in feed.batches(epoch_order(len(feed), settings.batch, settings.seed, epoch)):
            done += len(augmented(some, transform.mean, transform.std, changes, chance))
        epoch += 1
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return done / (time.perf_counter() - start)


def read_rate(store: Store, rows: npt.NDArray[np.int64], seconds: float = 0.5) -> tuple[float, str]:
    """Return tiles per second read one by one from the store's file, in random order, and what gave them; inf of tiles in memory."""
    tiles, size = store.tiles, store.px * store.px * 3
    if not isinstance(tiles, np.memmap) or tiles.filename is None:
        return math.inf, "memory"
    some = rows[np.random.default_rng(0).integers(0, len(rows), TRIAL_READS)]
    try:
        rate, cold = scattered_speed(Path(tiles.filename), (tiles.offset + int(row) * size for row in some), size, seconds)
    except OSError as error:
        raise StoreProblem(f"tiles.npy of {shown(store.path)} to stay readable", str(error.strerror), BACK) from error
    return rate, "the disk" if cold else "the disk, or what the system kept of it,"


def train_rate(settings: TrainSettings, plan: Plan, px: int = 96) -> float:
    """Return tiles per second of training steps of the settings' network under `plan`, tiles at hand."""
    model = placed(build(settings.model, {"dropout": settings.dropout}), plan.device)
    return settings.batch / step_seconds(model, settings, plan, Transform(GREY, px))


def pack_rate(source: Path, out: Path) -> tuple[float, Tiles]:
    """Return tiles per second of packing `source` to the store `out`, digests and checks included, and the packed tiles."""
    from sentinode.tiles.pack import pack

    start = time.perf_counter()
    store = pack(source, out=out, quiet=True)
    return len(store) / (time.perf_counter() - start), store.tiles
