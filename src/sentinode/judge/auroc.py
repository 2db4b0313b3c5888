"""Area under the ROC curve by its exact rank statistic, its DeLong interval, average precision, and the curve's points."""

from statistics import NormalDist

import numpy as np

from sentinode.judge.inputs import Array, Floats, Ints, checked_pair

LEVEL = 0.95
"""Coverage that every interval aims at."""


def auroc(labels: Array, scores: Array) -> float:
    """Return the probability that a positive tile scores above a negative one, ties counting one half.

    Computed in whole numbers, so exact up to the last division. It is not a trapezoid over thinned thresholds.

    Parameters
    ----------
    labels
        [n], 0 or 1.
    scores
        [n], any finite real, higher means positive.

    Raises
    ------
    UndefinedScore
        If a class is absent or a score is not finite.

    Source: Mann and Whitney 1947; checked against scikit-learn's roc_auc_score.
    """
    labels, scores = checked_pair(labels, scores)
    positive, negative = tie_counts(labels, scores)
    below = np.cumsum(negative) - negative
    doubled = int(np.sum(positive * (2 * below + negative)))
    return doubled / (2 * int(positive.sum()) * int(negative.sum()))


def tie_counts(labels: Ints, scores: Floats) -> tuple[Ints, Ints]:
    """Return how many positive and negative tiles stand at each distinct score, ascending: int64 [k] each."""
    _, codes = np.unique(scores, return_inverse=True)
    total = np.bincount(codes)
    positive = np.bincount(codes[labels == 1], minlength=total.size)
    return positive.astype(np.int64), (total - positive).astype(np.int64)


def average_precision(labels: Array, scores: Array) -> float:
    """Return the mean precision over the positives, tied scores taken as one threshold; no interpolation.

    Sum over distinct thresholds of (recall step) x (precision there); 1 is perfect, the share of positives is chance.

    Parameters
    ----------
    labels
        [n], 0 or 1.
    scores
        [n], any finite real, higher means positive.

    Raises
    ------
    UndefinedScore
        If a class is absent or a score is not finite.

    Source: checked against scikit-learn's average_precision_score.
    """
    labels, scores = checked_pair(labels, scores)
    positive, negative = (counts[::-1] for counts in tie_counts(labels, scores))
    hits, alarms = np.cumsum(positive), np.cumsum(negative)
    return float(np.sum(positive * (hits / (hits + alarms))) / hits[-1])


def placements(labels: Ints, scores: Floats) -> tuple[Floats, Floats]:
    """Return each positive's share of negatives below it [P] and each negative's share of positives above it [N].

    Ties count one half; both means equal the AUROC. These are the structural components that DeLong's variance is made of.

    Source: Sun and Xu 2014, by mid-ranks in O(n log n).
    """
    positive, negative = tie_counts(labels, scores)
    _, codes = np.unique(scores, return_inverse=True)
    below = (np.cumsum(negative) - negative) + negative / 2
    above = (np.cumsum(positive[::-1])[::-1] - positive) + positive / 2
    return below[codes[labels == 1]] / negative.sum(), above[codes[labels == 0]] / positive.sum()


def delong(labels: Array, scores: Array) -> tuple[float, float]:
    """Return the AUROC and its variance under independent tiles.

    Raises
    ------
    UndefinedScore
        If a class is absent or a score is not finite.

    Source: DeLong, DeLong and Clarke-Pearson 1988; fast form by Sun and Xu 2014. A class of one tile has no variance: infinity.
    """
    labels, scores = checked_pair(labels, scores)
    of_positives, of_negatives = placements(labels, scores)
    if min(of_positives.size, of_negatives.size) < 2:
        return auroc(labels, scores), float("inf")
    variance = of_positives.var(ddof=1) / of_positives.size + of_negatives.var(ddof=1) / of_negatives.size
    return auroc(labels, scores), float(variance)


def tile_interval(labels: Array, scores: Array) -> tuple[float, float, str]:
    """Return a 95 % interval of the AUROC under independent tiles, and how it was made.

    DeLong's variance on the logit scale, which stays inside (0, 1) and covers better near 1 than the plain scale does. Where that
    variance is zero or not defined (classes perfectly separated, one tile of a class): Newcombe's score interval.

    Raises
    ------
    UndefinedScore
        If a class is absent or a score is not finite.

    Source: Pepe 2003, section 5.2 (logit scale); Newcombe 2006, Statistics in Medicine 25:559, method 5.
    """
    labels, scores = checked_pair(labels, scores)
    area, variance = delong(labels, scores)
    if not 0 < area < 1 or not 0 < variance < float("inf"):
        low, high = score_interval(area, int((labels == 1).sum()), int((labels == 0).sum()))
        return low, high, "Newcombe's score interval"
    centre = float(np.log(area / (1 - area)))
    reach = z_value() * variance**0.5 / (area * (1 - area))
    return expit(centre - reach), expit(centre + reach), "DeLong"


def z_value() -> float:
    """Return the normal quantile that belongs to LEVEL: 1.96 for 95 %."""
    return NormalDist().inv_cdf(0.5 + LEVEL / 2)


def expit(x: float) -> float:
    """Return 1 / (1 + exp(-x))."""
    return float(1 / (1 + np.exp(-x)))


def score_interval(area: float, n_positive: int, n_negative: int) -> tuple[float, float]:
    """Return Newcombe's 95 % interval of an AUROC of so many independent positives and negatives, at least 2 in all.

    Solves |area - t| = z sqrt(V(t)) on both sides of `area` by bisection.

    Source: Newcombe 2006, Statistics in Medicine 25:559, method 5.
    """
    half = (n_positive + n_negative) / 2 - 1

    def excess(t: float) -> float:
        spread = t * (1 - t) * (1 + half * (1 - t) / (2 - t) + half * t / (1 + t)) / (n_positive * n_negative)
        return float(abs(area - t) - z_value() * spread**0.5)

    ends = []
    for edge in (0.0, 1.0):
        inside, outside = area, edge
        for _ in range(60):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if excess(middle) < 0 else (inside, middle)
        ends.append(edge if area == edge else outside)
    return ends[0], ends[1]


def roc_points(labels: Array, scores: Array, limit: int = 400) -> tuple[Floats, Floats]:
    """Return false and true positive rates, ascending from (0, 0) to (1, 1), at most about `limit` points: for pictures.

    Thinning keeps the points nearest to even steps along the curve; areas are taken from `auroc`, never from these.

    Raises
    ------
    UndefinedScore
        If a class is absent or a score is not finite.
    """
    labels, scores = checked_pair(labels, scores)
    positive, negative = (counts[::-1] for counts in tie_counts(labels, scores))
    hits = np.concatenate([[0.0], np.cumsum(positive) / positive.sum()])
    alarms = np.concatenate([[0.0], np.cumsum(negative) / negative.sum()])
    if hits.size > limit:
        along = np.searchsorted(hits + alarms, np.linspace(0, 2, limit))
        keep = np.unique(np.concatenate([[0], np.minimum(along, hits.size - 1), [hits.size - 1]]))
        hits, alarms = hits[keep], alarms[keep]
    return alarms, hits
