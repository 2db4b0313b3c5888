"""Bands around the ROC, precision-recall and reliability curves, and each slide by itself: resampled like every interval.

Tiles are counted into cells of equal rank once. A resample of slides then is a product of weights and counts, and a resample of
independent tiles a draw from the multinomial over the cells, which is the same in distribution and does not grow with the tiles.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sentinode.errors import UndefinedScore
from sentinode.judge.auroc import LEVEL, auroc
from sentinode.judge.bootstrap import RESAMPLES, weights_in_chunks
from sentinode.judge.calibrate import BINS, mass_bins
from sentinode.judge.inputs import Array, Floats, Ints, checked_pair
from sentinode.judge.statement import TILES, Interval, Slides, slide_method
from sentinode.judge.threshold import wilson_interval

CELLS = 512
"""Thresholds at most: cells of about equal numbers of tiles, equal scores together. Fewer distinct scores are kept exactly."""
GRID = np.linspace(0, 1, 101)
"""Where on the horizontal axis a curve's band is given."""
MOST_EMPTY = 0.01
"""Share of resamples in which a bin may be empty; beyond it the bin has no band."""


@dataclass(frozen=True)
class Band:
    """A pointwise 95 % band: `low` and `high` over `x`, float64 [101] each."""

    x: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Bands:
    """The bands of both curves, and how they were made."""

    roc: Band
    precision_recall: Band
    method: str


def curve_bands(labels: Array, probability: Array, slides: Slides, resamples: int = RESAMPLES, seed: int = 0) -> Bands:
    """Return pointwise bands: sensitivity at each share of false alarms, precision at each sensitivity.

    Over slides where they are usable and their resamples have both classes; otherwise over tiles, labelled so.

    Parameters
    ----------
    labels
        [n], 0 or 1.
    probability
        [n], in [0, 1].
    slides
        Of the same n tiles.
    resamples, seed
        Of the bootstrap.

    Raises
    ------
    UndefinedScore
        If a class is absent, a probability is not in [0, 1], or tiles are too few to resample.

    Source: vertical averaging of Fawcett 2006, section 7, with percentiles in place of the mean.
    """
    labels, probability = checked_pair(labels, probability, probability=True)
    cell = (
        mass_bins(probability, CELLS) if np.unique(probability).size > CELLS else np.unique(probability, return_inverse=True)[1]
    )
    n_cells = int(cell.max()) + 1
    counts, method = resampled_counts(2 * cell + labels, 2 * n_cells, (labels, slides), resamples, seed)
    negative, positive = (counts[:, at::2][:, ::-1].cumsum(axis=1) for at in (0, 1))
    none = np.zeros((len(counts), 1))
    alarms = np.hstack([none, negative / negative[:, -1:]])
    hits = np.hstack([none, positive / positive[:, -1:]])
    roc = np.stack([np.interp(GRID, x, y) for x, y in zip(alarms, hits, strict=True)])
    precision = positive / np.maximum(positive + negative, 1)
    # The highest threshold whose sensitivity reaches each point of the grid; the first point asks for any hit at all.
    asked = np.maximum(GRID, 1e-9) - 1e-12
    reached = np.stack([p[np.searchsorted(y[1:], asked)] for p, y in zip(precision, hits, strict=True)])
    return Bands(band_of(roc), band_of(reached), method)


