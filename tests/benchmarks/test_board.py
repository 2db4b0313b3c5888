"""The board names what was not measured, and holds no folder of the machine."""

import argparse
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import board
from benchmarks.board import ROWS, lines_of, longer_runs, page, run_suite, words_of
from benchmarks.environments import HOME, PACKAGES
from benchmarks.records import Figure, Record, conditions

CHOSEN = {"environments": HOME, "minutes": [1.0], "peers": ["timm-switches"]}


def record(suite: str) -> Record:
    rows = [row for row in ROWS if row.suite == suite]
    figures = {name: Figure(2.0, "2.0x", "x") for row in rows for name in (row.figure, row.bound) if name}
    return Record(suite, "", {}, {}, figures, {})


def test_every_suite_of_the_board_stands_on_its_page(tmp_path: Path) -> None:
    found: dict[str, Record | str] = {row.suite: record(row.suite) for row in ROWS}
    assert [row for row, _, _ in lines_of(found)] == list(ROWS)
    text = page(found | {"minutes": "random tiles"}, conditions(), 8.0, tmp_path)
    assert text.count("2.0x of ") == sum(bool(row.bound) for row in ROWS)
    assert "- minutes: not measured: random tiles" in text


def test_the_page_leads_to_the_longer_runs_where_it_lies_beside_them(tmp_path: Path) -> None:
    assert longer_runs(tmp_path) == ""
    links = re.findall(r"\((.*?)\)", longer_runs(board.OUT))
    assert [Path(link).name for link in links] == ["scaling.png", "README.md", "minutes.png", "README.md"]
    assert all((board.OUT / link).is_file() for link in links)


def test_a_peer_that_cannot_be_installed_is_not_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def failing(*_: object) -> Path:
        raise subprocess.CalledProcessError(1, ["pip", "install", str(tmp_path)])

    monkeypatch.setattr(board, "home_of", failing)
    said = run_suite("predict", tmp_path, tmp_path, argparse.Namespace(**CHOSEN))
    assert said == "its peer could not be installed (CalledProcessError)"


def test_a_suite_that_fails_says_so_without_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = f"import sys; sys.exit('no file {tmp_path.as_posix()}/x here')"
    real = subprocess.run
    monkeypatch.setattr("subprocess.run", lambda _, **how: real([sys.executable, "-c", code], **how))
    assert run_suite("pack", tmp_path, tmp_path, argparse.Namespace(**CHOSEN)) == "no file DIR here"


def test_one_minute_needs_no_other_environment_and_one_epoch() -> None:
    words = words_of("minutes", argparse.Namespace(**CHOSEN))
    assert words == ["--each", "--deadlines", "1", "--peers", "timm-switches", "--epochs", "1"]
    assert "--epochs" not in words_of("minutes", argparse.Namespace(**CHOSEN | {"minutes": [1.0, 5.0]}))


def test_peers_of_the_board_have_packages() -> None:
    assert set(board.HOMES.values()) | {"fastai"} == set(PACKAGES)
