"""The curve so far: what it draws, and histories that it cannot be drawn of."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sentinode.errors import RunProblem
from sentinode.report.so_far import draw_so_far, write_so_far
from sentinode.report.style import look, new_figure


def history(seconds: list[float], aurocs: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"train_loss": 0.5, "valid_loss": 0.6, "valid_auroc": aurocs, "seconds": seconds})


def test_the_best_so_far_never_falls_and_reaches_the_deadline() -> None:
    with look():
        axes = new_figure().add_subplot()
        draw_so_far(axes, history([12, 24, 36, 48], [0.7, 0.8, 0.75, 0.9]), 1.0)
    epochs, best, deadline = axes.get_lines()
    np.testing.assert_allclose(np.asarray(epochs.get_xdata(), float), [0.2, 0.4, 0.6, 0.8])
    np.testing.assert_allclose(np.asarray(best.get_xdata(), float), [0.2, 0.4, 0.6, 0.8, 1.0])
    np.testing.assert_allclose(np.asarray(best.get_ydata(), float), [0.7, 0.8, 0.8, 0.9, 0.9])
    assert best.get_drawstyle() == "steps-post"
    assert set(np.asarray(deadline.get_xdata(), float)) == {1.0}


def test_the_same_history_gives_the_same_bytes(tmp_path: Path) -> None:
    told = history([12, 24], [0.7, 0.8])
    first, second = (write_so_far(tmp_path / name, told, 1.0).read_bytes() for name in ("a.svg", "b.svg"))
    assert first == second


@pytest.mark.parametrize(
    ("told", "found"),
    [
        (history([24, 12], [0.7, 0.8]), "seconds that do not"),
        (history([12, 24], [0.7, 0.8]).drop(columns="seconds"), "no seconds"),
        (history([], []), "no epoch"),
    ],
)
def test_a_history_without_growing_seconds_is_told(tmp_path: Path, told: Any, found: str) -> None:
    with pytest.raises(RunProblem) as caught:
        write_so_far(tmp_path / "x.svg", told, 1.0)
    assert caught.value.expected.startswith("a history")
    assert caught.value.found == found
    assert caught.value.do == "train again"
