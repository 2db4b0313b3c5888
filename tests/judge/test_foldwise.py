"""The mean AUROC over folds against formulas written out, and how it falls back where slides are not known."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from sentinode.errors import UndefinedScore
from sentinode.judge.foldwise import Fold, mean_over_folds


def fold(seed: int, n: int = 60, slides: int = 0, shift: float = 1.2) -> Fold:
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.5).astype(np.int64)
    groups = np.array([f"f{seed}s{g}" for g in rng.integers(slides, size=n)]) if slides else np.full(n, "")
    scores = rng.normal(size=n) + shift * labels
    return Fold(str(seed), labels, scores, rng.normal(size=n) + 0.4 * labels, groups)


def by_pairs(one: Fold, scores: np.ndarray) -> tuple[float, float]:
    """Return AUROC and DeLong's variance by comparing every pair."""
    wins = scores[one.labels == 1][:, None] - scores[one.labels == 0][None, :]
    kernel = (wins > 0) + 0.5 * (wins == 0)
    m, n = kernel.shape
    return float(kernel.mean()), kernel.mean(1).var(ddof=1) / m + kernel.mean(0).var(ddof=1) / n


def test_without_slides_it_is_the_mean_with_summed_delong_variances() -> None:
    folds = [fold(seed) for seed in range(4)]
    model, floor, difference = mean_over_folds(folds)
    assert model.estimate == pytest.approx(np.mean([roc_auc_score(one.labels, one.scores) for one in folds]), abs=1e-12)
    assert floor.estimate == pytest.approx(np.mean([roc_auc_score(one.labels, one.floor) for one in folds]), abs=1e-12)
    assert difference.estimate == pytest.approx(model.estimate - floor.estimate, abs=1e-12)
    areas, variances = zip(*[by_pairs(one, one.scores) for one in folds], strict=True)
    area, parts = np.mean(areas), np.array(variances) / 16
    freedom = [min(one.labels.sum(), (1 - one.labels).sum()) - 1 for one in folds]
    degrees = parts.sum() ** 2 / sum(v**2 / d for v, d in zip(parts, freedom, strict=True))
    reach = stats.t.ppf(0.975, degrees) * parts.sum() ** 0.5 / (area * (1 - area))
    expected = [1 / (1 + np.exp(-(np.log(area / (1 - area)) + sign * reach))) for sign in (-1, 1)]
    assert (model.low, model.high) == pytest.approx(expected, abs=1e-9)
    assert "assumes independent tiles" in model.method
    assert model.n_groups == 0


def test_with_slides_the_interval_is_wider_where_tiles_of_a_slide_are_alike() -> None:
    rng = np.random.default_rng(5)
    folds = []
    for at in range(3):
        slides = np.repeat(np.arange(12), 10)
        labels = (rng.random(120) < np.tile([0.1, 0.9], 6)[slides]).astype(np.int64)
        scores = labels + rng.normal(size=12)[slides] * 1.5 + rng.normal(size=120) * 0.5
        folds.append(Fold(str(at), labels, scores, rng.normal(size=120), np.array([f"{at}-{s}" for s in slides])))
    by_slide, *_ = mean_over_folds(folds)
    by_tile, *_ = mean_over_folds([Fold(f.name, f.labels, f.scores, f.floor, np.full(120, "")) for f in folds])
    assert by_slide.estimate == by_tile.estimate
    assert by_slide.high - by_slide.low > 1.5 * (by_tile.high - by_tile.low)
    assert by_slide.method == "clustered DeLong in each fold"
    assert by_slide.n_groups == 36


def test_one_fold_whose_slides_are_not_known_makes_tiles_the_unit_everywhere() -> None:
    model, _, difference = mean_over_folds([fold(0, slides=8), fold(1)])
    assert "assumes independent tiles" in model.method
    assert "assumes independent tiles" in difference.method


def test_perfect_folds_have_an_interval_that_is_not_a_point() -> None:
    labels = np.tile([0, 1], 10)
    same = Fold("a", labels, labels.astype(float), labels.astype(float), np.full(20, ""))
    model, _, difference = mean_over_folds([same, same])
    assert (model.estimate, model.high) == (1.0, 1.0)
    assert 0.7 < model.low < 0.97
    assert (difference.low, difference.high) == (0.0, 0.0)


def test_a_single_fold_is_refused() -> None:
    with pytest.raises(UndefinedScore) as caught:
        mean_over_folds([fold(0)])
    assert "two folds" in caught.value.expected
    assert caught.value.found == "1"
    assert "more" in caught.value.do
