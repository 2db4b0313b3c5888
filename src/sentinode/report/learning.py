"""The learning curve: losses and validation AUROC by epoch."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from sentinode.errors import RunProblem, shown
from sentinode.report.style import FLOOR, MODEL, POSITIVE, look, new_figure, save

NEEDED = ("train_loss", "valid_loss", "valid_auroc")
"""Columns of history.csv that are drawn."""


def write_learning_curve(folder: Path, history: pd.DataFrame) -> list[Path]:
    """Draw history.csv as learning.svg and learning.png: losses, and validation AUROC with the best epoch marked.

    `history` has one row an epoch, with columns train_loss, valid_loss and valid_auroc. Raises RunProblem if it is empty, a
    column is missing or a value is not a number.
    """
    check_history(history)
    with look():
        figure = new_figure((4.3, 5.2))
        losses, auroc = figure.subplots(2, 1, sharex=True)
        draw_losses(losses, history)
        draw_auroc(auroc, history)
        losses.set_xlabel("")
        return save(figure, folder, "learning")


def check_history(history: pd.DataFrame) -> None:
    """Raise RunProblem where a history cannot be drawn."""
    missing = [name for name in NEEDED if name not in history]
    if missing or history.empty:
        found = f"no {missing[0]}" if missing else "no epoch"
        raise RunProblem(f"a history with {', '.join(NEEDED)}, one row an epoch", found, "train again")
    for name in NEEDED:
        values = pd.to_numeric(history[name], errors="coerce").to_numpy(float)
        if not np.isfinite(values).all():
            row = int(np.argmin(np.isfinite(values)))
            raise RunProblem(f"numbers in {name}", f"{shown(history[name].iloc[row])} (row {row + 1})", "train again")


def draw_losses(axes: Axes, history: pd.DataFrame) -> None:
    """Draw both losses by epoch."""
    epochs = np.arange(1, len(history) + 1)
    axes.plot(epochs, history["train_loss"].to_numpy(float), color=FLOOR, lw=1.6, ls="--", marker="s", ms=3.5, label="training")
    axes.plot(epochs, history["valid_loss"].to_numpy(float), color=MODEL, lw=2, marker="o", ms=3.5, label="validation")
    axes.set(xlabel="epoch", ylabel="loss (nats a tile)", title="Learning curve", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="upper right")


def draw_auroc(axes: Axes, history: pd.DataFrame) -> None:
    """Draw the validation AUROC by epoch and mark the best epoch, the one that is kept."""
    values = history["valid_auroc"].to_numpy(float)
    epochs = np.arange(1, len(values) + 1)
    best = int(values.argmax())
    axes.plot(epochs, values, color=MODEL, lw=2, marker="o", ms=3.5, label="validation")
    label = f"best: epoch {best + 1}, AUROC {values[best]:.3f}"
    axes.plot(epochs[best], values[best], color=POSITIVE, marker="*", ms=13, ls="none", label=label)
    axes.set(xlabel="epoch", ylabel="validation AUROC")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="lower right")
