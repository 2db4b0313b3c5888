"""The ladder's picture: AUROC against minutes of training, each rung labelled where it stands, the floor as a line."""

import math
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from sentinode.report.style import FLOOR, MODEL, POSITIVE, QUIET, WRONG, caption, look, new_figure, save

SIZE_IN = (6.4, 4.6)
"""Inches of the picture."""
LEAST_MINUTES = 1e-3
"""Shorter trainings stand here: a logarithmic axis has no 0."""
MARKS = {
    "simple-cnn": (MODEL, "o"),
    "p4m-cnn": (MODEL, "D"),
    "frozen": (POSITIVE, "s"),
    "finetune": (POSITIVE, "^"),
    "ensemble": (WRONG, "*"),
}
"""Colour and mark of a rung: told apart without the colour."""
AROUND = [
    (x, y)
    for far in (1.0, 2.2, 3.6, 5.0)
    for x, y in ((far, 0), (-far, 0), (far, far), (-far, far), (far, -far), (-far, -far), (0, 1.6 * far), (0, -1.6 * far))
]
"""Where a label may stand about its mark, nearest first, in steps of STEP_PT."""
LEFT, RIGHT = 0.12, 0.34
"""Shares of the width that stay free beside the marks: on the right the longest label has room."""
Mark = tuple[float, dict[str, Any], str, str]
"""Where a rung stands: minutes, figure, label and colour."""
STEP_PT = 9.0
"""Points of a step."""


def write_climb(folder: Path, values: dict[str, Any]) -> list[Path]:
    """Draw ladder.svg and ladder.png from what ladder.json holds; the same values give the same bytes."""
    on = values["judged"][-1]["name"]
    with look():
        figure = new_figure(SIZE_IN)
        axes = figure.add_subplot()
        rungs = [row for row in values["rungs"] if row["name"] != "floor"]
        floor = next((row for row in values["rungs"] if row["name"] == "floor"), None)
        axes.set(xscale="log", xlabel="minutes of training (logarithmic)", ylabel=f"AUROC on {on}", title="The ladder")
        caption(axes, footnote(values, on), width=125)
        place_axes(axes, rungs, floor, on)
        marks = [draw_rung(axes, row, on) for row in rungs]
        if floor:
            draw_floor(axes, floor, on)
        label_rungs(figure, axes, marks, floor, on)
        return save(figure, folder, "ladder")


def footnote(values: dict[str, Any], on: str) -> str:
    """Say which tiles judged, how intervals are made, and what stands in the way of believing them."""
    part = values["judged"][-1]
    slides = f"{part['n_groups']:,} slides" if part["n_groups"] else "slides not known"
    chose = "these tiles also chose" if part["chose"] else "these tiles chose nothing"
    method = values["rungs"][0][on]["method"]
    lines = [f"{part['n']:,} tiles, {slides}; {chose}; bars: 95 % interval, {method}."]
    if values["contaminated"]:
        lines.append("CONTAMINATED: some of these tiles or slides were trained on.")
    return "\n".join(lines)


def place_axes(axes: Axes, rungs: list[dict[str, Any]], floor: dict[str, Any] | None, on: str) -> None:
    """Set limits with room for labels on all sides, and plain numbers along the logarithmic axis."""
    minutes = [max(row["minutes"], LEAST_MINUTES) for row in rungs] or [1.0]
    drawn = [row[on] for row in (*rungs, *([floor] if floor else []))]
    low, high = min(one["low"] for one in drawn), max(one["high"] for one in drawn)
    pad = max(0.12 * (high - low), 0.004)
    whole = max(math.log(max(minutes) / min(minutes)), math.log(4)) / (1 - LEFT - RIGHT)
    ends = (min(minutes) * math.exp(-LEFT * whole), min(minutes) * math.exp((1 - LEFT) * whole))
    axes.set(xlim=ends, ylim=(low - pad, high + pad))
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def draw_rung(axes: Axes, row: dict[str, Any], on: str) -> Mark:
    """Draw a rung's mark and its interval; return its minutes, figure, label and colour."""
    colour, mark = MARKS.get(row["name"], (QUIET, "o"))
    at, figure = max(row["minutes"], LEAST_MINUTES), row[on]
    axes.plot([at, at], [figure["low"], figure["high"]], color=colour, lw=1.4, zorder=2)
    axes.plot(
        [at], [figure["estimate"]], color=colour, marker=mark, ms=11 if mark == "*" else 7, mec="white", ls="none", zorder=3
    )
    more = " (minutes: at least)" if row["minutes_lack"] else ""
    return at, figure, f"{row['title']} {figure['estimate']:.3f}{more}", colour


