"""Where in a tile a prediction comes from: cover one place after another and see how far the logit moves.

Occlusion asks the model as it is and needs nothing of its insides, so one function serves every network and every ensemble.
"""

import numpy as np
import numpy.typing as npt

from sentinode.errors import UsageProblem
from sentinode.nets.trained import Run

CELLS = 8
"""Cells along an edge: 64 covered images and the plain one a tile, which costs as much as 65 more tiles do."""
METHOD = "occlusion: what the logit loses when a square of a quarter of the edge is painted in the mean colour of the rest"
"""How the maps are made, in words."""

Maps = npt.NDArray[np.float64]
"""float64 [n, cells, cells], in logits; above 0: the place speaks for the positive class."""


def occlusion(runs: list[Run], tiles: npt.NDArray[np.uint8], cells: int = CELLS, batch: int = 64) -> Maps:
    """Return how much the mean logit of `runs` falls when each place of each tile is covered.

    Parameters
    ----------
    runs
        Of one tile size.
    tiles
        uint8 [n, px, px, 3].
    cells
        Places along an edge, 2 to px. The cover is two cells wide, centred on the cell, and ends at the tile's edge.
    batch
        Images a forward pass.

    Returns
    -------
    Maps
        float64 [n, cells, cells], rows from the top.

    Raises
    ------
    UsageProblem
        If there are fewer than 2 cells, or more than pixels.

    Source: Zeiler and Fergus 2014, section 4.2.
    """
    px = tiles.shape[1]
    if not 2 <= cells <= px:
        raise UsageProblem(f"2 to {px} cells along an edge of {px} px", f"{cells}", "ask for fewer, or for larger tiles")
    maps = np.zeros((len(tiles), cells, cells))
    for number, tile in enumerate(tiles):
        images = np.concatenate([tile[None], covered(tile, cells)])
        logits = np.mean([run.logits(images, batch).astype(np.float64) for run in runs], axis=0)
        maps[number] = (logits[0] - logits[1:]).reshape(cells, cells)
    return maps


def covered(tile: npt.NDArray[np.uint8], cells: int) -> npt.NDArray[np.uint8]:
    """Return the tile [px, px, 3] with each cell covered in turn, uint8 [cells * cells, px, px, 3], rows first.

    In the mean colour of what stays visible: the whole tile's would tell of what is covered.
    """
    px = tile.shape[0]
    starts = [max(0, round((cell - 0.5) * px / cells)) for cell in range(cells)]
    ends = [min(px, round((cell + 1.5) * px / cells)) for cell in range(cells)]
    images = np.repeat(tile[None], cells * cells, axis=0)
    for row in range(cells):
        for column in range(cells):
            where = np.zeros((px, px), bool)
            where[starts[row] : ends[row], starts[column] : ends[column]] = True
            images[row * cells + column][where] = tile[~where].mean(axis=0).round()
    return images
