"""The best validation AUROC so far against the minutes since the start: what a shorter run of the same plan would have had."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sentinode.errors import RunProblem
from sentinode.report.learning import check_history
from sentinode.report.style import FLOOR, MODEL, POSITIVE, look, new_figure, save_as


def write_so_far(path: Path, history: pd.DataFrame, minutes: float) -> Path:
    """Draw history.csv against time, as the ending of `path` says; `minutes` is the deadline.

    `history` has one row an epoch, with `seconds` since the start of the command. Raises RunProblem as `check_history` does, or if
    the seconds are missing or do not grow.
    """
    check_history(history)
    if "seconds" not in history or not (np.diff(history["seconds"].to_numpy(float), prepend=0) >= 0).all():
        found = "seconds that do not" if "seconds" in history else "no seconds"
        raise RunProblem("a history whose seconds grow from row to row", found, "train again")
    with look():
        figure = new_figure((4.3, 3.4))
        draw_so_far(figure.add_subplot(), history, minutes)
        return save_as(figure, path)


def draw_so_far(axes: Axes, history: pd.DataFrame, minutes: float) -> None:
    """Draw each epoch's AUROC and, as steps to the right, the best so far; the deadline is a line."""
    at, values = history["seconds"].to_numpy(float) / 60, history["valid_auroc"].to_numpy(float)
    best = np.maximum.accumulate(values)
    axes.plot(at, values, color=FLOOR, ls="none", marker="s", ms=3.5, label="epoch")
    axes.plot([*at, max(minutes, at[-1])], [*best, best[-1]], color=MODEL, lw=2, drawstyle="steps-post", label="best so far")
    axes.axvline(minutes, color=POSITIVE, lw=1.2, ls="--", label=f"deadline, {minutes:g} min")
    axes.set(xlabel="minutes since the start", ylabel="validation AUROC", title="AUROC so far", xlim=(0, None))
    axes.legend(loc="lower right")
