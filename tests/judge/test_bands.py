"""Bands of curves against curves of rows literally repeated, and slides each by itself."""

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve

from sentinode.errors import UndefinedScore
from sentinode.judge.bands import GRID, curve_bands, reliability_bands, slide_rows
from sentinode.judge.bootstrap import weights_in_chunks
from sentinode.judge.calibrate import mass_bins, reliability
from sentinode.judge.statement import TILES, slides_of

Sample = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.str_]]


def sample(n_slides: int = 12, n: int = 360, seed: int = 0) -> Sample:
    """Return labels, probabilities with ties, and slides that differ in how hard they are."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(n_slides, size=n)
    labels = rng.integers(2, size=n)
    logit = 1.5 * (2 * labels - 1) + rng.normal(size=n_slides)[codes] + rng.normal(size=n)
    return labels, np.round(1 / (1 + np.exp(-logit)), 2), np.char.add("slide ", codes.astype(str))


def repeated(labels: npt.NDArray[np.int64], codes: npt.NDArray[np.int64], seed: int) -> list[npt.NDArray[np.intp]]:
    """Return the rows of each resample, slides literally repeated as often as the bootstrap drew them."""
    positives, negatives = (np.bincount(codes, weights=of).astype(np.float64) for of in (labels, 1 - labels))
    drawn = np.concatenate(list(weights_in_chunks(positives, negatives, 200, seed)))
    return [np.repeat(np.arange(labels.size), row[codes]) for row in drawn]


def test_roc_and_precision_bands_are_those_of_slides_literally_repeated() -> None:
    labels, p, groups = sample()
    slides = slides_of(groups)
    bands = curve_bands(labels, p, slides, resamples=200, seed=3)
    assert bands.method == "slide bootstrap (200 resamples)"
    hits, precision = [], []
    for rows in repeated(labels, slides.codes, 3):
        x, y, _ = roc_curve(labels[rows], p[rows], drop_intermediate=False)
        hits.append(np.interp(GRID, x, y))
        at, recall, _ = precision_recall_curve(labels[rows], p[rows])
        at, recall = at[:-1][::-1], recall[:-1][::-1]
        precision.append([at[np.argmax(recall >= max(r, 1e-9) - 1e-12)] for r in GRID])
    for band, curves in ((bands.roc, hits), (bands.precision_recall, precision)):
        low, high = np.quantile(curves, [0.025, 0.975], axis=0)
        np.testing.assert_allclose(band.low, low, atol=1e-12)
        np.testing.assert_allclose(band.high, high, atol=1e-12)


def test_without_slides_the_bands_are_of_tiles_and_say_so() -> None:
    labels, p, groups = sample(n_slides=300, n=3000)
    by_tiles = curve_bands(labels, p, slides_of(np.full(labels.size, "")), resamples=400)
    assert TILES in by_tiles.method
    # With ten tiles a slide and slides that hardly matter, either way gives nearly the same.
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=3000)
    p = 1 / (1 + np.exp(-(2 * labels - 1 + rng.normal(size=3000))))
    one, other = (curve_bands(labels, p, slides_of(names), resamples=400) for names in (groups, np.full(3000, "")))
    middle = slice(10, 90)
    assert np.abs((one.roc.high - one.roc.low) - (other.roc.high - other.roc.low))[middle].max() < 0.02


def test_bands_over_slides_are_wider_where_slides_differ() -> None:
    labels, p, groups = sample(n_slides=8, n=2000, seed=5)
    one, other = (curve_bands(labels, p, slides_of(names), resamples=300) for names in (groups, np.full(2000, "")))
    assert (one.roc.high - one.roc.low)[5:40].mean() > 1.5 * (other.roc.high - other.roc.low)[5:40].mean()


def test_slides_too_few_for_both_classes_fall_back_to_tiles() -> None:
    labels = np.repeat([0, 1], 20)
    groups = np.repeat(["only negatives", "only positives"], 20)
    assert TILES in curve_bands(labels, np.linspace(0, 1, 40), slides_of(groups), resamples=100).method
    assert reliability_bands(labels, np.linspace(0, 1, 40), slides_of(groups), resamples=100) == (None,) * 15


def test_reliability_bands_are_those_of_slides_literally_repeated() -> None:
    labels, p, groups = sample()
    slides = slides_of(groups)
    found = reliability_bands(labels, p, slides, resamples=200, seed=3)
    bins = mass_bins(p)
    assert len(found) == len(reliability(labels, p)) == np.unique(bins).size
    drawn = repeated(labels, slides.codes, 3)
    for at, band in zip(np.unique(bins), found, strict=True):
        share = [labels[rows][bins[rows] == at].mean() for rows in drawn if (bins[rows] == at).any()]
        if band is None:
            assert len(share) < 198
        else:
            assert (band.low, band.high) == pytest.approx(tuple(np.quantile(share, [0.025, 0.975])))
            assert band.method == "slide bootstrap (200 resamples)"


def test_a_bin_that_resamples_often_lack_has_no_band() -> None:
    labels = np.tile([0, 1], 50)
    p = np.where(np.arange(100) < 4, 0.999, np.tile([0.2, 0.8], 50))
    groups = np.array([f"{number // 10}" for number in range(100)])
    found = reliability_bands(labels, p, slides_of(groups), resamples=200)
    assert found[-1] is None
    assert found[0] is not None


def test_slides_surely_bad_come_first_and_unknown_ones_are_none() -> None:
    labels = np.array([1, 0] * 30 + [1, 1] + [0, 1])
    p = np.where(labels == 1, 0.9, 0.1)
    p[:30] = 1 - p[:30]
    groups = np.array(["half wrong"] * 60 + ["two wrong"] * 2 + [""] * 2)
    p[60:62] = 0.1
    rows = slide_rows(labels, p, groups, 0.5)
    assert [row.group for row in rows] == ["half wrong", "two wrong"]
    assert (rows[0].n, rows[0].n_positive, rows[0].accuracy) == (60, 30, 0.5)
    assert rows[0].auroc == pytest.approx(roc_auc_score(labels[:60], p[:60]))
    assert (rows[1].accuracy, rows[1].auroc) == (0.0, None)
    assert rows[0].mean_probability == pytest.approx(p[:60].mean())


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(UndefinedScore, match="tiles of both classes"):
        curve_bands(np.ones(4, int), np.linspace(0, 1, 4), slides_of(np.full(4, "")))
    with pytest.raises(UndefinedScore, match=r"\[0, 1\].*1\.5"):
        slide_rows(np.array([0, 1]), np.array([0.1, 1.5]), np.array(["a", "a"]), 0.5)
