"""The picture a newcomer wants: how it learned, what it is worth beside colour alone, and which tiles it got right and wrong."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from sentinode.errors import UndefinedScore
from sentinode.report.figures import Numbers, check, draw_roc, footnote
from sentinode.report.gallery import surest_first
from sentinode.report.learning import check_history, draw_auroc, draw_losses
from sentinode.report.style import MODEL, POSITIVE, caption, look, new_figure, save_as

COLUMNS = 8
"""Tiles in a row of the grid."""
CLASS_WORDS = ("negative", "positive")
"""How labels 0 and 1 are called under a tile."""


def write_overview(
    path: Path,
    history: pd.DataFrame,
    labels: Numbers,
    probability: Numbers,
    floor: Numbers | None,
    tiles: Sequence[npt.NDArray[np.uint8]] | npt.NDArray[np.uint8],
    judgement: dict[str, Any],
) -> list[Path]:
    """Draw learning curve, ROC with floor, and a grid of right and wrong tiles into one PNG.

    Parameters
    ----------
    path
        The PNG to write.
    history
        As for `write_learning_curve`.
    labels, probability, floor
        Labels [n] 0 or 1, probability [n] in [0, 1], and colour alone's probability [n] or None.
    tiles
        uint8 [n, px, px, 3] or n of [px, px, 3], in the order of the scores; only those shown are read.
    judgement
        What judgement.json holds.

    Returns
    -------
    list of Path
        The one file.

    Raises
    ------
    UndefinedScore, RunProblem
        If a curve cannot be drawn, or tiles and scores differ in number.
    """
    check(labels, probability, floor)
    check_history(history)
    if len(tiles) != len(labels):
        raise UndefinedScore("a score for each tile", f"{len(labels):,} scores, {len(tiles):,} tiles", "score this store again")
    right, wrong = choose_tiles(labels, probability, float(judgement["threshold"]["value"]))
    with look():
        figure = new_figure((11, 8.6))
        grid = figure.add_gridspec(3, COLUMNS, height_ratios=(3.4, 1.25, 1.25))
        curves = grid[0, :].subgridspec(1, 3, width_ratios=(1, 1, 1.1))
        losses, auroc, roc = (figure.add_subplot(curves[0, column]) for column in range(3))
        draw_losses(losses, history)
        draw_auroc(auroc, history)
        auroc.set_title("The epoch that is kept")
        draw_roc(roc, labels, probability, floor, judgement)
        rows = (("right, taken evenly", right, MODEL), ("wrong, surest first", wrong, POSITIVE))
        for row, (title, chosen, colour) in enumerate(rows, 1):
            for column in range(COLUMNS):
                axes = figure.add_subplot(grid[row, column])
                axes.set_axis_off()
                if column == 0:
                    axes.set_title(title if len(chosen) else f"{title}: none", loc="left", fontsize=10, pad=16)
                if column < len(chosen):
                    at = chosen[column]
                    draw_tile(axes, np.asarray(tiles[at]), int(labels[at]), float(probability[at]), colour)
        caption(roc, "The square in a tile is the centre that its label is about. " + footnote(judgement), width=160)
        return [save_as(figure, path, dpi=130)]


def choose_tiles(labels: Numbers, probability: Numbers, cut: float) -> tuple[list[int], list[int]]:
    """Return rows of up to COLUMNS right tiles, both classes in turn evenly over their scores, and of the surest wrong ones."""
    is_right = (probability >= cut) == (labels == 1)
    right: list[int] = []
    for label in (1, 0):
        rows = np.flatnonzero(is_right & (labels == label))
        rows = rows[np.argsort(-probability[rows], kind="stable")]
        picks = np.linspace(0, max(len(rows) - 1, 0), min(COLUMNS // 2, len(rows))).round().astype(np.intp)
        right += rows[picks].tolist()
    return right, [int(row) for row in surest_first(labels, probability, cut)[:COLUMNS]]


def draw_tile(axes: Axes, tile: npt.NDArray[np.uint8], label: int, probability: float, colour: str) -> None:
    """Draw a tile in a coloured frame, its deciding centre in a thin one, with probability and truth above."""
    px = len(tile)
    axes.imshow(tile, interpolation="nearest")
    axes.add_patch(Rectangle((-0.5, -0.5), px, px, fill=False, edgecolor=colour, lw=3))
    start = px / 3 - 0.5
    axes.add_patch(Rectangle((start, start), px / 3, px / 3, fill=False, edgecolor="white", lw=1.1))
    axes.add_patch(Rectangle((start, start), px / 3, px / 3, fill=False, edgecolor="black", lw=0.5, ls=":"))
    axes.text(px / 2, -4 * px / 96, f"p {probability:.2f}, is {CLASS_WORDS[label]}", ha="center", va="bottom", fontsize=8)
