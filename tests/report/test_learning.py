"""The learning curve marks the epoch with the highest AUROC and refuses what it cannot draw."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from sentinode.errors import RunProblem
from sentinode.report.learning import draw_auroc, draw_losses, write_learning_curve


def history(n: int = 4) -> pd.DataFrame:
    auroc = np.array([0.7, 0.95, 0.9, 0.93])[:n]
    return pd.DataFrame({"epoch": range(n), "train_loss": np.linspace(0.6, 0.2, n), "valid_loss": 0.5, "valid_auroc": auroc})


def test_the_best_epoch_is_marked() -> None:
    axes = Figure().add_subplot()
    draw_auroc(axes, history())
    star = axes.lines[1]
    assert star.get_label() == "best: epoch 2, AUROC 0.950"
    assert [np.asarray(star.get_xdata()).item(), np.asarray(star.get_ydata()).item()] == [2, 0.95]


def test_losses_differ_in_line_as_well_as_in_colour() -> None:
    axes = Figure().add_subplot()
    draw_losses(axes, history())
    training, validation = axes.lines
    assert training.get_linestyle() != validation.get_linestyle()
    assert training.get_marker() != validation.get_marker()
    assert list(np.asarray(training.get_ydata())) == pytest.approx(list(history()["train_loss"]))


@pytest.mark.parametrize("n", [1, 4])
def test_written_twice_the_same(tmp_path: Path, n: int) -> None:
    first, second = (write_learning_curve(tmp_path / name, history(n)) for name in ("a", "b"))
    assert [path.name for path in first] == ["learning.svg", "learning.png"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@pytest.mark.parametrize(
    ("broken", "found"),
    [
        (history().drop(columns="valid_auroc"), "no valid_auroc"),
        (history().iloc[:0], "no epoch"),
        (history().assign(valid_loss=[0.5, "=1+1", 0.4, 0.3]), "'=1+1' (row 2)"),
        (history().assign(train_loss=[0.5, 0.4, np.nan, 0.3]), "'nan' (row 3)"),
    ],
)
def test_a_history_that_cannot_be_drawn_is_refused(tmp_path: Path, broken: pd.DataFrame, found: str) -> None:
    with pytest.raises(RunProblem) as caught:
        write_learning_curve(tmp_path, broken)
    assert found == caught.value.found
    assert list(tmp_path.iterdir()) == []
