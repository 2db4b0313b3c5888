"""Small real files for the tests of this room: tiles, Kaggle's own TIFF encoding, PCam's own HDF5 layout."""

import hashlib
import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

Tile = npt.NDArray[np.uint8]


def random_tile(seed: int, px: int = 24, width: int | None = None) -> Tile:
    """Return a tile uint8 [px, width or px, 3] that is smooth enough for JPEG and unlike every other."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width or px, px), Image.Resampling.BICUBIC))


def tifffile_tiff(tile: Tile, date: bytes = b"2018:11:15 17:20:38", order: str = "<") -> bytes:
    """Return a tile as the Kaggle files are encoded: one page, one strip, uncompressed, pixels at byte 287."""
    height, width = tile.shape[:2]
    head = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8)
    short, long, text = 3, 4, 2
    description = f'{{"shape": [{height}, {width}, 3]}}'.encode().ljust(55, b"\0")
    after = 8 + 2 + 15 * 12 + 4
    bits, described, program, dated = after, after + 6, after + 61, after + 73
    start = after + 93
    entries = [
        (254, long, 1, 0), (256, long, 1, width), (257, long, 1, height), (258, short, 3, bits), (259, short, 1, 1),
        (262, short, 1, 2), (270, text, 55, described), (273, long, 1, start), (277, short, 1, 3), (278, short, 1, height),
        (279, long, 1, tile.nbytes), (284, short, 1, 1), (305, text, 12, program), (306, text, 20, dated), (339, short, 1, 1),
    ]  # fmt: skip
    body = struct.pack(order + "H", len(entries))
    for tag, kind, count, value in entries:
        inline = struct.pack(order + "HH", value, 0) if kind == short and count == 1 else struct.pack(order + "I", value)
        body += struct.pack(order + "HHI", tag, kind, count) + inline
    body += struct.pack(order + "I", 0) + struct.pack(order + "3H", 8, 8, 8)
    body += description + b"tifffile.py\0" + date.ljust(20, b"\0")
    assert len(head + body) == start
    return head + body + tile.tobytes()


@pytest.fixture
def tile() -> Callable[..., Tile]:
    return random_tile


@pytest.fixture
def plain_tiff() -> Callable[..., bytes]:
    return tifffile_tiff


@pytest.fixture
def images(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes `n` PNG tiles NAME0.png, ... into a folder below the test's own."""

    def write(folder: str, n: int, seed: int = 0, px: int = 24, name: str = "t", ending: str = ".png") -> Path:
        path = tmp_path / folder
        path.mkdir(parents=True, exist_ok=True)
        for i in range(n):
            Image.fromarray(random_tile(seed + i, px)).save(path / f"{name}{i}{ending}")
        return path

    return write


@pytest.fixture
def kaggle(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that makes a Kaggle folder of `n` tiles: names are SHA-1 of the pixels, labels alternate."""

    def write(n: int, folder: str = "kaggle", px: int = 24) -> Path:
        root = tmp_path / folder
        (root / "train").mkdir(parents=True)
        (root / "test").mkdir()
        lines = ["id,label"]
        for i in range(n):
            pixels = random_tile(1000 + i, px)
            name = hashlib.sha1(pixels.tobytes()).hexdigest()
            date = f"2018:11:15 17:20:{i % 7:02d}".encode()
            (root / "train" / f"{name}.tif").write_bytes(tifffile_tiff(pixels, date))
            lines.append(f"{name},{i % 2}")
        (root / "train_labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (root / "test" / "unseen.tif").write_bytes(tifffile_tiff(random_tile(5, px)))
        return root

    return write


@pytest.fixture
def pcam(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that makes an HDF5 pair in PCam's layout and gives the path of its x file."""

    def write(n: int, folder: str = "pcam", meta: bool = True, labels: list[int] | None = None) -> Path:
        root = tmp_path / folder
        root.mkdir(parents=True, exist_ok=True)
        stem = "camelyonpatch_level_2_split_valid"
        x = np.stack([random_tile(i, 24) for i in range(n)])
        y = np.array(labels or [i % 2 for i in range(n)], np.uint8).reshape(n, 1, 1, 1)
        with h5py.File(root / f"{stem}_x.h5", "w") as handle:
            handle["x"] = x
        with h5py.File(root / f"{stem}_y.h5", "w") as handle:
            handle["y"] = y
        if meta:
            rows = [f"{i},True,False,camelyon16_train_tumor_{i // 3:03d},1,2" for i in range(n)]
            text = "\n".join([",tumor_patch,center_tumor_patch,wsi,coord_y,coord_x", *rows])
            (root / f"{stem}_meta.csv").write_text(text + "\n", encoding="utf-8")
        return root / f"{stem}_x.h5"

    return write
