"""The search in cells: what it finds is near, small sets are searched whole, planted copies are found among thousands."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from sentinode.qc.cells import near_in_cells

Points = npt.NDArray[np.float32]


def pairs(points: Points, others: Points, radius: float, most: int = 1000, workers: int = 2) -> list[tuple[int, int]]:
    return [
        (int(a), int(b))
        for rows, columns in near_in_cells(points, others, radius, most, workers)
        for a, b in zip(rows, columns, strict=True)
    ]


def sphere(n: int, seed: int, d: int = 25) -> Points:
    """Return points on a sphere, in clumps, as landmarks are."""
    rng = np.random.default_rng(seed)
    made = rng.normal(size=(40, d))[rng.integers(40, size=n)] + 0.4 * rng.normal(size=(n, d))
    unit: Points = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)
    return unit


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 10_000), st.floats(0.1, 1.5))
@settings(max_examples=40, deadline=None)
def test_few_points_are_searched_whole(n: int, m: int, seed: int, radius: float) -> None:
    points, others = sphere(n, seed, 3), sphere(m, seed + 1, 3)
    apart = cdist(points, others) if n and m else np.empty((n, m))
    found = pairs(points, others, radius)
    assert len(set(found)) == len(found)
    assert {(int(a), int(b)) for a, b in np.argwhere(apart <= radius - 1e-3)} <= set(found)
    assert all(apart[a, b] <= radius + 1e-3 for a, b in found)


def test_planted_copies_are_found_among_thousands_whatever_the_threads() -> None:
    points = sphere(6000, 0)
    shift = sphere(6000, 1) * np.float32(0.1)
    found = pairs(points, points + shift, 0.25, most=8)
    assert set(found) >= {(at, at) for at in range(6000)}
    assert found == pairs(points, points + shift, 0.25, most=8, workers=1)


@pytest.mark.parametrize("most", [1, 5])
def test_of_points_that_are_all_alike_the_nearest_few_are_taken(most: int) -> None:
    points = (np.arange(30, dtype=np.float32)[:, None] * np.float32(0.01)) @ np.ones((1, 2), np.float32)
    found = pairs(points, points[:5], 9.0, most)
    for at in range(30):
        near = [b for a, b in found if a == at]
        assert len(near) <= 5
        assert min(near, key=lambda b: abs(b - at)) == min(at, 4)
