"""Do probabilities mean what they say: Brier loss, expected calibration error, and the table behind a reliability diagram."""

import math
from dataclasses import dataclass

import numpy as np

from sentinode.judge.clusters import mean_error
from sentinode.judge.inputs import Array, Floats, Ints, checked_pair
from sentinode.judge.threshold import wilson_interval

BINS = 15
"""Bins of equal mass: about as many tiles in each, however the probabilities crowd. Guo et al. 2017 used 15, of equal width."""


@dataclass(frozen=True)
class ReliabilityBin:
    """One bin: `n` tiles, their mean probability, the share of them that is positive, and its Wilson interval over tiles."""

    n: int
    mean_probability: float
    share_positive: float
    low: float
    high: float


def brier_loss(labels: Array, probability: Array) -> float:
    """Return the mean squared distance between probability and label: 0 is perfect, 0.25 is what always saying 0.5 gets.

    Parameters
    ----------
    labels
        [n], 0 or 1.
    probability
        [n], in [0, 1].

    Raises
    ------
    UndefinedScore
        If a class is absent or a probability is not in [0, 1].

    Source: Brier 1950, two-class form; checked against scikit-learn's brier_score_loss.
    """
    labels, probability = checked_pair(labels, probability, probability=True)
    return float(np.mean((probability - labels) ** 2))


def mass_bins(probability: Floats, n_bins: int = BINS) -> Ints:
    """Return each tile's bin, int64 [n] in 0..n_bins-1: by the middle of its rank, so that equal probabilities share a bin.

    Many equal probabilities leave some bins empty; those do not count.
    """
    _, codes, counts = np.unique(probability, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2
    return np.minimum(n_bins * middle / probability.size, n_bins - 1).astype(np.int64)[codes]


def ece(labels: Array, probability: Array, n_bins: int = BINS) -> float:
    """Return the expected calibration error over 15 bins of equal mass: mean over tiles of |mean probability - share positive|.

    It is biased upwards: a perfectly calibrated model gets more than 0, the more so the fewer tiles there are.

    Parameters
    ----------
    labels
        [n], 0 or 1.
    probability
        [n], in [0, 1].
    n_bins
        Bins of about equal numbers of tiles.

    Raises
    ------
    UndefinedScore
        If a class is absent or a probability is not in [0, 1].

    Source: Naeini, Cooper and Hauskrecht 2015; Guo et al. 2017.
    """
    labels, probability = checked_pair(labels, probability, probability=True)
    gaps = np.bincount(mass_bins(probability, n_bins), weights=probability - labels, minlength=n_bins)
    return float(np.abs(gaps).sum() / labels.size)


def ece_debiased(labels: Array, probability: Array, codes: Ints | None = None, n_bins: int = BINS) -> float:
    """Return the calibration error less most of what chance alone adds to it, at least 0.

    A bin's gap is the sum of the true one and a nearly normal error, so its absolute value is on average that of a folded normal. What
    this exceeds the gap by is taken off: `2 |gap| - E|N(gap, s)|`, weighed by the tiles of the bin, s the error's standard deviation.
    Of a perfectly calibrated model this leaves 2 - sqrt(2) = 0.59 of the plain error; of one that is clearly off, nothing of what
    chance adds.

    Parameters
    ----------
    labels
        [n], 0 or 1.
    probability
        [n], in [0, 1].
    codes
        Slide of each tile, int64 [n]: the error is then that of slides. None: of independent tiles.
    n_bins
        As for `ece`.

    Raises
    ------
    UndefinedScore
        If a class is absent or a probability is not in [0, 1].

    Source: Kumar, Liang and Ma 2019, section 4 and appendix D (there by drawing; the mean of a folded normal is known in closed form),
    with the variance of clusters of Liang and Zeger 1986.
    """
    labels, probability = checked_pair(labels, probability, probability=True)
    bins = mass_bins(probability, n_bins)
    units = np.arange(labels.size) if codes is None else codes
    total = 0.0
    for at in np.unique(bins):
        inside = bins == at
        off = (probability - labels)[inside]
        n, gap = off.size, abs(float(off.mean()))
        total += n * (2 * gap - folded_mean(gap, mean_error(off, units[inside])))
    return max(0.0, total / labels.size)


def folded_mean(mean: float, deviation: float) -> float:
    """Return the mean of |x| where x is normal. Source: Leone, Nelson and Nottingham 1961."""
    if deviation <= 0:
        return abs(mean)
    z = mean / deviation
    return deviation * math.sqrt(2 / math.pi) * math.exp(-z * z / 2) + mean * math.erf(z / math.sqrt(2))


def reliability(labels: Array, probability: Array, n_bins: int = BINS) -> list[ReliabilityBin]:
    """Return the bins that hold a tile, ascending in probability.

    Raises
    ------
    UndefinedScore
        If a class is absent or a probability is not in [0, 1].
    """
    labels, probability = checked_pair(labels, probability, probability=True)
    codes = mass_bins(probability, n_bins)
    table = []
    for code in np.unique(codes):
        inside = codes == code
        n, n_positive = int(inside.sum()), int(labels[inside].sum())
        low, high = wilson_interval(n_positive, n)
        table.append(ReliabilityBin(n, float(probability[inside].mean()), n_positive / n, low, high))
    return table
