"""The surest mistakes: which they are, their pictures, and what moved the model, laid over them."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image

from sentinode.errors import UndefinedScore
from sentinode.report.style import caption, look, new_figure, save

Floats = npt.NDArray[np.float64]
COLUMNS = 4
"""Mistakes in a row of the picture."""
TOWARDS, AGAINST = (213, 94, 0), (0, 114, 178)
"""Colours of places that speak for and against the positive class (Okabe and Ito 2008), as red, green, blue."""
STRONGEST = 170
"""Opacity, of 255, of the place that moves a logit most in a tile."""


@dataclass(frozen=True)
class Gallery:
    """The surest mistakes, surest first within each kind.

    `tiles` uint8 [k, px, px, 3]; `ids`, `groups` ("" unknown) and `labels` of them; `probability` float64 [k]; `saliency` float64
    [k, g, g] in logits, above 0 where a place speaks for the positive class, or None where there is no model to ask; `method` says
    how it was made; `n_mistakes` counts all there are.
    """

    tiles: npt.NDArray[np.uint8]
    ids: list[str]
    groups: list[str]
    labels: npt.NDArray[np.int64]
    probability: Floats
    saliency: Floats | None
    method: str
    n_mistakes: int


def surest_first(labels: npt.NDArray[np.int64], probability: Floats, cut: float) -> npt.NDArray[np.intp]:
    """Return the rows that are called wrong at the threshold, the surest first: by how far they went of the way to 0 or 1."""
    called = probability >= cut
    wrong = np.flatnonzero(called != (labels == 1))
    way = np.abs(probability[wrong] - cut) / np.where(called[wrong], 1 - cut, cut).clip(1e-9)
    rows: npt.NDArray[np.intp] = wrong[np.argsort(-way, kind="stable")]
    return rows


def surest_of_both(labels: npt.NDArray[np.int64], probability: Floats, cut: float, most: int) -> npt.NDArray[np.intp]:
    """Return up to `most` of the surest mistakes: half of them negatives called positive, half the reverse, where there are such."""
    rows = surest_first(labels, probability, cut)
    alarms, misses = rows[labels[rows] == 0], rows[labels[rows] == 1]
    n_alarms = min(len(alarms), max(most - most // 2, most - len(misses)))
    return np.concatenate([alarms[:n_alarms], misses[: most - n_alarms]])


def heat(saliency: Floats) -> npt.NDArray[np.uint8]:
    """Return a map [g, g] as colour and opacity, uint8 [g, g, 4]: orange for, blue against, clear where nothing moves."""
    strength = np.abs(saliency) / max(float(np.abs(saliency).max()), 1e-9)
    colour = np.where((saliency > 0)[..., None], TOWARDS, AGAINST)
    return np.concatenate([colour, (STRONGEST * strength)[..., None]], axis=2).round().astype(np.uint8)


def data_uri(pixels: npt.NDArray[np.uint8]) -> str:
    """Return pixels [h, w, 3 or 4] as a PNG in a data URI."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def check(gallery: Gallery) -> None:
    """Raise UndefinedScore where the columns of a gallery differ in length."""
    lengths = {len(gallery.tiles), len(gallery.ids), len(gallery.groups), len(gallery.labels), len(gallery.probability)}
    if gallery.saliency is not None:
        lengths.add(len(gallery.saliency))
    if len(lengths) != 1:
        raise UndefinedScore("one tile, id, label, score and map a mistake", f"lengths {sorted(lengths)}", "align them first")


def write_mistakes(folder: Path, gallery: Gallery) -> list[Path]:
    """Draw the mistakes as mistakes.svg and mistakes.png; nothing where there is none.

    Raises UndefinedScore if the gallery's columns differ in length.
    """
    check(gallery)
    if not len(gallery.tiles):
        return []
    rows = -(-len(gallery.tiles) // COLUMNS)
    with look():
        figure = new_figure((8.6, 2.5 * rows + 0.4))
        grid = figure.subplots(rows, COLUMNS, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for at, axes in zip(range(len(gallery.tiles)), grid.flat, strict=False):
            draw_case(axes, gallery, at)
        said = "Orange speaks for the positive class, blue against it. " if gallery.saliency is not None else ""
        caption(grid[0, 0], f"{said}The square is the centre third. {gallery.method}.", width=120)
        return save(figure, folder, "mistakes")


def draw_case(axes: Axes, gallery: Gallery, at: int) -> None:
    """Draw a tile with its map over it and the centre framed."""
    tile, px = gallery.tiles[at], gallery.tiles.shape[1]
    axes.imshow(tile, interpolation="nearest")
    if gallery.saliency is not None:
        axes.imshow(heat(gallery.saliency[at]), extent=(-0.5, px - 0.5, px - 0.5, -0.5), interpolation="bilinear")
    axes.add_patch(Rectangle((px / 3 - 0.5, px / 3 - 0.5), px / 3, px / 3, fill=False, edgecolor="white", lw=1))
    truth = "positive" if gallery.labels[at] == 1 else "negative"
    axes.set_title(f"p {gallery.probability[at]:.3f}, is {truth}", fontsize=8)
