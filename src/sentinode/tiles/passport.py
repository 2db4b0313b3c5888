"""What a run has seen: digests that survive turning and mirroring, and how much of a test store a run was trained on."""

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from sentinode.errors import StoreProblem, shown
from sentinode.tiles.split import Split

Tiles = npt.NDArray[np.uint8]
CHUNK = 256
"""Tiles read from the memory map at a time."""
EXAMPLES = 5
"""Ids and slides named of each kind."""


def views_of(tile: Tiles) -> list[Tiles]:
    """Return the eight dihedral views of a square tile, uint8 [px, px, 3] each, without copying."""
    plain = [tile, tile[:, ::-1], tile[::-1], tile[::-1, ::-1]]
    return plain + [view.transpose(1, 0, 2) for view in plain]


def dihedral_digest(tiles: Tiles, workers: int | None = None) -> list[str]:
    """Return a 128-bit digest (32 hex digits) of each tile that is the same for all its eight rotations and reflections.

    The digest is SHA-256, cut, of the view whose bytes come first in lexicographic order. Usually the first pixels of the eight
    views decide which that is; only ties compare whole views.

    Parameters
    ----------
    tiles
        uint8 [n, px, px, 3]; a memory map is read in small pieces.
    workers
        Threads; one a core by default. The result does not depend on it.

    Raises
    ------
    StoreProblem
        If the tiles are not square uint8 RGB.
    """
    if tiles.ndim != 4 or tiles.shape[1] != tiles.shape[2] or tiles.shape[3] != 3 or tiles.dtype != np.uint8:
        raise StoreProblem("uint8 tiles [n, px, px, 3]", f"{tiles.dtype} {shown(tiles.shape)}", "pack the images first")
    starts = range(0, len(tiles), CHUNK)
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        found = pool.map(lambda start: _digests(np.ascontiguousarray(tiles[start : start + CHUNK])), starts)
        return [digest for chunk in found for digest in chunk]


def _digests(chunk: Tiles) -> list[str]:
    corner = min(chunk.shape[1], 3)
    heads = np.stack([_head(chunk, view, corner) for view in range(8)], axis=1)
    smallest = heads == heads.min(axis=1, keepdims=True)
    digests = []
    for tile, candidates in zip(chunk, smallest, strict=True):
        views = views_of(tile)
        first = min(views[at].tobytes() for at in np.flatnonzero(candidates))
        digests.append(hashlib.sha256(first).hexdigest()[:32])
    return digests


def _head(chunk: Tiles, view: int, length: int) -> npt.NDArray[np.uint64]:
    """Return the first eight bytes (or fewer, of a tiny tile) of one view of each tile as a number in byte order."""
    turned = [chunk, chunk[:, :, ::-1], chunk[:, ::-1], chunk[:, ::-1, ::-1]][view % 4]
    row = turned[:, 0, :length] if view < 4 else turned[:, :length, 0]
    flat = row.reshape(len(chunk), -1)[:, :8].astype(np.uint64)
    shifts = np.arange(flat.shape[1])[::-1].astype(np.uint64) * np.uint64(8)
    return np.asarray((flat << shifts).sum(axis=1, dtype=np.uint64))


def with_passport(split: Split, *stores: Tiles) -> Split:
    """Return the split with `dihedral_digest` filled for the tiles that train or choose.

    `stores` are the tiles the split's table lists, in its order: one store's, or the training store's and the valid store's.
    """
    digests = np.full(len(split.table), "", dtype=object)
    seen, first = (split.table["part"] != "unused").to_numpy(), 0
    for tiles in stores:
        wanted = np.flatnonzero(seen[first : first + len(tiles)])
        for start in range(0, len(wanted), CHUNK * 16):
            at = wanted[start : start + CHUNK * 16]
            digests[first + at] = dihedral_digest(tiles[at])
        first += len(tiles)
    if first != len(split.table):
        raise StoreProblem(
            f"the {len(split.table):,} tiles of the split", f"{first:,}", "pass the stores that the split was made of"
        )
    return replace(split, table=split.table.assign(dihedral_digest=digests.astype(str)))


@dataclass(frozen=True)
class Contamination:
    """How much of a test store runs have seen, with a few names of each.

    `exact` counts test tiles equal to a training tile, `turned` those equal only after a rotation or reflection, `slides` test
    tiles from a slide that trained, `chosen` those in valid (they chose epoch and threshold) and not already counted.
    """

    n: int
    exact: int
    turned: int
    slides: int
    chosen: int
    examples: dict[str, list[str]]

    @property
    def is_contaminated(self) -> bool:
        """Whether anything that trained or chose is on the test side."""
        return bool(self.exact or self.turned or self.slides or self.chosen)

    def as_dict(self) -> dict[str, Any]:
        """Return the counts and examples for judgement.json."""
        counts = {"n": self.n, "exact": self.exact, "turned": self.turned, "slides": self.slides, "chosen": self.chosen}
        return counts | {"examples": self.examples}

    def warnings(self) -> list[str]:
        """Return one sentence for each kind of contamination, with names."""
        said = {
            "exact": "test tiles were trained on",
            "turned": "test tiles are turned or mirrored training tiles",
            "slides": "test tiles are from slides that were trained on",
            "chosen": "test tiles chose the epoch or the threshold",
        }
        counts = self.as_dict()
        return [
            f"contaminated: {counts[kind]:,} of {self.n:,} {text}, such as {', '.join(map(shown, self.examples[kind][:3]))}"
            for kind, text in said.items()
            if counts[kind]
        ]


def contamination(splits: Iterable[Split], rows: pd.DataFrame, dihedral: list[str]) -> Contamination:
    """Count the tiles and slides of a test store that any of the splits' training parts holds.

    Parameters
    ----------
    splits
        Of the runs judged.
    rows
        The test store's: id, digest, group. Slides are compared by name, unknown ones never.
    dihedral
        `dihedral_digest` of the test tiles, in the order of `rows`.
    """
    tables = pd.concat([split.table for split in splits], ignore_index=True)
    train, valid = tables[tables["part"] == "train"], tables[tables["part"] == "valid"]
    turned_digests = pd.Series(dihedral, index=rows.index, dtype=str)
    exact = rows["digest"].isin(train["digest"])
    turned = turned_digests.isin(set(train["dihedral_digest"]) - {""}) & ~exact
    slides = rows["group"].isin(set(train["group"]) - {""})
    in_valid = rows["digest"].isin(valid["digest"]) | turned_digests.isin(set(valid["dihedral_digest"]) - {""})
    chosen = in_valid & ~exact & ~turned
    examples = {
        kind: sorted(set(rows.loc[mask, column].astype(str)))[:EXAMPLES]
        for kind, mask, column in (
            ("exact", exact, "id"),
            ("turned", turned, "id"),
            ("slides", slides, "group"),
            ("chosen", chosen, "id"),
        )
    }
    return Contamination(len(rows), int(exact.sum()), int(turned.sum()), int(slides.sum()), int(chosen.sum()), examples)
