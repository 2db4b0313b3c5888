"""AUROC variance where the tiles of one slide resemble each other: clustered DeLong, the design effect, effective sample sizes.

Each slide pulls an AUROC up or down by the sum of its tiles' placements around the mean. These pulls, not the tiles, are what is
independent; the variance is made of their squares. Pulls add up: those of a difference are the difference of pulls, those of a
mean over models their mean. So one formula serves one model, a pair on the same tiles, and a mean over seeds.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from sentinode.errors import UndefinedScore
from sentinode.judge.auroc import LEVEL, delong, expit, placements, score_interval
from sentinode.judge.inputs import Array, Floats, Ints, checked_pair, effective_number
from sentinode.judge.statement import Interval, Slides


@dataclass(frozen=True)
class Pulls:
    """How each group pulls an AUROC, or a sum of AUROCs with signs, up or down.

    `area` is that AUROC. `positives` and `negatives` are float64 [groups]: the sums over the group's positives, and over its
    negatives, of (placement - area), divided by the number of all positives, of all negatives. `with_positives` and
    `with_negatives` count the groups that hold any. `degrees` are those of the variance: the effective number of groups of the
    rarer kind, less one, at least 1. Few large groups hold most of the tiles and most of the variance; counted one by one they
    gave 6.5 % false positives at 5 % in 1,000 simulated studies of 40 very unequal slides.

    Source: Carter, Schnepel and Steigerwald 2017, Review of Economics and Statistics 99:698 (effective number of clusters).
    """

    area: float
    positives: Floats
    negatives: Floats
    with_positives: int
    with_negatives: int
    degrees: float

    @property
    def variance(self) -> float:
        """Variance of `area` under independent groups; with one tile a group it is DeLong's.

        Never negative, as its three factors K/(K-1) are largest for the two squares.

        Source: Obuchowski 1997, Biometrics 53:567, equation for clustered data; for a difference, its section on two tests.
        """
        of_positives = float(self.positives @ self.positives) * _corrected(self.with_positives)
        of_negatives = float(self.negatives @ self.negatives) * _corrected(self.with_negatives)
        of_both = float(self.positives @ self.negatives) * _corrected(self.positives.size)
        return max(0.0, of_positives + of_negatives + 2 * of_both)


def _corrected(groups: int) -> float:
    return groups / (groups - 1)


def pulls_of(labels: Array, scores: Array, slides: Slides) -> Pulls:
    """Return how each slide pulls the AUROC of `scores`.

    Parameters
    ----------
    labels
        [n], 0 or 1.
    scores
        [n], higher means positive.
    slides
        Of the same n tiles.

    Raises
    ------
    UndefinedScore
        If a class is absent, a score is not finite, a slide is not known, or a class stands on one slide only.
    """
    labels, scores = checked_pair(labels, scores)
    if not slides.usable:
        raise UndefinedScore(
            "tiles of at least two slides, all known", slides.warnings[0], "name the slides when packing (--groups)"
        )
    of_positives, of_negatives = placements(labels, scores)
    area = float(of_positives.mean())
    codes_of = {label: slides.codes[labels == label] for label in (0, 1)}
    with_positives, with_negatives = (int(np.unique(codes_of[label]).size) for label in (1, 0))
    if min(with_positives, with_negatives) < 2:
        raise UndefinedScore(
            "each class on at least two slides",
            f"positives on {with_positives}, negatives on {with_negatives} of {slides.n}",
            "judge on more slides of each class",
        )
    sums = [
        np.bincount(codes_of[label], weights=values - area, minlength=slides.n) / values.size
        for label, values in ((1, of_positives), (0, of_negatives))
    ]
    held = [np.bincount(codes, minlength=slides.n).astype(np.float64) for codes in codes_of.values()]
    degrees = max(1.0, min(map(effective_number, held)) - 1)
    return Pulls(area, sums[0], sums[1], with_positives, with_negatives, degrees)


def combined(parts: Sequence[Pulls], factors: Sequence[float]) -> Pulls:
    """Return the pulls on the sum of `parts`' AUROCs, each times its factor: (1, -1) is a difference, (1/2, 1/2) a mean.

    All parts are of the same tiles, so that what slides do to both cancels where it is the same.
    """
    first = parts[0]
    area, positives, negatives = (
        sum(factor * getattr(part, name) for part, factor in zip(parts, factors, strict=True))
        for name in ("area", "positives", "negatives")
    )
    return Pulls(float(area), positives, negatives, first.with_positives, first.with_negatives, first.degrees)


def mean_error(values: Floats, codes: Ints) -> float:
    """Return the standard error of the mean of `values` [n] where those of one group, `codes` int64 [n], go together.

    Source: Liang and Zeger 1986, with the factor k / (k - 1) of k groups.
    """
    sums = np.bincount(np.unique(codes, return_inverse=True)[1], weights=values - values.mean())
    return float(np.sqrt((sums**2).sum() * sums.size / max(sums.size - 1, 1))) / values.size


def t_value(degrees: float, level: float = LEVEL) -> float:
    """Return the two-sided quantile of Student's t: 2.09 for 19 degrees of freedom at 95 %, 1.96 for very many."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.5 + level / 2))


