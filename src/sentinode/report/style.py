"""How every picture looks and how it is saved: colours, sizes, captions, bytes that do not change from one run to the next."""

import io
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sentinode.run import write_bytes

MODEL, FLOOR, POSITIVE, NEGATIVE, WRONG, QUIET = "#0072B2", "#E69F00", "#D55E00", "#56B4E9", "#CC79A7", "#767676"
"""Colours told apart by colour-blind readers (Okabe and Ito 2008); every use differs in line or hatch as well."""
DARK = """@media (prefers-color-scheme: dark) {
 text { fill: #ececec !important; }
 [style*="stroke: #000000"] { stroke: #ececec !important; }
 [style*="fill: #ffffff"] { fill: #161616 !important; }
 [style*="stroke: #ffffff"] { stroke: #161616 !important; }
 [style*="stroke: #dddddd"] { stroke: #3d3d3d !important; }
 [style*="stroke: #767676"] { stroke: #a8a8a8 !important; }
 [style*="stroke: #0072b2"] { stroke: #4fa9de !important; }
 [style*="fill: #0072b2"] { fill: #4fa9de !important; }
}"""
"""How a picture of this look turns dark: what is black, white, grey or dark blue in it, by the style that matplotlib gave it."""
PHONE_IN = (4.3, 4.3)
"""Inches of one figure: its 9 point letters are legible at the width of a phone."""
LOOK: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.0,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "legend.fontsize": 8.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "sentinode",
    "text.usetex": False,
}


@contextmanager
def look() -> Iterator[None]:
    """Draw and save in Sentinode's look, whatever the reader's own matplotlib settings are, and leave those as they were."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(LOOK)
        yield


def new_figure(size: tuple[float, float] = PHONE_IN) -> Figure:
    """Return an empty figure of `size` inches that belongs to no window."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def auroc_axis(axes: Axes, lowest: float) -> None:
    """Let the horizontal axis reach from below `lowest`, a chance line included where it is near, to 1 with room for a whole mark."""
    left = max(0.0, min(0.49, lowest - 0.01) if lowest < 0.6 else lowest - 0.02)
    axes.set(xlim=(left, 1 + 0.03 * (1 - left)), xlabel="AUROC, 95 % interval")


def caption(axes: Axes, text: str, width: int = 66) -> None:
    """Put a small text under the picture; it may hold any characters."""
    lines = "\n".join(line for part in text.splitlines() for line in textwrap.wrap(part, width))
    figure = axes.get_figure()
    if isinstance(figure, Figure):
        figure.supxlabel(lines, fontsize=7.5, color="#444444", x=0.02, ha="left", parse_math=False)


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write NAME.svg and NAME.png into `folder`; the same figure gives the same bytes."""
    return [save_as(figure, folder / f"{name}.{kind}") for kind in ("svg", "png")]


def save_as(figure: Figure, path: Path, dpi: int = 160) -> Path:
    """Write a figure whole or not at all, without a date; the ending says in which format."""
    write_bytes(path, as_bytes(figure, path.suffix.lstrip("."), dpi))
    return path


def as_bytes(figure: Figure, kind: str, dpi: int = 160) -> bytes:
    """Return a figure as "svg" or "png", without a date."""
    metadata: dict[str, Any] = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    file = io.BytesIO()
    figure.savefig(file, format=kind, dpi=dpi, metadata=metadata)
    return file.getvalue()


def in_both_lights(svg: bytes) -> bytes:
    """Return an SVG that turns dark where the page that shows it does; apart from dark blue, the colours of data stay."""
    return svg.replace(b"<defs>", b"<style>" + DARK.encode() + b"</style>\n <defs>", 1)