def band_of(values: Floats) -> Band:
    """Return the pointwise percentiles of curves [r, 101]."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return Band(GRID, low, high)


def resampled_counts(cell: Ints, n_cells: int, units: tuple[Ints, Slides], resamples: int, seed: int) -> tuple[Floats, str]:
    """Return how many tiles each resample has in each cell, float64 [r, n_cells], and how it was resampled.

    `cell` is each tile's, int64 [n]; `units` are the labels [n] and the slides.
    """
    labels, slides = units
    if not slides.usable:
        return tile_counts(cell, n_cells, labels, resamples, seed)
    each = np.bincount(slides.codes * n_cells + cell, minlength=slides.n * n_cells).reshape(slides.n, n_cells).astype(np.float64)
    positives = np.bincount(slides.codes, weights=labels, minlength=slides.n).astype(np.float64)
    try:
        chunks = list(weights_in_chunks(positives, each.sum(axis=1) - positives, resamples, seed))
    except UndefinedScore:
        # Slides too few for both classes: the judgement's warnings say so, and tiles stand in for slides there as here.
        return tile_counts(cell, n_cells, labels, resamples, seed)
    return np.concatenate([weights.astype(np.float64) @ each for weights in chunks]), slide_method(resamples)


def tile_counts(cell: Ints, n_cells: int, labels: Ints, resamples: int, seed: int) -> tuple[Floats, str]:
    """Return resampled counts as `resampled_counts` does, of independent tiles; the number in each class stays as it is."""
    counts = np.zeros((resamples, n_cells))
    rng = np.random.default_rng(seed)
    for label in (0, 1):
        share = np.bincount(cell[labels == label], minlength=n_cells)
        counts += rng.multinomial(int(share.sum()), share / share.sum(), size=resamples)
    return counts, f"tile bootstrap within classes ({resamples} resamples), {TILES}"


def reliability_bands(
    labels: Array, probability: Array, slides: Slides, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Interval | None, ...]:
    """Return the interval over slides of the share of positives in each bin of `reliability`, in its order.

    None where a resample lacks the bin too often, and everywhere where slides are not usable: there the bin's Wilson interval,
    which assumes independent tiles, is all there is.

    Raises
    ------
    UndefinedScore
        If a class is absent or a probability is not in [0, 1].
    """
    labels, probability = checked_pair(labels, probability, probability=True)
    bins = mass_bins(probability, BINS)
    kept = np.unique(bins)
    if not slides.usable:
        return (None,) * kept.size
    counts, method = resampled_counts(2 * bins + labels, 2 * BINS, (labels, slides), resamples, seed)
    if TILES in method:
        return (None,) * kept.size
    found: list[Interval | None] = []
    for at in kept:
        n = counts[:, 2 * at] + counts[:, 2 * at + 1]
        there = n > 0
        if (~there).mean() > MOST_EMPTY:
            found.append(None)
            continue
        low, high = np.quantile(counts[there, 2 * at + 1] / n[there], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        found.append(Interval(float(low), float(high), method))
    return tuple(found)


@dataclass(frozen=True)
class SlideRow:
    """One slide: tiles, positives, share called right with its Wilson interval over tiles, and AUROC (None with one class only)."""

    group: str
    n: int
    n_positive: int
    accuracy: float
    low: float
    high: float
    auroc: float | None
    mean_probability: float

    def as_dict(self) -> dict[str, Any]:
        """Return all of it, for JSON."""
        return asdict(self)


def slide_rows(labels: Array, probability: Array, groups: Array, threshold: float) -> list[SlideRow]:
    """Return each known slide by itself, the surely worst first: by the upper end of the interval of the share called right.

    Two wrong tiles of two say less than fifty of a hundred, so the share alone is not what sorts. Ties go to the AUROC, then to the
    name. Tiles of unknown slide ("") are not a slide.

    Raises
    ------
    UndefinedScore
        If there is no tile, a label is neither 0 nor 1, or a probability is not in [0, 1].
    """
    labels, probability = checked_pair(labels, probability, both_classes=False, probability=True)
    names = np.asarray(groups).astype(str)
    order = np.argsort(names, kind="stable")
    known, first = np.unique(names[order], return_index=True)
    rows = []
    for name, at in zip(known, np.split(order, first[1:]), strict=True):
        if name == "":
            continue
        y, p = labels[at], probability[at]
        n_right = int(((p >= threshold) == (y == 1)).sum())
        low, high = wilson_interval(n_right, y.size)
        area = auroc(y, p) if 0 < y.sum() < y.size else None
        rows.append(SlideRow(str(name), y.size, int(y.sum()), n_right / y.size, low, high, area, float(p.mean())))
    return sorted(rows, key=lambda row: (row.high, 1.0 if row.auroc is None else row.auroc, row.group))
