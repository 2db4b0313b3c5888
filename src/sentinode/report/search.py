"""The picture of a search: a table of values where two settings make a grid, otherwise AUROC against trial with the best so far."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from sentinode.errors import RunProblem, shown
from sentinode.report.style import FLOOR, MODEL, POSITIVE, QUIET, caption, look, new_figure, save

LIGHT = 0.55
"""Share of the colour scale above which a cell is dark enough for white letters."""
UNITS = {
    "lr": "peak learning rate",
    "batch": "tiles an optimiser step",
    "epochs": "passes over the training tiles",
    "minutes": "of training",
    "input_size": "pixels of an edge",
    "weight_decay": "decoupled",
}
"""What the number of a setting counts, where its name does not say it."""
MOST = 12
"""Rows and columns a table of values may have and still be legible."""


def write_search(folder: Path, trials: Sequence[Mapping[str, Any]], grid: Mapping[str, Sequence[Any]], note: str) -> list[Path]:
    """Draw a search as search.svg and search.png.

    Parameters
    ----------
    folder
        Where the pictures go.
    trials
        Each with number, state ("done", "pruned", "failed"), auroc (None where it has none) and options by name.
    grid
        Values by setting, empty where trials were drawn. Two settings become a heat map with a number in every cell.
        One has its values side by side.
    note
        Stands under the picture.

    Raises
    ------
    RunProblem
        If no trial has an AUROC.
    """
    if not any(trial["auroc"] is not None for trial in trials):
        raise RunProblem("a trial with an AUROC", f"none of {len(trials)}", "look at the notes in trials.csv")
    with look():
        figure = new_figure()
        axes = figure.add_subplot()
        if len(grid) == 2 and all(len(values) <= MOST for values in grid.values()):
            draw_table(axes, trials, grid)
        elif len(grid) == 1 and all(len(values) <= MOST for values in grid.values()):
            draw_values(axes, trials, grid)
        else:
            draw_course(axes, trials)
        caption(axes, note)
        return save(figure, folder, "search")


def draw_table(axes: Axes, trials: Sequence[Mapping[str, Any]], grid: Mapping[str, Sequence[Any]]) -> None:
    """Draw AUROC over two settings: the first down, the second across; the best cell is framed."""
    (down, rows), (across, columns) = grid.items()
    values = np.full((len(rows), len(columns)), np.nan)
    for trial in trials:
        if trial["auroc"] is not None:
            values[list(rows).index(trial["options"][down]), list(columns).index(trial["options"][across])] = trial["auroc"]
    axes.set_facecolor("#eeeeee")
    axes.imshow(np.ma.masked_invalid(values), cmap="Blues", aspect="auto")
    low, high = np.nanmin(values), np.nanmax(values)
    best = np.unravel_index(int(np.nanargmax(values)), values.shape)
    for row, column in np.ndindex(values.shape):
        value = values[row, column]
        dark = high > low and (value - low) / (high - low) > LIGHT
        text = f"{value:.4f}" if np.isfinite(value) else "failed"
        weight = "bold" if (row, column) == best else "normal"
        axes.text(column, row, text, ha="center", va="center", fontweight=weight, color="white" if dark else "black")
    axes.add_patch(frame(int(best[0]), int(best[1])))
    axes.set_xticks(range(len(columns)), [named(value) for value in columns])
    axes.set_yticks(range(len(rows)), [named(value) for value in rows])
    axes.grid(False)
    axes.set(xlabel=titled(across), ylabel=titled(down), title="Validation AUROC of each trial")


def draw_values(axes: Axes, trials: Sequence[Mapping[str, Any]], grid: Mapping[str, Sequence[Any]]) -> None:
    """Draw AUROC over the values of one setting, each with its number; the best is a star."""
    ((name, values),) = grid.items()
    some = [(list(values).index(trial["options"][name]), trial["auroc"]) for trial in trials if trial["auroc"] is not None]
    x, y = np.array(some, float).T
    axes.plot(x, y, color=MODEL, ls="none", marker="o", ms=6)
    axes.plot(x[y.argmax()], y.max(), color=POSITIVE, marker="*", ms=13, ls="none")
    for at, value in some:
        axes.annotate(f"{value:.4f}", (at, value), xytext=(0, 9), textcoords="offset points", ha="center")
    for at in set(range(len(values))) - set(x.astype(int)):
        axes.annotate("failed", (at, 0.02), xycoords=("data", "axes fraction"), ha="center", color=QUIET)
    axes.set_xticks(range(len(values)), [named(value) for value in values], rotation=30 if len(values) > 6 else 0)
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.margins(y=0.15)
    axes.set(xlabel=titled(name), ylabel="validation AUROC", title="Validation AUROC of each trial")


def titled(name: str) -> str:
    """Return a setting's name with what its number counts."""
    return f"{name} ({UNITS[name]})" if name in UNITS else name


def frame(row: int, column: int) -> Any:
    """Return a frame around one cell."""
    from matplotlib.patches import Rectangle

    # Not clipped: at the edge of the table half of its line lies outside.
    return Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=POSITIVE, lw=2.5, clip_on=False, zorder=5)


def draw_course(axes: Axes, trials: Sequence[Mapping[str, Any]]) -> None:
    """Draw the AUROC of each trial in the order of their numbers, the best so far, and which were pruned."""
    for state, colour, marker, label in (("done", MODEL, "o", "ended"), ("pruned", QUIET, "x", "pruned, its best until then")):
        some = [(trial["number"], trial["auroc"]) for trial in trials if trial["state"] == state and trial["auroc"] is not None]
        if some:
            x, y = np.array(some, float).T
            axes.plot(x, y, color=colour, ls="none", marker=marker, ms=5, label=f"{label} (n = {len(some)})")
    done = [(trial["number"], trial["auroc"]) for trial in trials if trial["state"] == "done"]
    if done:
        x, y = np.array(done, float).T
        last, so_far = max(trial["number"] for trial in trials), np.maximum.accumulate(y)
        axes.step([*x, last], [*so_far, so_far[-1]], color=FLOOR, lw=1.6, where="post", label="best so far")
        axes.plot(x[y.argmax()], y.max(), color=POSITIVE, marker="*", ms=13, ls="none", label=f"best: {y.max():.4f}")
    axes.set(xlabel="number of the trial", ylabel="validation AUROC", title="The course of the search")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="upper center", bbox_to_anchor=(0.45, -0.13), ncols=2)  # below, where it covers no trial


def named(value: Any) -> str:
    """Return a setting's value as a short label."""
    return f"{value:.4g}" if isinstance(value, float) else shown(value, 18).strip("'")
