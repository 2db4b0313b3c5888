"""The AUROC's interval where DeLong's has no answer."""

import numpy as np
import pytest

from sentinode.judge.auroc import auroc, tile_interval


def test_perfect_separation_does_not_give_an_empty_interval() -> None:
    labels, scores = np.repeat([0, 1], 20), np.arange(40)
    low, high, method = tile_interval(labels, scores)
    assert auroc(labels, scores) == high == 1
    # Newcombe's equation, solved by substitution: |1 - t| = z sqrt(V(t)).
    spread = low * (1 - low) * (1 + 19 * (1 - low) / (2 - low) + 19 * low / (1 + low)) / 400
    assert 1 - low == pytest.approx(1.959963984540054 * spread**0.5, abs=1e-9)
    assert 0.8 < low < 0.95
    assert method == "Newcombe's score interval"


def test_the_worst_model_mirrors_the_best() -> None:
    labels, scores = np.repeat([0, 1], 20), np.arange(40)
    low, high, _ = tile_interval(labels, -scores)
    assert low == 0
    assert 0.05 < high < 0.2


def test_one_tile_of_a_class_still_has_an_interval() -> None:
    low, high, method = tile_interval(np.array([1, 0, 0, 0, 0]), np.array([3.0, 1, 2, 4, 0]))
    assert 0 < low < 0.75 < high < 1
    assert method == "Newcombe's score interval"


def test_the_interval_stays_inside_0_and_1_near_the_ends() -> None:
    labels = np.repeat([0, 1], 30)
    scores = np.arange(60.0)
    scores[[29, 30]] = scores[[30, 29]]
    low, high, method = tile_interval(labels, scores)
    assert 0 < low < auroc(labels, scores) < high < 1
    assert method == "DeLong"
