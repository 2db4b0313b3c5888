"""What a peer has by a deadline, how many epochs it plans, and when it is looked at."""

import argparse
import itertools
from pathlib import Path

import pytest

from benchmarks import goal_peers
from benchmarks.clock import Measured
from benchmarks.goal import PEERS
from benchmarks.minutes import NAMES, auroc_table, by, draw, few, figures_of, plan, reached_after
from benchmarks.records import Record
from benchmarks.synthetic import write_folder

LOOKS: list[Measured] = [
    {"seconds": 290.0, "curve": [(30.0, 0.76), (64.0, 0.91), (200.0, 0.88)]},
    {"seconds": 59.0, "curve": [(59.0, 0.84)]},
]


def test_by_a_deadline_the_best_look_until_then_counts() -> None:
    assert by(LOOKS[:1], 0.4) is None
    assert by(LOOKS[:1], 1) == 0.76, "the look at 64 s is too late for one minute"
    assert by(LOOKS, 1) == 0.84
    assert by(LOOKS, 61 / 60) == 0.91, "up to 5 % late"
    assert by(LOOKS, 20) == 0.91


def test_the_goal_is_reached_with_the_first_look_that_sees_it() -> None:
    assert reached_after(LOOKS) == 64.0
    assert reached_after(LOOKS[1:]) is None


@pytest.mark.parametrize(("minutes", "epochs"), [(1, 1), (5, 2), (20, 11)])
def test_epochs_are_those_that_fit(minutes: float, epochs: int) -> None:
    """A quarter of an epoch in 25 s, after a start of 10 s: 290 s hold 2.9 epochs and 1,190 s hold 11.9."""
    curve = [(35.0, 0.7), (60.0, 0.8)]
    assert plan("timm", minutes, curve) == epochs
    assert plan("fastai", minutes, curve) == max(1, epochs - 1), "its head alone is trained for one more"


@pytest.mark.parametrize(("quarter_at", "seconds"), [(None, [10.0, 15.0]), (4, [5.0, 10.0, 15.0])])
def test_a_peer_is_judged_just_before_each_deadline(
    monkeypatch: pytest.MonkeyPatch, quarter_at: int | None, seconds: list[float]
) -> None:
    """Steps of a second, deadlines at 10 and 15 s: looked at when one more step would end behind them."""
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    options = argparse.Namespace(goal=2.0, minutes=0.25, looks=None, at=[1 / 6])
    judged = goal_peers.Judged(options)
    judged.scores = lambda: ([0, 1], [0.0, 1.0])
    for step in itertools.count():
        clock[0] += 1.0
        judged.step(quarter=step == quarter_at)
        if judged.over:
            break
    assert [at for at, _ in judged.curve] == seconds
    assert clock[0] == 15.0, "over with the step that reaches the limit"


def made() -> Record:
    one: Measured = {"seconds": 58.0, "n": 9, "trained": "simple-cnn, scratch", "curve": [(58.0, 0.8)]}
    frozen: Measured = {"seconds": 48.0, "n": 9, "trained": "lite0, frozen", "curve": [(48.0, 0.91)]}
    raw = {"ours_1": [[one]], "ours_5": [[one | {"curve": [(299.0, 0.95)]}]], "ours-frozen": [[frozen]], "timm": [LOOKS[:1]]}
    flat = {name: [training | {"turn": 1} for turn in turns for training in turn] for name, turns in raw.items()}
    return Record("minutes", "", {}, flat, figures_of(raw, [1, 5]), {"deadlines": [1, 5], "n": 9})


def test_figures_are_of_the_deadlines() -> None:
    figures = made().figures
    assert {name: figures[name].value for name in ("ours_at_1", "ours_at_5", "ours-frozen_at_1", "timm_at_1", "timm_at_5")} == {
        "ours_at_1": 0.8,
        "ours_at_5": 0.95,
        "ours-frozen_at_1": 0.91,
        "timm_at_1": 0.76,
        "timm_at_5": 0.91,
    }
    assert figures["speedup_timm"].value == pytest.approx(64 / 48)


def test_the_table_has_a_line_each(tmp_path: Path) -> None:
    record = made()
    lines = auroc_table(record).splitlines()
    assert lines[0] == "| AUROC on other slides, by | 1 min | 5 min |"
    assert lines[-1].split(" | ")[1:] == ["0.7600", "0.9100 |"]
    draw(record, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"minutes.svg", "minutes.png"}


def test_few_tiles_keep_the_layout(tmp_path: Path) -> None:
    home = tmp_path / "all"
    write_folder(home / "kaggle", 6)
    for part in ("train", "valid"):
        for label in "01":
            (home / "pcam" / part / label).mkdir(parents=True)
            for name in "abc":
                (home / "pcam" / part / label / f"{name}.tif").write_bytes(b"")
    small = few(home, tmp_path / "few", 4)
    assert len((small / "kaggle/train_labels.csv").read_text(encoding="utf-8").split()) == 5
    assert len(list((small / "kaggle/train").iterdir())) == 4
    assert len(list((small / "pcam/valid").glob("*/*"))) == 4


def test_every_peer_has_its_name() -> None:
    assert set(PEERS) <= set(NAMES)
