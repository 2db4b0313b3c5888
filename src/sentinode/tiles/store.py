"""The packed store: `tiles.npy`, `rows.parquet`, `store.json`; the only module that reads and writes them.

NAME.store/   tiles.npy      uint8 [n, px, px, 3], C order; `numpy.load(..., mmap_mode="r")` opens it without Sentinode
              rows.parquet   id, label (int8; -1 unknown), group ("" unknown), source, path, digest, width, height, note
              store.json     format, n, px, classes, positive, counts, digest of the whole, decoder, versions, quarantine
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

FORMAT = 1
"""Version of the store's layout."""
UNKNOWN = -1
"""Label of a tile whose class is not known."""

Tiles = npt.NDArray[np.uint8]
"""uint8 [n, px, px, 3], C order, RGB."""


@dataclass(frozen=True)
class Store:
    """An opened store.

    `tiles` is a read-only memory map, uint8 [n, px, px, 3]; `rows` has one row a tile, in the same order, with columns id (str),
    label (int8; 1 positive, 0 negative, -1 unknown), group (str, "" unknown), source, path, digest (32 hex), width, height, note.
    `classes` are (negative, positive) names; ("", "") where nothing is labelled.
    """

    path: Path
    tiles: Tiles
    rows: pd.DataFrame
    classes: tuple[str, str]
    digest: str
    record: dict[str, Any]

    @property
    def px(self) -> int:
        """Edge length of a tile in pixels."""
        return int(self.tiles.shape[1])

    def __len__(self) -> int:
        """Return the number of tiles."""
        return int(self.tiles.shape[0])


def store_of(tiles: Tiles, labels: npt.NDArray[np.int8], groups: list[str] | None = None) -> Store:
    """Return arrays as a store that is on no disk: ids are row numbers, digests are those of the pixels.

    Parameters
    ----------
    tiles
        uint8 [n, px, px, 3].
    labels
        int8 [n]; 1 positive, 0 negative, -1 unknown.
    groups
        Slide names [n]; without them all are unknown.
    """
    digests = [hashlib.sha256(np.ascontiguousarray(tile).tobytes()).hexdigest()[:32] for tile in tiles]
    rows = pd.DataFrame(
        {
            "id": [f"{number:09d}" for number in range(len(tiles))],
            "label": np.asarray(labels, np.int8),
            "group": groups if groups is not None else [""] * len(tiles),
            "source": "array",
            "path": "",
            "digest": digests,
            "width": tiles.shape[2],
            "height": tiles.shape[1],
            "note": "",
        }
    )
    whole = hashlib.sha256("".join(f"{d}{label}" for d, label in zip(digests, labels, strict=True)).encode()).hexdigest()[:32]
    return Store(Path(), tiles, rows, ("0", "1"), whole, {})
