"""Where to cut: a threshold chosen on valid, and what a stated one gives. Called positive is `probability >= threshold`."""

import numpy as np

from sentinode.errors import UndefinedScore, shown
from sentinode.judge.auroc import tie_counts, z_value
from sentinode.judge.inputs import Array, checked_pair


def youden_threshold(labels: Array, probability: Array) -> float:
    """Return the threshold that maximises sensitivity + specificity; chosen on valid, never on test.

    It lies midway between the lowest score called positive and the next one below, so that rounding moves no tile. Among equal
    maxima the highest is taken.

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

    Source: Youden 1950.
    """
    labels, probability = checked_pair(labels, probability, probability=True)
    positive, negative = tie_counts(labels, probability)
    sensitivity = np.cumsum(positive[::-1])[::-1] * int(negative.sum())
    false_alarms = np.cumsum(negative[::-1])[::-1] * int(positive.sum())
    gain = sensitivity - false_alarms
    return _midway(np.unique(probability), int(np.flatnonzero(gain == gain.max())[-1]))


def sensitivity_threshold(labels: Array, probability: Array, at_least: float) -> float:
    """Return the highest threshold whose sensitivity is at least `at_least`; chosen on valid, never on test.

    Raises
    ------
    UndefinedScore
        If a class is absent, a probability is not in [0, 1], or `at_least` is not in (0, 1].
    """
    labels, probability = checked_pair(labels, probability, probability=True)
    if not 0 < at_least <= 1:
        raise UndefinedScore("a sensitivity in (0, 1]", shown(at_least), "ask for one, such as 0.95")
    positive, _ = tie_counts(labels, probability)
    reached = np.cumsum(positive[::-1])[::-1] / positive.sum()
    return _midway(np.unique(probability), int(np.flatnonzero(reached >= at_least)[-1]))


def cost_threshold(labels: Array, probability: Array, missed: float, alarm: float) -> float:
    """Return the threshold of the least cost: `missed` for a positive called negative, `alarm` for the reverse; chosen on valid.

    Costs are of these tiles with their share of positives; where a clinic's share is another, the costs must say so. Among equal
    costs the highest threshold is taken.

    Raises
    ------
    UndefinedScore
        If a class is absent, a probability is not in [0, 1], or a cost is not above 0.
    """
    labels, probability = checked_pair(labels, probability, probability=True)
    if not (0 < missed < float("inf") and 0 < alarm < float("inf")):
        raise UndefinedScore("two costs above 0", f"{shown(missed)} and {shown(alarm)}", "state how much worse a miss is, as 5:1")
    positive, negative = tie_counts(labels, probability)
    below = np.cumsum(positive) - positive
    above = np.cumsum(negative[::-1])[::-1]
    cost = missed * below + alarm * above
    return _midway(np.unique(probability), int(np.flatnonzero(cost == cost.min())[-1]))


def sensitivity_at(labels: Array, scores: Array, specificity: int) -> float:
    """Return the highest sensitivity that any threshold reaches whose specificity is at least `specificity` per cent.

    The threshold is one between tied runs of these very scores, never within one, and calls nothing positive if need be. It says
    how well the scores rank, not what a threshold that was fixed beforehand gives: for that see `sensitivity`.

    Parameters
    ----------
    labels
        [n], 0 or 1.
    scores
        [n], any finite real, higher means positive.
    specificity
        Whole per cent, 1 to 100: counts are then compared exactly.

    Raises
    ------
    UndefinedScore
        If a class is absent, a score is not finite, or `specificity` is no whole per cent from 1 to 100.

    Source: checked against the points of scikit-learn's roc_curve.
    """
    labels, scores = checked_pair(labels, scores)
    if not isinstance(specificity, int) or not 1 <= specificity <= 100:
        raise UndefinedScore("a specificity in whole per cent, 1 to 100", shown(specificity), "ask for one, such as 95")
    positive, negative = tie_counts(labels, scores)
    hits, alarms = np.cumsum(positive[::-1]), np.cumsum(negative[::-1])
    allowed = 100 * alarms <= (100 - specificity) * alarms[-1]
    return float(hits[allowed].max(initial=0) / hits[-1])


def _midway(distinct: Array, at: int) -> float:
    """Return the middle between a distinct score and the one below; the score itself where no number lies between."""
    if at == 0:
        return float(distinct[0])
    middle = (float(distinct[at - 1]) + float(distinct[at])) / 2
    return middle if middle > distinct[at - 1] else float(distinct[at])


def accuracy(labels: Array, probability: Array, threshold: float) -> float:
    """Return the share of tiles called right at `threshold`; [n] labels of 0 and 1, [n] probabilities."""
    labels, probability = checked_pair(labels, probability, probability=True)
    return float(np.mean((probability >= threshold) == (labels == 1)))


def sensitivity(labels: Array, probability: Array, threshold: float) -> float:
    """Return the share of positive tiles called positive at `threshold`; [n] labels of 0 and 1, [n] probabilities."""
    labels, probability = checked_pair(labels, probability, probability=True)
    return float(np.mean(probability[labels == 1] >= threshold))


def specificity(labels: Array, probability: Array, threshold: float) -> float:
    """Return the share of negative tiles called negative at `threshold`; [n] labels of 0 and 1, [n] probabilities."""
    labels, probability = checked_pair(labels, probability, probability=True)
    return float(np.mean(probability[labels == 0] < threshold))


def wilson_interval(n_right: int, n: int) -> tuple[float, float]:
    """Return the 95 % score interval of a share of `n` independent tiles, in [0, 1].

    Raises
    ------
    UndefinedScore
        If there are no tiles.

    Source: Wilson 1927.
    """
    if n < 1 or not 0 <= n_right <= n:
        raise UndefinedScore("a count among at least one tile", f"{n_right} of {n}", "judge on a store with labelled tiles")
    z, share = z_value(), n_right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    # At the ends the formula is 0 or 1 up to rounding.
    return (0.0 if n_right == 0 else centre - reach), (1.0 if n_right == n else centre + reach)
