"""The line of a learning curve."""

import pytest

from benchmarks.curve import NETWORKS, gain_of, ladder_row, tiles_for
from benchmarks.records import latest


def test_a_line_is_found_again() -> None:
    tiles = [1000, 2000, 4000, 4000]
    assert gain_of(tiles, [0.90, 0.91, 0.92, 0.92]) == pytest.approx(0.01)


def test_tiles_for_a_bar_follow_the_line() -> None:
    assert tiles_for(0.94, 0.01, 4000, 0.92) == pytest.approx(16000)
    assert tiles_for(0.92, 0.01, 4000, 0.92) == pytest.approx(4000)
    assert tiles_for(0.94, -0.001, 4000, 0.92) == float("inf")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_ladder_has_the_point_of_all_tiles(name: str) -> None:
    ladder = latest("ladder")
    row = ladder_row(ladder, name)
    assert row["n"] == 6300, "nine tenths of 7,000"
    rung = next(one for one in ladder.raw["rungs"] if one["name"] == name)
    assert row["test"]["estimate"] >= rung["test"]["estimate"] - 1e-9, "views did not harm a rung of this record"
