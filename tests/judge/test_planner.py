"""How many slides it takes: against scipy's noncentral t, against simulated studies, and what cannot be planned."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import nct, norm, t

from sentinode.errors import UndefinedScore
from sentinode.judge.auroc import auroc
from sentinode.judge.clusters import Pulls, combined, pulls_of, two_sided_p
from sentinode.judge.planner import assumed_variance, detectable, rarer_share, slides_needed, variance_a_slide
from sentinode.judge.statement import Slides


@given(st.floats(0.005, 0.2), st.floats(0.01, 1.0), st.sampled_from([0.8, 0.9]), st.sampled_from([0.3, 1.0]))
@settings(max_examples=60, deadline=None)
def test_the_number_is_the_smallest_and_has_the_power_by_the_noncentral_t(
    difference: float, variance: float, power: float, share: float
) -> None:
    n = slides_needed(-difference, variance, power, share)
    assert detectable(variance, n, power, share) <= difference
    assert n == 2 or detectable(variance, n - 1, power, share) > difference
    degrees = n * share - 1
    if degrees > 10:
        cut, centre = t.ppf(0.975, degrees), difference / (variance / n) ** 0.5
        reached = nct.sf(cut, degrees, centre) + nct.cdf(-cut, degrees, centre)
        assert power - 0.02 <= reached <= power + 0.06


def study(rng: np.random.Generator, n_slides: int, better: float) -> Pulls:
    """Return the pulls on the difference of two models, of which one sees the class better, in one study of 12 tiles a slide."""
    groups = np.repeat(np.arange(n_slides), 12)
    labels = (rng.random(groups.size) < rng.beta(0.7, 0.7, n_slides)[groups]).astype(np.int64)
    base = rng.normal(size=groups.size) + 0.8 * rng.normal(size=n_slides)[groups]
    slides = Slides(groups, n_slides, True, ())
    columns = [gain * labels + base + 0.6 * rng.normal(size=groups.size) for gain in (1.2 + better, 1.2)]
    return combined([pulls_of(labels, column, slides) for column in columns], (1, -1))


def test_studies_of_the_planned_size_tell_apart_as_often_as_planned() -> None:
    """The variance from a pilot of 600 slides, the difference from theory: 200 studies find it 80 % of the time, within 3 errors."""
    rng = np.random.default_rng(11)
    pilot = study(rng, 600, 0.25)
    apart = (2 * (1 + 0.8**2 + 0.6**2)) ** 0.5  # standard deviation between a positive and a negative of two slides
    difference = norm.cdf((1.2 + 0.25) / apart) - norm.cdf(1.2 / apart)
    n = slides_needed(difference, variance_a_slide(pilot), 0.8, rarer_share(pilot))
    assert 10 < n < 300
    found = [two_sided_p(study(rng, n, 0.25)) < 0.05 for _ in range(200)]
    assert np.mean(found) == pytest.approx(0.8, abs=3 * (0.8 * 0.2 / 200) ** 0.5)


def exponential(rng: np.random.Generator, labels: npt.NDArray[np.int64], area: float) -> npt.NDArray[np.float64]:
    """Return scores of exponential distributions with the given AUROC: the model behind Hanley and McNeil's variance."""
    return np.asarray(rng.exponential(np.where(labels == 1, area / (1 - area), 1.0)))


def test_an_assumed_variance_is_that_of_simulated_tiles() -> None:
    rng = np.random.default_rng(2)
    labels = (np.arange(400) % 10 < 3).astype(np.int64)
    drawn = [auroc(labels, exponential(rng, labels, 0.9)) - auroc(labels, exponential(rng, labels, 0.8)) for _ in range(600)]
    told = assumed_variance((0.9, 0.8), 0.0, tiles_a_slide=10, positive_share=0.3)
    assert np.var(drawn) == pytest.approx(told / 40, rel=0.2)
    assert assumed_variance((0.9, 0.8), 0.0, tiles_a_slide=10, positive_share=0.3, design_effect=4) == pytest.approx(4 * told)
    assert assumed_variance((0.9, 0.9), 1.0, tiles_a_slide=10, positive_share=0.3) == pytest.approx(0, abs=1e-15)


def test_what_cannot_be_planned_raises() -> None:
    with pytest.raises(UndefinedScore, match=r"a difference of AUROCs other than 0; found '0.0'; name the least"):
        slides_needed(0.0, 0.1)
    with pytest.raises(UndefinedScore, match=r"a power in \[0.5, 1\); found '1'; 0.8 is usual"):
        detectable(0.1, 10, 1)
    with pytest.raises(UndefinedScore, match=r"a variance of 0 or more.*found nan and 1.0; judge a pair first"):
        slides_needed(0.1, float("nan"))
    with pytest.raises(UndefinedScore, match=r"AUROCs and a share of positives.*found 1, 0.9 and 0.5; assume others"):
        assumed_variance((1.0, 0.9), 0.5, tiles_a_slide=10, positive_share=0.5)
    with pytest.raises(UndefinedScore, match=r"a correlation.*found 2, 10 and 1; assume others"):
        assumed_variance((0.8, 0.9), 2.0, tiles_a_slide=10, positive_share=0.5)
