"""The disk is measured with a file that is gone afterwards; a folder that cannot be written is said so."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sentinode.errors import MachineProblem
from sentinode.machine.disk import disk_speed, scattered_speed


def test_rates_are_positive_and_nothing_stays_behind(tmp_path: Path) -> None:
    speed = disk_speed(tmp_path, size=1 << 20)
    assert speed.write > 0
    assert speed.read > 0
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_an_error_in_three_parts(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MachineProblem) as caught:
        disk_speed(tmp_path / "file")
    assert "can be written" in caught.value.expected
    assert caught.value.found
    assert "choose another" in caught.value.do


def test_pieces_are_read_here_and_there_until_none_is_left_or_the_time_is_up(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(1 << 16))
    seen = []

    def places() -> Iterator[int]:
        for place in (40_000, 0, 20_000):
            seen.append(place)
            yield place

    rate, cold = scattered_speed(tmp_path / "file", places(), 1000, 60.0)
    assert rate > 0
    assert cold is hasattr(os, "posix_fadvise")
    assert seen == [40_000, 0, 20_000]
    scattered_speed(tmp_path / "file", places(), 1000, 0.0)
    assert len(seen) == 4
    with pytest.raises(FileNotFoundError):
        scattered_speed(tmp_path / "gone", places(), 1000)