def draw_floor(axes: Axes, row: dict[str, Any], on: str) -> None:
    """Draw the floor as a line with its interval as a band."""
    figure = row[on]
    axes.axhspan(figure["low"], figure["high"], color=FLOOR, alpha=0.15, lw=0)
    axes.axhline(figure["estimate"], color=FLOOR, lw=1.6, ls="--")


def name_floor(axes: Axes, row: dict[str, Any], on: str, taken: list[Bbox]) -> None:
    """Write the floor's name along its line where it touches least."""
    level, notes = row[on]["estimate"], []
    for across, sideways in ((0.01, "left"), (0.99, "right"), (0.35, "center"), (0.65, "center")):
        for up in (3, -3):
            note = axes.annotate(
                f"{row['title']} {level:.3f}",
                (across, level),
                xycoords=("axes fraction", "data"),
                xytext=(0, up),
                textcoords="offset points",
                ha=sideways,
                va="bottom" if up > 0 else "top",
                fontsize=8,
                parse_math=False,
            )
            note.set_in_layout(False)
            notes.append(note)
    keep_best(notes, [sum(overlap(words_of(note), other) for other in taken) for note in notes])


def label_rungs(figure: Figure, axes: Axes, marks: list[Mark], floor: dict[str, Any] | None, on: str) -> None:
    """Write each rung's label at the first place about its mark that is inside the axes and touches nothing; the floor's last."""
    figure.draw_without_rendering()
    inside, taken = axes.get_window_extent(), list[Bbox]()
    if floor:
        (_, level) = axes.transData.transform((1.0, floor[on]["estimate"]))
        taken.append(Bbox([[inside.x0, level - 1], [inside.x1, level + 1]]))
    for at, one, _, _ in marks:
        (x, low), (_, high) = axes.transData.transform([(at, one["low"]), (at, one["high"])])
        (_, middle) = axes.transData.transform((at, one["estimate"]))
        taken += [Bbox([[x - 2, low], [x + 2, high]]), Bbox([[x - 7, middle - 7], [x + 7, middle + 7]])]
    for at, one, text, colour in marks:
        notes = [annotate(axes, (at, one["estimate"]), text, colour, steps) for steps in AROUND]
        boxes = [words_of(note) for note in notes]
        costs = [sum(overlap(box, other) for other in taken) + 4 * (area(box) - overlap(box, inside)) for box in boxes]
        costs = [10 * cost + max(map(abs, steps)) for cost, steps in zip(costs, AROUND, strict=True)]  # near before far
        taken.append(words_of(keep_best(notes, costs)))
    if floor:
        name_floor(axes, floor, on, taken)


def keep_best(notes: list[Annotation], costs: list[float]) -> Annotation:
    """Remove all labels but the first of the least cost, and return that one."""
    best = notes[min(range(len(notes)), key=lambda at: costs[at])]
    for note in notes:
        if note is not best:
            note.remove()
    return best


def annotate(axes: Axes, at: tuple[float, float], text: str, colour: str, steps: tuple[float, float]) -> Annotation:
    """Write `text` some steps from a mark, with a thin line to it where it stands further off."""
    dx, dy = steps
    sideways = "left" if dx > 0 else "right" if dx < 0 else "center"
    upright = "bottom" if dy > 0 else "top" if dy < 0 else "center"
    far = max(abs(dx), abs(dy)) > 2
    note = axes.annotate(
        text,
        at,
        xytext=(dx * STEP_PT, dy * STEP_PT),
        textcoords="offset points",
        ha=sideways,
        va=upright,
        fontsize=8,
        arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.6, "shrinkB": 4} if far else None,
        parse_math=False,
    )
    note.set_in_layout(False)
    return note


def words_of(note: Annotation) -> Bbox:
    """Return the box of a label's words, without the line to its mark."""
    note.get_window_extent()  # puts the words where they will stand
    return Text.get_window_extent(note)


def area(box: Bbox) -> float:
    """Return the area of a box in pixels."""
    return float(box.width * box.height)


def overlap(one: Bbox, other: Bbox) -> float:
    """Return the area that two boxes share, in pixels."""
    shared = Bbox.intersection(one, other)
    return area(shared) if shared else 0.0
