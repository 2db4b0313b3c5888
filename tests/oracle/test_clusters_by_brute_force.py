"""Clustered variances against Obuchowski's formula written out over all pairs, against DeLong, and against simulated studies."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, t
from sklearn.metrics import roc_auc_score

from sentinode.errors import UndefinedScore
from sentinode.judge.auroc import delong
from sentinode.judge.clusters import (
    clustered_interval,
    combined,
    difference_interval,
    effective_size,
    pulls_of,
    t_value,
    two_sided_p,
)
from sentinode.judge.statement import slides_of

Numbers = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def brute_covariance(labels: Ints, one: Numbers, other: Numbers, groups: Ints) -> float:
    """Return Obuchowski's covariance of two AUROCs as the paper writes it: kernels over all pairs, sums over clusters."""
    m, n = int(labels.sum()), int((1 - labels).sum())
    of_positives, of_negatives, areas = [], [], []
    for scores in (one, other):
        p, q = scores[labels == 1][:, None], scores[labels == 0][None, :]
        kernel = (p > q) + 0.5 * (p == q)
        of_positives.append(kernel.mean(axis=1))
        of_negatives.append(kernel.mean(axis=0))
        areas.append(kernel.mean())
    names = sorted(set(groups.tolist()))
    with_positives = len(set(groups[labels == 1].tolist()))
    with_negatives = len(set(groups[labels == 0].tolist()))
    s10 = s01 = s11 = s11_turned = 0.0
    for name in names:
        at_p, at_q = groups[labels == 1] == name, groups[labels == 0] == name
        x = [float(np.sum(v[at_p] - a)) for v, a in zip(of_positives, areas, strict=True)]
        y = [float(np.sum(v[at_q] - a)) for v, a in zip(of_negatives, areas, strict=True)]
        s10 += x[0] * x[1]
        s01 += y[0] * y[1]
        s11 += x[0] * y[1]
        s11_turned += x[1] * y[0]
    s10 *= with_positives / ((with_positives - 1) * m)
    s01 *= with_negatives / ((with_negatives - 1) * n)
    factor = len(names) / (len(names) - 1)
    return s10 / m + s01 / n + factor * (s11 + s11_turned) / (m * n)


