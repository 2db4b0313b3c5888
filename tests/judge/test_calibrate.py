"""Calibration: bins of equal mass with equal probabilities together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinode.judge.calibrate import ece, ece_debiased, folded_mean, mass_bins, reliability


def test_ece_by_hand() -> None:
    """Two bins: (0.1, 0.3 | 0, 1) is off by 0.3, (0.6, 0.8 | 1, 1) by 0.3."""
    labels, probability = np.array([0, 1, 1, 1]), np.array([0.1, 0.3, 0.6, 0.8])
    assert ece(labels, probability, n_bins=2) == pytest.approx(0.3)
    low, high = reliability(labels, probability, n_bins=2)
    assert [low.n, low.mean_probability, low.share_positive] == pytest.approx([2, 0.2, 0.5])
    assert [high.n, high.mean_probability, high.share_positive] == pytest.approx([2, 0.7, 1.0])


def test_bins_hold_equal_masses_without_ties() -> None:
    counts = np.bincount(mass_bins(np.random.default_rng(0).random(1500)), minlength=15)
    assert counts.min() >= 99
    assert counts.max() <= 101


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_equal_probabilities_share_a_bin_and_order_is_kept(values: list[int]) -> None:
    probability = np.sort(np.array(values) / 5)
    bins = mass_bins(probability)
    assert (np.diff(bins) >= 0).all()
    assert len({(p, b) for p, b in zip(probability, bins, strict=True)}) == len(set(values))


def test_a_calibrated_model_has_a_small_error_and_a_shifted_one_its_shift() -> None:
    rng = np.random.default_rng(3)
    p = rng.uniform(0.2, 0.8, 20000)
    labels = (rng.random(p.size) < p).astype(int)
    assert ece(labels, p) < 0.015
    assert ece(labels, p + 0.15) == pytest.approx(0.15, abs=0.015)
    assert sum(one.n for one in reliability(labels, p)) == 20000


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (0.3, 0.2), (2.0, 0.1), (0.4, 0.0)])
def test_the_folded_mean_is_that_of_draws(mean: float, deviation: float) -> None:
    drawn = np.abs(np.random.default_rng(0).normal(mean, deviation, 400_000)).mean()
    assert folded_mean(mean, deviation) == pytest.approx(drawn, abs=0.004)


def studies(off: float, n_slides: int = 0) -> tuple[float, float, float]:
    """Return the mean over 200 small studies of the plain error, the debiased one by tiles, and the one by slides."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(200):
        p = rng.uniform(0.15, 0.85, 450)
        codes = np.arange(450) % (n_slides or 450)
        slide = rng.normal(0, 0.12 if n_slides else 0.0, n_slides or 450)[codes]
        labels = (rng.random(450) < np.clip(p + slide, 0, 1)).astype(int)
        said = np.clip(p + off, 0, 1)
        found.append([ece(labels, said), ece_debiased(labels, said), ece_debiased(labels, said, codes)])
    plain, by_tiles, by_slides = np.mean(found, axis=0)
    return float(plain), float(by_tiles), float(by_slides)


def test_debiasing_takes_most_of_what_chance_adds() -> None:
    plain, by_tiles, _ = studies(0.0)
    assert plain > 0.055
    assert by_tiles / plain == pytest.approx(2 - 2**0.5, abs=0.04)
    # 30 tiles a bin, each with a variance of 0.25 less that of a uniform on [0.15, 0.85].
    s = ((0.25 - 0.7**2 / 12) / 30) ** 0.5
    plain, by_tiles, _ = studies(0.14)
    assert plain == pytest.approx(folded_mean(0.14, s), abs=0.004)
    assert by_tiles == pytest.approx(2 * folded_mean(0.14, s) - folded_mean(0.14, 2**0.5 * s), abs=0.004)
    assert by_tiles == pytest.approx(0.14, abs=0.012)


def test_slides_that_differ_add_chance_which_tiles_do_not_know_of() -> None:
    _, by_tiles, by_slides = studies(0.0, n_slides=15)
    assert by_slides < by_tiles
