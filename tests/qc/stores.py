"""Stores made of arrays, for tests: no images are decoded."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from sentinode.tiles.decode import tile_digest
from sentinode.tiles.store import Store, StoreWriter, open_store


def store_of(
    path: Path,
    tiles: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int8],
    *,
    ids: list[str] | None = None,
    groups: list[str] | None = None,
) -> Store:
    """Write uint8 tiles [n, px, px, 3] with labels [n] as a store and open it."""
    n, px = len(tiles), tiles.shape[1]
    path.mkdir(parents=True)
    columns = {
        "id": ids or [f"tile-{at:05d}" for at in range(n)],
        "label": labels.tolist(),
        "group": groups or [""] * n,
        "source": ["made"] * n,
        "path": [""] * n,
        "digest": [tile_digest(tile).hex() for tile in np.ascontiguousarray(tiles)],
        "width": [px] * n,
        "height": [px] * n,
        "note": [""] * n,
    }
    with StoreWriter(path, px) as writer:
        writer.append(memoryview(np.ascontiguousarray(tiles).tobytes()))
        record = {"classes": ["0", "1"], "sources": [], "quarantined": [], "converted": {}, "groups": {"ids_without_tile": 0}}
        writer.finish([columns], record)
    return open_store(path)
