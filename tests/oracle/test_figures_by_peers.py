"""Our figures against independent ones: scikit-learn, brute force over pairs, rows literally repeated."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score, roc_curve

from sentinode.judge.auroc import auroc, average_precision, delong, roc_points, tile_interval
from sentinode.judge.bootstrap import Resampler, ranked, weights_in_chunks
from sentinode.judge.calibrate import brier_loss
from sentinode.judge.compare import auroc_difference
from sentinode.judge.inputs import group_codes
from sentinode.judge.statement import slides_of
from sentinode.judge.threshold import sensitivity_at

Sample = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    """Draw 2 to 60 tiles of both classes, often tied."""
    n = draw(st.integers(2, 60))
    labels = draw(st.lists(st.integers(0, 1), min_size=n, max_size=n).filter(lambda v: 0 < sum(v) < len(v)))
    levels = draw(st.sampled_from([2, 5, 1000]))
    scores = draw(st.lists(st.integers(0, levels), min_size=n, max_size=n))
    return np.array(labels), np.array(scores) / levels


@given(samples())
@settings(max_examples=80, deadline=None)
def test_figures_equal_scikit_learn(sample: Sample) -> None:
    labels, scores = sample
    assert auroc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-13)
    assert average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores), abs=1e-13)
    assert brier_loss(labels, scores) == pytest.approx(brier_score_loss(labels, scores), abs=1e-13)


@given(samples())
@settings(max_examples=60, deadline=None)
def test_auroc_counts_pairs(sample: Sample) -> None:
    """The definition itself: wins plus half the ties over all pairs."""
    labels, scores = sample
    pairs = [(p > q) + 0.5 * (p == q) for p in scores[labels == 1] for q in scores[labels == 0]]
    assert auroc(labels, scores) == pytest.approx(sum(pairs) / len(pairs), abs=1e-13)


def brute_covariance(labels: npt.NDArray[np.int64], models: list[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """Return DeLong's covariance of AUROCs from the full matrix of pairs, as the paper writes it."""
    of_positives, of_negatives = [], []
    for scores in models:
        p, q = scores[labels == 1][:, None], scores[labels == 0][None, :]
        kernel = (p > q) + 0.5 * (p == q)
        of_positives.append(kernel.mean(axis=1))
        of_negatives.append(kernel.mean(axis=0))
    m, n = int(labels.sum()), int((1 - labels).sum())
    return np.atleast_2d(np.cov(of_positives)) / m + np.atleast_2d(np.cov(of_negatives)) / n


@pytest.mark.parametrize("levels", [3, 10, 10**6])
def test_delong_equals_brute_force(levels: int) -> None:
    rng = np.random.default_rng(levels)
    labels = rng.integers(2, size=90)
    scores = np.round(rng.normal(size=90) + labels, 3) if levels > 10 else rng.integers(levels, size=90) + labels * 1.0
    area, variance = delong(labels, scores)
    assert area == pytest.approx(roc_auc_score(labels, scores), abs=1e-13)
    assert variance == pytest.approx(brute_covariance(labels, [scores])[0, 0], rel=1e-12)


def test_paired_delong_equals_brute_force() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(2, size=120)
    one = rng.normal(size=120) + labels
    other = np.round(one * 0.5 + rng.normal(size=120), 1)
    covariance = brute_covariance(labels, [one, other])
    reach = 1.959963984540054 * np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    figure = auroc_difference(labels, one, other, slides_of(np.full(120, "")))
    assert figure.estimate == pytest.approx(roc_auc_score(labels, one) - roc_auc_score(labels, other), abs=1e-13)
    assert figure.high - figure.low == pytest.approx(2 * reach, rel=1e-12)


def best_under(labels: npt.NDArray[np.int64], scores: npt.NDArray[np.float64], most: int) -> float:
    """Return the highest sensitivity of any threshold with at most `most` per cent false alarms, by trying all of them."""
    tried = [(scores >= cut) for cut in (*np.unique(scores), np.inf)]
    fair = [called for called in tried if 100 * int(called[labels == 0].sum()) <= most * int((labels == 0).sum())]
    return max(float(called[labels == 1].mean()) for called in fair)