def two_sided_p(pulls: Pulls) -> float:
    """Return the p value of `area` being 0 (a difference), by Student's t over slides.

    Where no slide pulls at all there is no spread to measure a difference with, and 1 is returned: nothing is told apart by it.

    Source: simulated false positives at 5 % stand in the record of `benchmarks/intervals.py`.
    """
    from scipy.special import stdtr

    if pulls.variance == 0:
        return 1.0
    return float(2 * stdtr(pulls.degrees, -abs(pulls.area) / pulls.variance**0.5))


def clustered_interval(pulls: Pulls) -> Interval:
    """Return the 95 % interval of one AUROC: Student's t on the logit scale, as DeLong's beside it.

    Where all slides agree (classes perfectly separated, scores all equal) the variance is 0 and says nothing. Then Newcombe's score
    interval is taken as if each slide were one tile, which is wide.
    """
    area, variance = pulls.area, pulls.variance
    if not 0 < area < 1 or variance == 0:
        return Interval(
            *score_interval(area, pulls.with_positives, pulls.with_negatives), "Newcombe's score interval over slides"
        )
    return Interval(*on_logit_scale(area, variance, pulls.degrees), "clustered DeLong")


def on_logit_scale(area: float, variance: float, degrees: float) -> tuple[float, float]:
    """Return the ends of a 95 % interval of an AUROC strictly between 0 and 1: Student's t on the logit scale."""
    centre = np.log(area / (1 - area))
    reach = t_value(degrees) * variance**0.5 / (area * (1 - area))
    return expit(float(centre - reach)), expit(float(centre + reach))


def difference_interval(pulls: Pulls) -> Interval:
    """Return the 95 % interval of a difference of AUROCs, within [-1, 1]: Student's t over slides."""
    reach = t_value(pulls.degrees) * pulls.variance**0.5
    return Interval(max(-1.0, pulls.area - reach), min(1.0, pulls.area + reach), "paired clustered DeLong")


@dataclass(frozen=True)
class Effective:
    """How much the tiles of a sample say about an AUROC.

    `design_effect` is the variance by slides over the variance that assumes independent tiles. `tiles` is the number of
    independent tiles that would know the AUROC as well: n / design_effect. `slides` is the number of equally large slides among
    which chance would be spread as evenly, 1 / sum of squared shares, a slide's share being the mean of its shares of the positives
    and of the negatives; it depends on the counts alone and is at most the number of slides.
    """

    design_effect: float
    tiles: float
    slides: float

    def as_dict(self) -> dict[str, float]:
        """Return all of it, for JSON."""
        return asdict(self)

    def line(self) -> str:
        """Return it in words."""
        return (
            f"for the AUROC these tiles count as about {self.tiles:,.0f} independent ones (design effect {self.design_effect:.1f}), "
            f"their slides as {self.slides:.1f} equally large ones"
        )


def effective_size(labels: Array, scores: Array, slides: Slides) -> Effective:
    """Return the design effect of an AUROC and the effective numbers of tiles and slides.

    Raises
    ------
    UndefinedScore
        As `pulls_of`; and if the scores have no spread (all equal, or classes perfectly separated), so that no effect can be told.

    Source: Kish 1965 (design effect, effective number); Obuchowski 1997 (variance by clusters).
    """
    pulls = pulls_of(labels, scores, slides)
    labels, scores = checked_pair(labels, scores)
    _, independent = delong(labels, scores)
    if independent == 0 or pulls.variance == 0:
        raise UndefinedScore("scores whose AUROC has a variance", f"none: AUROC {pulls.area:g}", "look at the intervals instead")
    effect = pulls.variance / independent
    shares = [np.bincount(slides.codes[labels == label], minlength=slides.n) / np.sum(labels == label) for label in (0, 1)]
    mean = (shares[0] + shares[1]) / 2
    return Effective(effect, labels.size / effect, float(1 / (mean @ mean)))
