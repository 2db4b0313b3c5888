"""Tile folders of any size, for suites that ask how something grows: every file its own pixels, never all in memory."""

import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import Image

BYTES = 96 * 96 * 3
"""Size of a tile."""


def write_folder(kaggle: Path, n: int, seed: int = 0) -> Path:
    """Write `n` TIFFs of coarse random blocks and their labels as a Kaggle folder; ids are the SHA-1 of the pixels, as there."""
    (kaggle / "train").mkdir(parents=True)
    head, tail = frame()
    chance = np.random.default_rng(seed)
    with (kaggle / "train_labels.csv").open("w", encoding="utf-8") as table:
        table.write("id,label\n")
        for _ in range(n):
            label = int(chance.integers(2))
            blocks = chance.integers(90 + 20 * label, 230, (12, 12, 3), dtype=np.uint8)
            pixels = blocks.repeat(8, axis=0).repeat(8, axis=1).tobytes()
            name = hashlib.sha1(pixels, usedforsecurity=False).hexdigest()
            (kaggle / "train" / f"{name}.tif").write_bytes(head + pixels + tail)
            table.write(f"{name},{label}\n")
    return kaggle


def frame() -> tuple[bytes, bytes]:
    """Return what stands before and after the pixels in an uncompressed TIFF of a tile, as Pillow writes it."""
    mark = np.random.default_rng(1).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(mark).save(buffer, "TIFF")
    head, tail = buffer.getvalue().split(mark.tobytes())
    return head, tail
