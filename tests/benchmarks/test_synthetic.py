"""Synthetic folders hold what Kaggle's hold: plain TIFFs that Pillow reads, ids that are the SHA-1 of the pixels, two classes."""

import csv
import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.synthetic import write_folder


def test_every_file_is_a_tile_whose_id_is_its_digest(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "kaggle", 20)
    with (folder / "train_labels.csv").open(encoding="utf-8", newline="") as table:
        labels = {row["id"]: row["label"] for row in csv.DictReader(table)}
    assert len(labels) == 20
    assert set(labels.values()) == {"0", "1"}
    for name in labels:
        with Image.open(folder / "train" / f"{name}.tif") as image:
            pixels = np.asarray(image)
        assert pixels.shape == (96, 96, 3)
        assert hashlib.sha1(pixels.tobytes(), usedforsecurity=False).hexdigest() == name
