"""The picture of a comparison: each contestant's AUROC with its interval and rank letters, the best on top."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from sentinode.errors import UndefinedScore, shown
from sentinode.report.style import (
    FLOOR,
    MODEL,
    PHONE_IN,
    POSITIVE,
    QUIET,
    as_bytes,
    auroc_axis,
    caption,
    in_both_lights,
    look,
    new_figure,
    save,
)

MOST = 24
"""Contestants that are drawn; more are not legible."""
MOST_WARNINGS = 5
"""Warnings that stand under the picture."""
NAME = 40
"""Letters of a name at most."""
WIDTH = 96
"""Letters in a line under the picture."""


def write_comparison(folder: Path, comparison: dict[str, Any]) -> list[Path]:
    """Draw a comparison as comparison.svg and comparison.png.

    Parameters
    ----------
    folder
        Where the pictures go; made if need be.
    comparison
        What comparison.json holds.

    Returns
    -------
    list of Path
        The two files; the same input gives the same bytes.

    Raises
    ------
    UndefinedScore
        If there is no contestant.
    """
    drawn = drawn_of(comparison)
    text = note(comparison, len(drawn))
    n_lines = sum(1 + len(line) // WIDTH for line in text.splitlines())
    with look():
        figure = new_figure((6.2, 1.3 + 0.5 * len(drawn) + 0.14 * n_lines))
        axes = figure.add_subplot()
        draw_contestants(axes, drawn)
        caption(axes, text, width=WIDTH)
        return save(figure, folder, "comparison")


def comparison_picture(comparison: dict[str, Any]) -> bytes:
    """Return the picture of `write_comparison` as SVG, without its caption: for a page that says it all once.

    It is as wide as a phone and turns dark where the page around it does.
    """
    drawn = drawn_of(comparison)
    with look():
        figure = new_figure((PHONE_IN[0], 0.8 + 0.5 * len(drawn)))
        draw_contestants(figure.add_subplot(), drawn)
        return in_both_lights(as_bytes(figure, "svg"))


def drawn_of(comparison: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the contestants that are drawn, with their names."""
    if not comparison["contestants"]:
        raise UndefinedScore("at least one contestant to draw", "none", "compare some runs first")
    return list(comparison["contestants"].items())[:MOST]


def draw_contestants(axes: Axes, drawn: list[tuple[str, dict[str, Any]]]) -> None:
    """Draw one line a contestant from the top: name, below it interval and estimate (runs of a recipe as ticks), letters at the right."""
    names = [name for name, _ in drawn]
    for at, (_, one) in enumerate(drawn):
        auroc, is_floor = one["auroc"], one["kind"] == "floor"
        colour = POSITIVE if one["contaminated"] else FLOOR if is_floor else MODEL
        axes.plot([auroc["low"], auroc["high"]], [at, at], color=colour, lw=2, ls="--" if is_floor else "-")
        axes.plot(auroc["estimate"], at, color=colour, marker="s" if is_floor else "o", ms=6)
        cells = [cell["auroc"] for cell in one.get("seeds_and_folds", {}).get("cells", ())]
        axes.plot(cells, [at] * len(cells), color="black", marker="|", ms=9, ls="none")
        text = f"{auroc['estimate']:.3f}  {one['rank']}"
        axes.annotate(text, (1.01, at), xycoords=("axes fraction", "data"), va="center")
        name = shown(names[at], NAME)[1:-1] + (" (contaminated)" if one["contaminated"] else "")
        axes.annotate(name, (0.01, at - 0.32), xycoords=("axes fraction", "data"), va="center", fontsize=8.5, parse_math=False)
    axes.axvline(0.5, color=QUIET, lw=1, ls=":")
    axes.set_yticks(range(len(drawn)), [""] * len(drawn))
    axes.tick_params("y", length=0)
    axes.set_ylim(len(drawn) - 0.6, -0.65)
    auroc_axis(axes, min(one["auroc"]["low"] for _, one in drawn))
    axes.set_title("Who is told apart")


def note(comparison: dict[str, Any], drawn: int) -> str:
    """Say under the picture what it shows, how its intervals were made, how letters are read, and every warning."""
    contestants = comparison["contestants"]
    slides = f"{comparison['n_groups']:,} slides" if comparison["n_groups"] else "slides not known"
    left = f" {len(contestants) - drawn} more are not drawn." if len(contestants) > drawn else ""
    method = next(iter(contestants.values()))["auroc"]["method"]
    lines = [f"{comparison['n']:,} tiles, {slides}. Interval: {method}.{left}"]
    lines.append("Contestants that share a letter are not told apart (p after Holm's correction at least 5 %).")
    if any("seeds_and_folds" in one for one in contestants.values()):
        lines.append("Ticks: single runs of a recipe.")
    warnings = [f"Warning: {text}." for text in comparison["warnings"]]
    if len(warnings) > MOST_WARNINGS:
        warnings = [*warnings[:MOST_WARNINGS], f"{len(warnings) - MOST_WARNINGS} more warnings in comparison.json."]
    return "\n".join([*lines, *warnings])