@given(samples(), st.integers(1, 100))
@settings(max_examples=80, deadline=None)
def test_sensitivity_at_a_specificity_tries_every_threshold(sample: Sample, specificity: int) -> None:
    labels, scores = sample
    expected = best_under(labels, scores, 100 - specificity)
    assert sensitivity_at(labels, scores, specificity) == pytest.approx(expected, abs=1e-15)
    model = Resampler(ranked(labels, scores, np.zeros(labels.size, np.int64), 1))
    assert model.sensitivity_at(np.array([[1], [3]], np.int32), [specificity])[:, 0] == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("dense", [True, False])
def test_resampled_figures_equal_repeated_rows(dense: bool) -> None:
    """A weight of 3 is a slide that stands three times in the sample: both ways to the pair counts."""
    rng = np.random.default_rng(1)
    n = 300
    labels, groups = rng.integers(2, size=n), rng.integers(12, size=n)
    scores = np.round(rng.normal(size=n) + labels + groups / 10, 1)
    codes, n_groups = group_codes(groups)
    model = Resampler(ranked(labels, scores, codes, n_groups))
    if not dense:
        model._pairs = None
    weights = np.concatenate(list(weights_in_chunks(model.positives, model.negatives, resamples=20, seed=3)))
    areas, precisions, reached = model.auroc(weights), model.average_precision(weights), model.sensitivity_at(weights, (95, 50))
    for row, area, precision, at_95, at_50 in zip(weights, areas, precisions, *reached.T, strict=True):
        repeated = np.repeat(np.arange(n), row[codes])
        assert area == pytest.approx(roc_auc_score(labels[repeated], scores[repeated]), abs=1e-12)
        assert precision == pytest.approx(average_precision_score(labels[repeated], scores[repeated]), abs=1e-12)
        assert at_95 == pytest.approx(best_under(labels[repeated], scores[repeated], 5), abs=1e-12)
        assert at_50 == pytest.approx(best_under(labels[repeated], scores[repeated], 50), abs=1e-12)


def test_curve_points_lie_on_the_full_curve() -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(2, size=5000)
    scores = rng.normal(size=5000) + labels
    x, y = roc_points(labels, scores, limit=100)
    full = set(zip(*(np.round(part, 12) for part in roc_curve(labels, scores, drop_intermediate=False)[:2]), strict=True))
    assert set(zip(np.round(x, 12), np.round(y, 12), strict=True)) <= full
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert len(x) <= 102
    assert np.trapezoid(y, x) == pytest.approx(auroc(labels, scores), abs=2e-3)


def simulated(rng: np.random.Generator, n_slides: int, tiles: int, spread: float) -> tuple[Sample, npt.NDArray[np.str_]]:
    """Draw one study: slides share a shift of the score and a prevalence."""
    slide = np.repeat(np.arange(n_slides), tiles)
    labels = (rng.random(slide.size) < rng.beta(1, 1, n_slides)[slide]).astype(np.int64)
    scores = labels * 1.5 + rng.normal(size=slide.size) + spread * rng.normal(size=n_slides)[slide]
    return (labels, scores), slide.astype(str)


def test_slide_interval_covers_where_the_tile_interval_does_not() -> None:
    """150 studies of 60 slides: nominal 95 %; the truth comes from one large study of 4,000 slides."""
    rng = np.random.default_rng(11)
    (labels, scores), _ = simulated(rng, 4000, 50, 0.8)
    truth = roc_auc_score(labels, scores)
    by_slides = by_tiles = 0
    for study in range(150):
        (labels, scores), groups = simulated(rng, 60, 50, 0.8)
        codes, n_groups = group_codes(groups)
        model = Resampler(ranked(labels, scores, codes, n_groups))
        areas = np.concatenate([model.auroc(w) for w in weights_in_chunks(model.positives, model.negatives, 300, study)])
        low, high = np.quantile(areas, [0.025, 0.975])
        by_slides += bool(low <= truth <= high)
        low, high, _ = tile_interval(labels, scores)
        by_tiles += bool(low <= truth <= high)
    assert 0.88 <= by_slides / 150 <= 0.99
    assert by_tiles / 150 < 0.80
