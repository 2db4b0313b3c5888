"""How many slides it takes to tell two models apart, and how small a difference so many slides can show."""

from statistics import NormalDist

from sentinode.errors import UndefinedScore, shown
from sentinode.judge.auroc import LEVEL
from sentinode.judge.clusters import Pulls, t_value

POWER = 0.8
"""Chance of finding a true difference that a study is planned for."""
MOST_SLIDES = 10**7
"""Beyond so many slides the answer is that no study will tell."""


def variance_a_slide(difference: Pulls) -> float:
    """Return the variance of a paired difference times the number of slides: what one more slide has to say.

    A study of n slides like these has a variance of about this over n.
    """
    return difference.variance * difference.positives.size


def rarer_share(difference: Pulls) -> float:
    """Return the effective number of slides of the rarer kind over all slides, in (0, 1]: what degrees of freedom count."""
    return min(1.0, (difference.degrees + 1) / difference.positives.size)


def slides_needed(difference: float, variance: float, power: float = POWER, share: float = 1.0) -> int:
    """Return the smallest number of slides with which a true difference is told apart at 5 % with the given power.

    Parameters
    ----------
    difference
        Of the AUROCs, not 0; its sign does not matter.
    variance
        One slide's, from `variance_a_slide` of a judged pair or `assumed_variance`.
    power
        Chance of telling them apart, in [0.5, 1).
    share
        Of the slides that count for degrees of freedom, from `rarer_share`, in (0, 1].

    Raises
    ------
    UndefinedScore
        If the difference is 0 or not finite, the variance is negative, or power or share are out of range.

    Source: normal approximation to the power of Student's t; checked against simulated studies.
    """
    check_power(power)
    if not 0 < abs(difference) <= 1:
        raise UndefinedScore("a difference of AUROCs other than 0", shown(difference), "name the least difference that matters")
    if not 0 <= variance < float("inf") or not 0 < share <= 1:
        raise UndefinedScore("a variance of 0 or more, and a share in (0, 1]", f"{variance} and {share}", "judge a pair first")
    low, high = 2, MOST_SLIDES
    while low < high:  # power grows with the number of slides
        middle = (low + high) // 2
        low, high = (low, middle) if detectable(variance, middle, power, share) <= abs(difference) else (middle + 1, high)
    return low


def detectable(variance: float, slides: int, power: float = POWER, share: float = 1.0) -> float:
    """Return the smallest difference of AUROCs that `slides` slides tell apart at 5 % with the given power.

    Parameters as of `slides_needed`. Raises UndefinedScore if the power is out of range.
    """
    check_power(power)
    degrees = max(1.0, slides * share - 1)
    return float((t_value(degrees, LEVEL) + NormalDist().inv_cdf(power)) * (variance / slides) ** 0.5)


def check_power(power: float) -> None:
    """Raise UndefinedScore unless the power is in [0.5, 1)."""
    if not 0.5 <= power < 1:
        raise UndefinedScore("a power in [0.5, 1)", shown(power), "0.8 is usual")


def assumed_variance(
    aurocs: tuple[float, float],
    correlation: float,
    *,
    tiles_a_slide: float,
    positive_share: float,
    design_effect: float = 1.0,
) -> float:
    """Return one slide's variance of a paired difference where no pair has been judged yet.

    Parameters
    ----------
    aurocs
        Of the two models, each in (0, 1).
    correlation
        Between their estimates on the same tiles, in [-1, 1]: 0.5 to 0.9 for networks trained on the same tiles.
    tiles_a_slide
        Mean number.
    positive_share
        Of all tiles, in (0, 1).
    design_effect
        As an evaluation of either model states it: 1 where slides do not matter.

    Raises
    ------
    UndefinedScore
        If a number is out of its range.

    Source: Hanley and McNeil 1982 (variance, from exponential scores, for many tiles) and 1983 (pairs); Kish 1965 (design effect).
    """
    if not all(0 < area < 1 for area in aurocs) or not 0 < positive_share < 1:
        found = f"{aurocs[0]:g}, {aurocs[1]:g} and {positive_share:g}"
        raise UndefinedScore("AUROCs and a share of positives within (0, 1)", found, "assume others")
    if not -1 <= correlation <= 1 or tiles_a_slide <= 0 or design_effect <= 0:
        found = f"{correlation:g}, {tiles_a_slide:g} and {design_effect:g}"
        raise UndefinedScore("a correlation in [-1, 1], tiles and a design effect above 0", found, "assume others")
    one, other = (
        ((a / (2 - a) - a * a) / (1 - positive_share) + (2 * a * a / (1 + a) - a * a) / positive_share) / tiles_a_slide
        for a in aurocs
    )
    return float(design_effect * (one + other - 2 * correlation * (one * other) ** 0.5))
