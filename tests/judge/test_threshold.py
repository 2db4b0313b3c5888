"""The threshold, against a search over every cut."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from sentinode.errors import UndefinedScore
from sentinode.judge.threshold import (
    accuracy,
    sensitivity,
    sensitivity_at,
    sensitivity_threshold,
    specificity,
    wilson_interval,
    youden_threshold,
)

PAIRS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6)), min_size=2, max_size=40).filter(
    lambda rows: len({label for label, _ in rows}) == 2
)


@given(PAIRS)
def test_no_other_cut_has_a_higher_sum(rows: list[tuple[int, int]]) -> None:
    labels, scores = np.array([a for a, _ in rows]), np.array([b for _, b in rows]) / 6
    found = youden_threshold(labels, scores)
    sums = [np.mean(scores[labels == 1] >= cut) + np.mean(scores[labels == 0] < cut) for cut in np.linspace(0, 1, 25)]
    assert sensitivity(labels, scores, found) + specificity(labels, scores, found) >= max(sums) - 1e-12


@given(PAIRS, st.sampled_from([0.5, 0.9, 1.0]))
def test_sensitivity_is_reached_by_the_highest_cut(rows: list[tuple[int, int]], at_least: float) -> None:
    labels, scores = np.array([a for a, _ in rows]), np.array([b for _, b in rows]) / 6
    found = sensitivity_threshold(labels, scores, at_least)
    assert np.mean(scores[labels == 1] >= found) >= at_least
    higher = scores[scores > found]
    if (higher > scores[scores >= found].min()).any():
        assert np.mean(scores[labels == 1] > scores[scores >= found].min()) < at_least


def test_the_cut_lies_midway_and_calls_its_own_score_positive() -> None:
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.9])
    assert youden_threshold(labels, scores) == pytest.approx(0.4)
    assert accuracy(labels, scores, 0.6) == 1
    assert accuracy(labels, scores, 0.61) == 0.75


def test_a_sensitivity_out_of_range_is_refused() -> None:
    with pytest.raises(UndefinedScore, match=r"\(0, 1\].*'1.2'"):
        sensitivity_threshold(np.array([0, 1]), np.array([0.1, 0.2]), 1.2)


@pytest.mark.parametrize(("right", "n"), [(0, 10), (3, 10), (10, 10), (499, 500)])
def test_wilson_equals_scipy(right: int, n: int) -> None:
    expected = binomtest(right, n).proportion_ci(method="wilson")
    assert wilson_interval(right, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_of_nothing_is_refused() -> None:
    with pytest.raises(UndefinedScore, match=r"at least one tile.*0 of 0"):
        wilson_interval(0, 0)


@pytest.mark.parametrize("wrong", [0, 101, 0.95])
def test_a_specificity_is_a_whole_per_cent(wrong: Any) -> None:
    with pytest.raises(UndefinedScore, match=rf"whole per cent, 1 to 100; found '{wrong}'; ask for one, such as 95"):
        sensitivity_at(np.array([0, 1]), np.array([0.1, 0.9]), wrong)
