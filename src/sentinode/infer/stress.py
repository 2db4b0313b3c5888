"""What changed tiles do to the mean logit of runs: the eight views one by one, and any change of pixels."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sentinode.nets.forward import VIEWS, view
from sentinode.nets.trained import Run

Tiles = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
CHUNK = 512
"""Tiles changed at a time; bounds the memory."""


def logits_of(runs: list[Run], tiles: Tiles, change: Callable[[Tiles], Tiles], batch: int = 64) -> Floats:
    """Return the mean logit [n] of `runs` for tiles uint8 [n, px, px, 3] after `change`, which keeps number, size and type."""
    found = [np.zeros(0)]
    for start in range(0, len(tiles), CHUNK):
        changed = change(np.array(tiles[start : start + CHUNK]))
        found.append(np.mean([run.logits(changed, batch).astype(np.float64) for run in runs], axis=0))
    return np.concatenate(found)


def logits_of_views(runs: list[Run], tiles: Tiles, done: Callable[[int], Any] = lambda _: None) -> Floats:
    """Return the mean logit of each dihedral view by itself, float64 [n, 8]; `done` is told the tiles of each view."""
    columns = []
    for number in VIEWS[8]:
        columns.append(logits_of(runs, tiles, lambda part, at=number: view(torch.from_numpy(part), at).contiguous().numpy()))  # type: ignore[misc]
        done(len(tiles))
    return np.stack(columns, axis=1)
