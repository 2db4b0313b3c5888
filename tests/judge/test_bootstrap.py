"""Resamples: seeded, bounded, of both classes, and refused where slides are too few."""

import numpy as np
import pytest
from scipy.stats import norm, t

from sentinode.errors import UndefinedScore
from sentinode.judge import bootstrap
from sentinode.judge.bootstrap import Resampler, percentile_interval, ranked, tails, weights_in_chunks


def test_each_row_draws_as_many_slides_as_there_are() -> None:
    weights = np.concatenate(list(weights_in_chunks(np.ones(50), np.ones(50), 200, seed=1)))
    assert weights.shape == (200, 50)
    assert (weights.sum(axis=1) == 50).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(50), abs=0.4)


def test_chunks_bound_memory_and_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(weights_in_chunks(np.ones(30), np.ones(30), 100, seed=2)))
    monkeypatch.setattr(bootstrap, "CHUNK", 90)
    parts = list(weights_in_chunks(np.ones(30), np.ones(30), 100, seed=2))
    assert max(part.size for part in parts) <= 90
    assert (np.concatenate(parts) == whole).all()


def test_draws_without_a_class_are_drawn_anew() -> None:
    """Six of many slides hold the positives: about 0.2 % of draws miss them all."""
    positives = np.array([1.0] * 6 + [0.0] * 60)
    weights = np.concatenate(list(weights_in_chunks(positives, np.ones(66), 3000, seed=0)))
    assert len(weights) == 3000
    assert (weights[:, :6].sum(axis=1) > 0).all()


def test_slides_of_one_class_each_are_refused() -> None:
    with pytest.raises(UndefinedScore, match="both classes in 99% of the resamples of 4 groups") as caught:
        list(weights_in_chunks(np.array([1.0, 1, 0, 0]), np.array([0.0, 0, 1, 1]), 500))
    assert "one class only" in caught.value.found
    assert caught.value.do == "judge on more slides of each class"


def test_one_slide_is_refused() -> None:
    with pytest.raises(UndefinedScore, match="at least two groups"):
        list(weights_in_chunks(np.ones(1), np.ones(1)))


def test_nothing_is_averaged_over_a_hole() -> None:
    with pytest.raises(UndefinedScore, match="found 1 without"):
        percentile_interval(np.array([0.1, np.nan, 0.3]))
    assert percentile_interval(np.arange(101.0)) == pytest.approx((2.5, 97.5))


def test_percentiles_of_few_groups_end_where_student_s_interval_of_a_mean_does() -> None:
    """Resampled means of k normal numbers spread by sqrt((k - 1) / k) of the standard error; its interval is t standard errors wide."""
    for k in (5, 20, 200):
        error = 1.7
        resampled = norm.ppf((np.arange(200_000) + 0.5) / 200_000) * error * ((k - 1) / k) ** 0.5
        low, high = percentile_interval(resampled, degrees=k - 1)
        assert (low, high) == pytest.approx((-error * t.ppf(0.975, k - 1), error * t.ppf(0.975, k - 1)), rel=0.01)


def test_degrees_count_equally_large_groups_of_the_rarer_kind() -> None:
    labels, codes = np.repeat([1, 0], [40, 60]), np.concatenate([np.repeat(np.arange(4), 10), np.repeat(np.arange(10), 6)])
    model = Resampler(ranked(labels, np.arange(100.0), codes, 10))
    assert model.degrees == pytest.approx(3)
    assert tails(float("inf")) == pytest.approx((0.025, 0.975))
