"""Calibration: bins of equal mass with equal probabilities together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinode.judge.calibrate import ece, mass_bins, reliability


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
