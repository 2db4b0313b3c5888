"""The floor: what colour alone reaches. A histogram of 512 colours and boosted trees; no shape, no network, no torch.

A model that does not beat it has learned no more than the stain.
"""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sentinode.errors import RunProblem, UndefinedScore, shown
from sentinode.run import replacing
from sentinode.tiles.split import sample_positions
from sentinode.tiles.store import Store

Tiles = npt.NDArray[np.uint8]
Histograms = npt.NDArray[np.uint16]
"""uint16 [n, 512]: pixels of each colour; bin 64 r + 8 g + b of the three highest bits of each channel."""

N_COLOURS = 512
"""8 steps a channel."""
MOST_TILES = 8000
"""Training tiles whose histograms a run keeps for its floor."""
CHUNK = 256
"""Tiles turned into histograms at a time."""
SETTINGS: dict[str, Any] = {"max_iter": 100, "learning_rate": 0.1, "max_leaf_nodes": 31, "early_stopping": False}
"""Of scikit-learn's HistGradientBoostingClassifier. Nothing is chosen: the floor costs no validation tiles."""


def colour_histogram(tiles: Tiles, rows: npt.NDArray[np.int64] | None = None) -> Histograms:
    """Return how many pixels of each tile have each of 512 colours, uint16 [n, 512]; counts above 65,535 stay there.

    Parameters
    ----------
    tiles
        uint8 [n, px, px, 3]; a memory map is read in small pieces.
    rows
        Positions of the tiles wanted; all by default.
    """
    rows = np.arange(len(tiles)) if rows is None else rows
    histograms = np.empty((len(rows), N_COLOURS), np.uint16)
    for start in range(0, len(rows), CHUNK):
        steps = tiles[rows[start : start + CHUNK]] >> 5
        colour = (steps[..., 0].astype(np.uint16) << 6) | (steps[..., 1].astype(np.uint16) << 3) | steps[..., 2]
        for at, tile in enumerate(colour.reshape(len(colour), -1), start=start):
            histograms[at] = np.minimum(np.bincount(tile, minlength=N_COLOURS), 65535)
    return histograms


@dataclass(frozen=True)
class Floor:
    """Boosted trees over colour histograms, fitted on `n` tiles."""

    model: Any
    n: int

    def probability(self, histograms: Histograms) -> npt.NDArray[np.float64]:
        """Return the probability of the positive class by colour alone, float64 [n]."""
        return np.asarray(self.model.predict_proba(histograms.astype(np.float32))[:, 1], dtype=np.float64)


def fit_floor(histograms: Histograms, labels: npt.NDArray[Any], seed: int = 0) -> Floor:
    """Fit the floor; the same histograms, labels and seed give the same floor.

    Parameters
    ----------
    histograms
        uint16 [n, 512] of the training tiles.
    labels
        [n], 0 or 1.
    seed
        Of the binning.

    Raises
    ------
    UndefinedScore
        If a class is absent.

    Source: scikit-learn's HistGradientBoostingClassifier with `SETTINGS`.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    labels = np.asarray(labels)
    if len(labels) != len(histograms) or not np.isin(labels, (0, 1)).all() or len(np.unique(labels)) < 2:
        raise UndefinedScore(
            "training tiles of both classes for the colour floor",
            f"labels {', '.join(shown(v) for v in np.unique(labels)[:5])} of {len(histograms):,} tiles",
            "take the floor from a run or store with both classes",
        )
    model = HistGradientBoostingClassifier(random_state=seed, **SETTINGS)
    return Floor(model.fit(histograms.astype(np.float32), labels), len(labels))


def floor_rows(ids: list[str], labels: npt.NDArray[Any], seed: int = 0) -> npt.NDArray[np.int64]:
    """Return the positions of at most 8,000 labelled tiles, ascending, classes in proportion; by a seeded hash of the id."""
    known = int((np.asarray(labels) >= 0).sum())
    # One fewer a class than the share allows, since each class rounds up.
    share = Fraction(1) if known <= MOST_TILES else Fraction(MOST_TILES - 2, known)
    return sample_positions(ids, labels, share, seed)


def keep_floor_sample(path: Path, store: Store, rows: npt.NDArray[np.int64]) -> None:
    """Write floor.npz from the training tiles at positions `rows` of `store`: histograms of at most 8,000 of them, and labels."""
    ids = store.rows["id"].astype(str).to_numpy()[rows].tolist()
    labels = store.rows["label"].to_numpy()[rows]
    kept = floor_rows(ids, labels)
    save_floor_sample(path, colour_histogram(store.tiles, rows[kept]), labels[kept])


def save_floor_sample(path: Path, histograms: Histograms, labels: npt.NDArray[Any]) -> None:
    """Write what the floor is fitted from to floor.npz, whole or not at all: histograms uint16 [n, 512] and labels int8 [n].

    The trees themselves are not written: they would need a pickle. Fitting again takes seconds and gives the same floor.
    """
    with replacing(path) as temporary, temporary.open("wb") as handle:
        np.savez_compressed(handle, histograms=histograms.astype(np.uint16), labels=np.asarray(labels, np.int8))


def load_floor(path: Path, seed: int = 0) -> Floor:
    """Read floor.npz and fit the floor again.

    Raises
    ------
    RunProblem
        If the file is missing, cut, or holds something else.
    """
    import zipfile
    import zlib

    try:
        with np.load(path, allow_pickle=False) as archive:
            histograms, labels = archive["histograms"], archive["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise RunProblem(
            f"colour histograms in {shown(path)}", shown(error), "name a run or store for --floor, or train again"
        ) from error
    if histograms.dtype != np.uint16 or histograms.shape != (labels.size, N_COLOURS) or labels.ndim != 1:
        raise RunProblem(
            f"uint16 histograms [n, {N_COLOURS}] in {shown(path)}",
            f"{histograms.dtype} {shown(histograms.shape)}",
            "name a run or store for --floor, or train again",
        )
    return fit_floor(histograms, labels, seed)
