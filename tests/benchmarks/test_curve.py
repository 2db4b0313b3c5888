"""The line of a learning curve."""

import pytest

from benchmarks.curve import gain_of, tiles_for


def test_a_line_is_found_again() -> None:
    tiles = [1000, 2000, 4000, 4000]
    assert gain_of(tiles, [0.90, 0.91, 0.92, 0.92]) == pytest.approx(0.01)


def test_tiles_for_a_bar_follow_the_line() -> None:
    assert tiles_for(0.94, 0.01, 4000, 0.92) == pytest.approx(16000)
    assert tiles_for(0.92, 0.01, 4000, 0.92) == pytest.approx(4000)
    assert tiles_for(0.94, -0.001, 4000, 0.92) == float("inf")