@st.composite
def clustered(draw: st.DrawFn) -> tuple[Ints, Numbers, Numbers, Ints]:
    """Draw tiles of 3 to 8 slides, the first two of which hold both classes, and two models, often tied."""
    k = draw(st.integers(3, 8))
    n = draw(st.integers(0, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    levels = draw(st.sampled_from([2, 6, 1000]))
    labels = np.concatenate([[0, 1, 0, 1], rng.integers(2, size=n)])
    groups = np.concatenate([[0, 0, 1, 1], rng.integers(k, size=n)])
    one, other = (rng.integers(levels, size=n + 4) / levels + 0.2 * labels for _ in range(2))
    return labels, one, other, groups


@given(clustered())
@settings(max_examples=80, deadline=None)
def test_variances_equal_the_formula_written_out(sample: tuple[Ints, Numbers, Numbers, Ints]) -> None:
    labels, one, other, groups = sample
    slides = slides_of(groups)
    a, b = pulls_of(labels, one, slides), pulls_of(labels, other, slides)
    assert a.area == pytest.approx(roc_auc_score(labels, one), abs=1e-13)
    assert a.variance == pytest.approx(brute_covariance(labels, one, one, groups), abs=1e-14)
    difference, mean = combined([a, b], [1, -1]), combined([a, b], [0.5, 0.5])
    aa, bb, ab = (brute_covariance(labels, x, y, groups) for x, y in ((one, one), (other, other), (one, other)))
    assert difference.area == pytest.approx(roc_auc_score(labels, one) - roc_auc_score(labels, other), abs=1e-13)
    assert difference.variance == pytest.approx(aa + bb - 2 * ab, abs=1e-13)
    assert mean.variance == pytest.approx((aa + bb + 2 * ab) / 4, abs=1e-13)
    assert 0 <= two_sided_p(difference) <= 1
    for interval in (clustered_interval(a), clustered_interval(b)):
        assert 0 <= interval.low <= interval.high <= 1


def test_one_tile_a_slide_is_delong() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(2, size=150)
    scores = np.round(rng.normal(size=150) + labels, 1)
    slides = slides_of(np.arange(150))
    area, variance = delong(labels, scores)
    found = pulls_of(labels, scores, slides)
    assert (found.area, found.variance) == pytest.approx((area, variance), rel=1e-12)
    effective = effective_size(labels, scores, slides)
    assert (effective.design_effect, effective.tiles) == pytest.approx((1, 150), rel=1e-12)


@given(clustered(), st.integers(2, 4))
@settings(max_examples=40, deadline=None)
def test_copies_of_tiles_on_their_slides_are_worth_nothing(sample: tuple[Ints, Numbers, Numbers, Ints], copies: int) -> None:
    """The same tiles again on the same slides: independent tiles would halve the variance, slides know better."""
    labels, one, _, groups = sample
    plain = pulls_of(labels, one, slides_of(groups))
    again = pulls_of(np.repeat(labels, copies), np.repeat(one, copies), slides_of(np.repeat(groups, copies)))
    assert (again.area, again.variance) == pytest.approx((plain.area, plain.variance), abs=1e-13)


def test_effective_slides_count_equal_shares() -> None:
    """Ten equal slides count as ten; where one holds half of everything and ten share the rest, by the definition 1/(1/4 + 10/400)."""
    rng = np.random.default_rng(0)
    for groups, expected in (
        (np.repeat(np.arange(10), 20), 10.0),
        (np.concatenate([np.zeros(200, np.int64), np.repeat(np.arange(1, 11), 20)]), 1 / (1 / 4 + 10 / 400)),
    ):
        labels = np.tile([0, 1], groups.size // 2)
        found = effective_size(labels, rng.normal(size=groups.size), slides_of(groups))
        assert found.slides == pytest.approx(expected)


def study(rng: np.random.Generator, k: int = 30, m: int = 12) -> tuple[Ints, Ints, list[Numbers]]:
    """Return labels, slides and two equally good models of one simulated study; slides differ in prevalence and shift all scores."""
    groups = np.repeat(np.arange(k), m)
    labels = (rng.random(k * m) < rng.beta(0.5, 0.5, size=k)[groups]).astype(np.int64)
    shared = rng.normal(size=k * m) + rng.normal(size=k)[groups]
    models = [1.5 * labels + shared + 0.5 * rng.normal(size=k * m) + 0.5 * rng.normal(size=k)[groups] for _ in range(2)]
    return labels, groups, models


def test_in_simulated_studies_the_variance_and_the_p_value_are_right() -> None:
    """400 studies of 30 slides: mean variance near that of the AUROCs found; 5 % of true nulls rejected, give or take 3 errors."""
    rng = np.random.default_rng(7)
    areas, variances, p, inside = [], [], [], []
    for _ in range(400):
        labels, groups, (one, other) = study(rng)
        slides = slides_of(groups)
        a, b = pulls_of(labels, one, slides), pulls_of(labels, other, slides)
        difference = combined([a, b], [1, -1])
        interval = difference_interval(difference)
        areas.append(a.area)
        variances.append(a.variance)
        p.append(two_sided_p(difference))
        inside.append(interval.low <= 0 <= interval.high)
    assert np.mean(variances) == pytest.approx(np.var(areas), rel=0.2)
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=3 * (0.05 * 0.95 / 400) ** 0.5)
    assert [one >= 0.05 for one in p] == inside
    # Shared slides make the independent tiles' variance several times too small.
    assert effective_size(labels, one, slides).design_effect > 1.5


def test_quantiles_are_students() -> None:
    assert t_value(19) == pytest.approx(t.ppf(0.975, 19), rel=1e-12)
    assert t_value(10**7) == pytest.approx(norm.ppf(0.975), rel=1e-5)


def test_scores_without_spread_have_a_wide_interval_and_tell_nothing_apart() -> None:
    labels, groups = np.tile([0, 1], 40), np.repeat(np.arange(8), 10)
    slides = slides_of(groups)
    perfect, flat = pulls_of(labels, labels * 1.0, slides), pulls_of(labels, np.full(80, 0.5), slides)
    assert clustered_interval(perfect).high == 1
    assert clustered_interval(perfect).low < 0.9
    assert clustered_interval(perfect).method == "Newcombe's score interval over slides"
    assert clustered_interval(flat).low < 0.4 < 0.6 < clustered_interval(flat).high
    assert two_sided_p(combined([perfect, flat], [1, -1])) == 1
    with pytest.raises(UndefinedScore, match="scores whose AUROC has a variance") as caught:
        effective_size(labels, labels * 1.0, slides)
    assert caught.value.do == "look at the intervals instead"


@pytest.mark.parametrize(
    ("groups", "expected", "found"),
    [
        (np.full(8, "a"), "tiles of at least two slides, all known", "all tiles are from one slide"),
        (np.full(8, ""), "tiles of at least two slides, all known", "the slides of the tiles are not known"),
        (np.array(list("abababab")), "each class on at least two slides", "positives on 1, negatives on 1 of 2"),
    ],
)
def test_slides_that_cannot_be_units_are_refused(groups: npt.NDArray[np.str_], expected: str, found: str) -> None:
    with pytest.raises(UndefinedScore, match=expected) as caught:
        pulls_of(np.tile([0, 1], 4), np.arange(8.0), slides_of(groups))
    assert found in caught.value.found
    assert caught.value.do
