"""The disk is measured with a file that is gone afterwards; a folder that cannot be written is said so."""

from pathlib import Path

import pytest

from sentinode.errors import MachineProblem
from sentinode.machine.disk import disk_speed


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
