"""What every figure demands of its labels and scores before it computes anything."""

from typing import Any

import numpy as np
import numpy.typing as npt

from sentinode.errors import UndefinedScore, shown

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Array = npt.NDArray[Any]


def checked_pair(labels: Array, scores: Array, *, both_classes: bool = True, probability: bool = False) -> tuple[Ints, Floats]:
    """Return labels as int64 [n] of 0 and 1 and scores as finite float64 [n].

    Parameters
    ----------
    labels
        [n], 1 positive and 0 negative; unknown ones (-1) are left out beforehand.
    scores
        [n], higher means positive.
    both_classes
        Whether one class alone is refused.
    probability
        Whether scores outside [0, 1] are refused.

    Raises
    ------
    UndefinedScore
        If there is no tile, the lengths differ, a label is neither 0 nor 1, a class is absent, or a score is NaN, infinite or
        (where asked) outside [0, 1].
    """
    labels, scores = np.asarray(labels), np.asarray(scores)
    if labels.ndim != 1 or scores.ndim != 1 or labels.shape != scores.shape:
        raise UndefinedScore(
            "one score a label",
            f"labels of shape {labels.shape}, scores of {scores.shape}",
            "align the scores with the store first",
        )
    if labels.size == 0:
        raise UndefinedScore("at least one labelled tile", "none", "judge on a store whose labels are known")
    if not np.isin(labels, (0, 1)).all():
        wrong = labels[~np.isin(labels, (0, 1))][0]
        raise UndefinedScore("labels of 0 and 1", shown(wrong), "leave unknown tiles out first")
    numbers = scores.astype(np.float64)
    legal = (numbers >= 0) & (numbers <= 1) if probability else np.isfinite(numbers)
    if not legal.all():
        row = int(np.argmin(legal))
        raise UndefinedScore(
            "probabilities in [0, 1]" if probability else "finite scores",
            f"{shown(scores[row])} in row {row + 1} ({int((~legal).sum()):,} such rows)",
            "correct the predictions; a tile without one cannot be judged",
        )
    whole = labels.astype(np.int64)
    if both_classes and (whole.min() == whole.max()):
        raise UndefinedScore(
            "tiles of both classes",
            f"{whole.size:,} {'positive' if whole[0] else 'negative'} ones only",
            "judge on a store that has both, or look at a figure that needs one class only",
        )
    return whole, numbers


def two_of_each(labels: Ints) -> None:
    """Raise UndefinedScore unless each class has two tiles: one alone has no spread to measure a difference with."""
    n_positive = int(labels.sum())
    if min(n_positive, labels.size - n_positive) < 2:
        raise UndefinedScore(
            "at least two tiles of each class", f"{n_positive} positive of {labels.size}", "judge on more tiles of that class"
        )


def group_codes(groups: Array) -> tuple[Ints, int]:
    """Return codes int64 [n] of the groups in the order of their names, and how many groups there are."""
    names, codes = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    return codes.astype(np.int64), len(names)


def effective_number(counts: Floats) -> float:
    """Return how many equally large groups would share tiles as evenly as groups of `counts` [k] do: 1 / sum of squared shares.

    Source: Kish 1965.
    """
    shares = counts / counts.sum()
    return float(1 / (shares @ shares))
