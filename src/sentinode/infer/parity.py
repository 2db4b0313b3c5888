"""How far an exported file is from `predict`, and the tiles on which that is found out."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from sentinode.errors import RunProblem, shown
from sentinode.infer.ensemble import mean_logit
from sentinode.infer.graph import Apply, Tiles
from sentinode.nets.trained import Run
from sentinode.progress import Progress
from sentinode.scores import probability_of
from sentinode.tiles.store import open_store
from sentinode.tiles.synth import SMALLEST_PX, synthesise

CHECKED = 1000
"""Tiles it is compared on."""
TISSUE, NOISE, FLAT = 100, (0.0, 0.1, 0.2, 0.4, 0.8), 100
"""Of made ones: tissue tiles, shares of noise under which each stands, flat colours; the rest is noise alone."""


@dataclass(frozen=True)
class Parity:
    """How far a file is from `predict`: the largest difference in probability over `n` tiles, and which tiles they were."""

    largest_difference: float
    n: int
    tiles: str


def parity_tiles(px: int, store: str | Path | None) -> tuple[Tiles, str]:
    """Return uint8 [CHECKED, px, px, 3] and what they are: tiles spread over a store, filled up with made ones.

    Made ones go beyond what a network has seen: tissue alone and under growing noise, noise alone, and flat colours.
    """
    rng = np.random.default_rng(0)
    made = rng.integers(0, 256, (CHECKED, px, px, 3), dtype=np.uint8)
    made[-FLAT:] = rng.integers(0, 256, (FLAT, 1, 1, 3))
    tissue = synthesise(10, TISSUE // 10, px=max(px, SMALLEST_PX)).tiles[:, :px, :px]
    for number, share in enumerate(NOISE):
        part = made[number * TISSUE : (number + 1) * TISSUE]
        part[:] = tissue * (1 - share) + part * share
    words = "synthetic tissue, noise, flat colours"
    if store is None:
        return made, words
    opened = open_store(store)
    if opened.px != px:
        raise RunProblem(f"--tiles of {px} px, as the run was trained on", f"{opened.px} px", "name another store")
    rows = np.unique(np.linspace(0, len(opened) - 1, min(CHECKED, len(opened))).astype(int))
    whole = np.concatenate([opened.tiles[rows], made[len(rows) :]])
    return whole, f"{len(rows):,} of {shown(opened.path.name)}" + (f", {words}" if len(rows) < CHECKED else "")


def largest_difference(apply: Apply, runs: list[Run], tiles: Tiles, views: int, progress: Progress) -> float:
    """Return the largest difference in probability between a written file and `predict`; NaN if either gives one.

    The file gets batches of 1, 3 and then 64 tiles, so that a batch frozen in tracing cannot pass.
    """
    cuts = [0, 1, 4, *range(4 + 64, len(tiles), 64), len(tiles)]
    parts = [tiles[a:b] for a, b in pairwise(cuts) if a < b]
    differences = []
    with progress.track("checking", len(tiles)) as done:
        for part in parts:
            expected = probability_of(mean_logit([run.logits(part, views=views).astype(np.float64) for run in runs]))
            found = apply(part)
            if found.shape != expected.shape or found.dtype != np.float32:
                return float("nan")
            differences.append(float(np.abs(found - expected).max()))
            done(len(part))
    return float(np.max(differences))
