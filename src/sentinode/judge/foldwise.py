"""The mean AUROC over folds, each judged by a model that was not shown it, with an interval over the slides of all folds.

A slide is in one fold, so that folds are independent given their models and variances add up. What the interval does not hold is
the luck of training on these slides rather than others: the models share most of their training tiles, and no unbiased estimate of
that share exists.

Source: Bengio and Grandvalet 2004, JMLR 5:1089 (no unbiased estimator); Welch 1947 and Satterthwaite 1946 (degrees of freedom of a
sum of variances); LeDell, Petersen and van der Laan 2015, Electronic Journal of Statistics 9:1583 (the mean over folds and its variance).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinode.errors import UndefinedScore
from sentinode.judge.auroc import score_interval
from sentinode.judge.clusters import Pulls, combined, on_logit_scale, pulls_of, t_value
from sentinode.judge.inputs import Array, Floats
from sentinode.judge.statement import TILES, Figure, Slides, slides_of


@dataclass(frozen=True)
class Fold:
    """One fold's tiles: labels [n] 0 or 1, scores [n] of the model that was not shown them, of colour alone [n], slides [n]."""

    name: str
    labels: npt.NDArray[np.int64]
    scores: Floats
    floor: Floats
    groups: Array


def unit_of(folds: Sequence[Fold]) -> str:
    """Return "" if slides can be the unit of chance in every fold, else why tiles are: said in every interval's method."""
    try:
        for fold in folds:
            pulls_of(fold.labels, fold.scores, slides_of(fold.groups))
    except UndefinedScore:
        return TILES
    return ""


def mean_over_folds(folds: Sequence[Fold]) -> tuple[Figure, Figure, Figure]:
    """Return the mean AUROC over folds, that of colour alone, and their mean difference, each with a 95 % interval.

    The variance is that of clustered DeLong in each fold, or of plain DeLong where slides are not known in all.

    Raises
    ------
    UndefinedScore
        If there are fewer than two folds, one lacks a class or has one tile of it, or a score is not finite.
    """
    if len(folds) < 2:
        raise UndefinedScore("at least two folds", str(len(folds)), "cross-validate with more")
    why = unit_of(folds)
    parts = []
    for fold in folds:
        n = fold.labels.size
        slides = Slides(np.arange(n), n, True, ()) if why else slides_of(fold.groups)
        parts.append([pulls_of(fold.labels, given, slides) for given in (fold.scores, fold.floor)])
    how = f"DeLong in each fold, {why}" if why else "clustered DeLong in each fold"
    n = sum(fold.labels.size for fold in folds)
    n_groups = 0 if why else sum(slides_of(fold.groups).n for fold in folds)
    model, floor, difference = (
        ("auroc", [one for one, _ in parts]),
        ("floor_auroc", [other for _, other in parts]),
        ("auroc_difference", [combined(pair, (1, -1)) for pair in parts]),
    )
    figures = []
    for name, pulls in (model, floor, difference):
        area, low, high = mean_interval(pulls, is_difference=name == "auroc_difference")
        figures.append(Figure(name, area, low, high, how, n, n_groups))
    return figures[0], figures[1], figures[2]


def mean_interval(pulls: Sequence[Pulls], *, is_difference: bool) -> tuple[float, float, float]:
    """Return the mean of independent AUROCs, or differences of such, and the ends of its 95 % interval.

    Where no slide pulls at all the variance says nothing: then Newcombe's score interval is taken as if each slide were one tile.
    """
    area = float(np.mean([one.area for one in pulls]))
    variances = np.array([one.variance for one in pulls]) / len(pulls) ** 2
    variance = float(variances.sum())
    degrees = variance**2 / sum(v**2 / one.degrees for v, one in zip(variances, pulls, strict=True)) if variance else 1.0
    if is_difference:
        reach = t_value(degrees) * variance**0.5
        return area, max(-1.0, area - reach), min(1.0, area + reach)
    if not 0 < area < 1 or variance == 0:
        return area, *score_interval(area, sum(one.with_positives for one in pulls), sum(one.with_negatives for one in pulls))
    return area, *on_logit_scale(area, variance, degrees)
