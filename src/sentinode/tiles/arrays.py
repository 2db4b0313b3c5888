"""Arrays as a store that is on no disk: what `TileClassifier` and notebooks train on."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from sentinode.tiles.decode import tile_digest
from sentinode.tiles.store import Store, Tiles, whole_digest


def store_of(tiles: Tiles, labels: npt.NDArray[np.int8], groups: list[str] | None = None) -> Store:
    """Return arrays as a store: ids are row numbers, digests are those of the pixels.

    Parameters
    ----------
    tiles
        uint8 [n, px, px, 3].
    labels
        int8 [n]; 1 positive, 0 negative, -1 unknown.
    groups
        Slide names [n]; without them all are unknown.
    """
    rows = pd.DataFrame(
        {
            "id": [f"{number:09d}" for number in range(len(tiles))],
            "label": np.asarray(labels, np.int8),
            "group": groups if groups is not None else [""] * len(tiles),
            "source": "array",
            "path": "",
            "digest": [tile_digest(tile.tobytes()).hex() for tile in tiles],
            "width": tiles.shape[2],
            "height": tiles.shape[1],
            "note": "",
        }
    )
    classes = ("0", "1")
    columns = {name: rows[name].tolist() for name in ("id", "label", "group", "digest")}
    return Store(Path(), tiles, rows, classes, whole_digest(columns, tiles.shape[1], classes), {})
