"""Synthetic H&E tissue with slides and labels, for tests, demonstrations and the first two minutes with Sentinode.

Deterministic: a tile depends on seed, slide number, tile number, size and difficulty, and on nothing else, so that any slide is
the same whatever is asked for beside it. The centre square (32 of 96 px) decides the label; the rim ignores it.
"""

import hashlib
import io
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sentinode.errors import UsageProblem, shown
from sentinode.run import disk_problems, sync_folder
from sentinode.tiles.paint import make_slide, paint_tile

SMALLEST_PX = 24
"""Below this a small nucleus is thinner than two pixels, and nothing can be told apart."""


@dataclass(frozen=True)
class Tissue:
    """Tiles with what is known of them, slide by slide.

    `tiles` uint8 [n, px, px, 3] RGB; `labels` int8 [n], 1 where the centre holds tumour, else 0; `groups` n slide names;
    `ids` n times the SHA-1 of the pixels in hexadecimal, as in Kaggle's set.
    """

    tiles: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int8]
    groups: list[str]
    ids: list[str]


def synthesise(n_slides: int, tiles_per_slide: int, *, px: int = 96, difficulty: float = 0.4, seed: int = 0) -> Tissue:
    """Paint tissue of `n_slides` slides, named after seed and number.

    Parameters
    ----------
    n_slides, tiles_per_slide
        How many; at least 1 of each. From 4 tiles on, every slide holds both classes.
    px
        Edge of a tile, at least 24; cells grow with it.
    difficulty
        In [0, 1]: how close the nuclei of the two classes come in size, how mixed they stand, how much stains differ by slide.
    seed
        Not negative. Two seeds share no slide.

    Returns
    -------
    Tissue
        About 40 % of the tiles are tumour, between 25 % and 55 % by slide.

    Raises
    ------
    UsageProblem
        If a number is out of its range.
    """
    for name, value, least in (
        ("n_slides", n_slides, 1),
        ("tiles_per_slide", tiles_per_slide, 1),
        ("px", px, SMALLEST_PX),
        ("seed", seed, 0),
    ):
        if value < least:
            raise UsageProblem(f"{name} of at least {least}", shown(value), f"give a larger {name}")
    if not 0 <= difficulty <= 1:
        raise UsageProblem("a difficulty from 0 to 1", shown(difficulty), "0.4 is the usual one")
    tiles = np.empty((n_slides * tiles_per_slide, px, px, 3), np.uint8)
    labels = np.empty(len(tiles), np.int8)
    for number in range(n_slides):
        rng = np.random.default_rng([seed, number])
        slide = make_slide(rng, px, difficulty)
        share, offset = rng.uniform(0.25, 0.55), rng.random()
        for at in range(tiles_per_slide):
            row = number * tiles_per_slide + at
            # Evenly spread, not drawn: any prefix of a slide then holds its share, and tests on a few tiles have both classes.
            labels[row] = int((at + 1) * share + offset) - int(at * share + offset)
            tiles[row] = paint_tile(np.random.default_rng([seed, number, at]), slide, bool(labels[row]))
    groups = [f"synthetic-{seed}-{number:03d}" for number in range(n_slides) for _ in range(tiles_per_slide)]
    return Tissue(tiles, labels, groups, [hashlib.sha1(tile.tobytes(), usedforsecurity=False).hexdigest() for tile in tiles])


def write_kaggle_folder(folder: Path, tissue: Tissue, n_unlabelled: int = 0) -> None:
    """Write tissue in the layout of Kaggle's download, and the slide of each training tile beside it.

    FOLDER/  train/ID.tif  train_labels.csv (id,label)  test/ID.tif  slides.csv (id,slide)

    Parameters
    ----------
    folder
        A new folder; it appears whole or not at all.
    tissue
        What to write.
    n_unlabelled
        How many tiles, the last ones, go to `test/` without label or slide.

    Raises
    ------
    UsageProblem
        If the folder is there already, or more unlabelled tiles are asked for than there are.
    MachineProblem
        If the disk is full or the folder cannot be written.
    """
    n_train = len(tissue.ids) - n_unlabelled
    if n_unlabelled < 0 or n_train < 0:
        raise UsageProblem(f"0 to {len(tissue.ids)} unlabelled tiles", shown(n_unlabelled), "ask for fewer, or make more tissue")
    if folder.exists():
        raise UsageProblem(f"a new folder for {shown(folder)}", "one that exists", "choose another, or remove it")
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        with disk_problems(folder):
            for part in ("train", "test"):
                (unfinished / part).mkdir(parents=True)
            for row, (name, tile) in enumerate(zip(tissue.ids, tissue.tiles, strict=True)):
                part = "train" if row < n_train else "test"
                (unfinished / part / f"{name}.tif").write_bytes(_tiff(tile))
            labels = "".join(f"{a},{b}\n" for a, b in zip(tissue.ids[:n_train], tissue.labels, strict=False))
            slides = "".join(f"{a},{b}\n" for a, b in zip(tissue.ids[:n_train], tissue.groups, strict=False))
            (unfinished / "train_labels.csv").write_text("id,label\n" + labels, encoding="utf-8", newline="\n")
            (unfinished / "slides.csv").write_text("id,slide\n" + slides, encoding="utf-8", newline="\n")
            unfinished.replace(folder)
            sync_folder(folder.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _tiff(tile: npt.NDArray[np.uint8]) -> bytes:
    """Encode as a plain uncompressed RGB TIFF."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(tile).save(file, format="TIFF")
    return file.getvalue()
