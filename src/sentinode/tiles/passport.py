"""What a run has seen: digests that survive turning and mirroring, fingerprints that survive JPEG, and how much of a test store it was.

Three ways to know a training tile again, each with its own name: `exact` (equal bytes), `turned` (equal bytes in another view), `near`
(the same pattern in any view: re-encoded, blurred, brightened a little; see `fingerprint` for what that is and what it was measured
on). A tile without a pattern, such as glass, is known by its bytes alone. Fields of view that overlap are not looked for here.
"""

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
from sentinode.tiles.fingerprint import Prints, check_tiles, fingerprints, near_pairs, packed, unpacked
from sentinode.tiles.split import Split
from sentinode.tiles.units import true_slides

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
    check_tiles(tiles)
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
    """Return the split with `dihedral_digest` and `near` filled for the tiles that train or choose.

    `stores` are the tiles the split's table lists, in its order: one store's, or the training store's and the valid store's.
    """
    digests, near = (np.full(len(split.table), empty, dtype=object) for empty in ("", b""))
    seen, first = (split.table["part"] != "unused").to_numpy(), 0
    for tiles in stores:
        wanted = np.flatnonzero(seen[first : first + len(tiles)])
        marks = marks_of(tiles, wanted)
        digests[first + wanted], near[first + wanted] = marks.dihedral, packed(marks.prints)
        first += len(tiles)
    if first != len(split.table):
        raise StoreProblem(
            f"the {len(split.table):,} tiles of the split", f"{first:,}", "pass the stores that the split was made of"
        )
    return replace(split, table=split.table.assign(dihedral_digest=digests.astype(str), near=near))


@dataclass(frozen=True)
class Contamination:
    """How much of a test store runs have seen, with a few names of each.

    `exact` counts test tiles equal to a training tile, `turned` those equal only after a rotation or reflection, `near` those that
    are a training tile re-encoded or slightly changed and neither of these, `slides` test tiles from a slide that trained, `chosen`
    those in valid (they chose epoch and threshold) and not already counted. `slides_unknown` counts test tiles that may be from a
    slide that trained: their own is not known, or that of some training tile. `unchecked` counts training and valid tiles of runs
    whose split.parquet has no fingerprints yet: near copies of these were not looked for.
    """

    n: int
    exact: int
    turned: int
    near: int
    slides: int
    slides_unknown: int
    chosen: int
    unchecked: int
    examples: dict[str, list[str]]

    @property
    def is_contaminated(self) -> bool:
        """Whether anything that trained or chose is on the test side."""
        return bool(self.trained_on or self.slides or self.chosen)

    @property
    def trained_on(self) -> int:
        """How many test tiles are training tiles, however turned or encoded."""
        return self.exact + self.turned + self.near

    def as_dict(self) -> dict[str, Any]:
        """Return the counts and examples for judgement.json."""
        counts = ("n", "exact", "turned", "near", "slides", "slides_unknown", "chosen", "unchecked")
        return {name: getattr(self, name) for name in counts} | {"examples": self.examples}

    def warnings(self) -> list[str]:
        """Return one sentence for each kind of contamination, with names."""
        said = {
            "exact": "test tiles were trained on",
            "turned": "test tiles are turned or mirrored training tiles",
            "near": "test tiles are re-encoded or slightly changed training tiles",
            "slides": "test tiles are from slides that were trained on",
            "chosen": "test tiles chose the epoch or the threshold",
        }
        counts = self.as_dict()
        lines = [
            f"contaminated: {counts[kind]:,} of {self.n:,} {text}, such as {', '.join(map(shown, self.examples[kind][:3]))}"
            for kind, text in said.items()
            if counts[kind]
        ]
        if self.unchecked:
            lines.append(
                f"{self.unchecked:,} training tiles have no fingerprint: re-encoded copies of them were not looked for; "
                "train the run again with this version"
            )
        return lines


@dataclass(frozen=True)
class Marks:
    """By what tiles are known again: `dihedral` digests and fingerprints `prints`, in the order of the tiles."""

    dihedral: list[str]
    prints: Prints


def marks_of(tiles: Tiles, rows: npt.NDArray[np.int64]) -> Marks:
    """Return the marks of some rows of a memory map, which is read a piece at a time."""
    digests: list[str] = []
    prints = [fingerprints(tiles[:0])]
    for start in range(0, len(rows), CHUNK * 16):
        here = tiles[rows[start : start + CHUNK * 16]]
        digests += dihedral_digest(here)
        prints.append(fingerprints(here))
    return Marks(digests, np.concatenate(prints))


def seen_of(splits: Iterable[Split], rows: pd.DataFrame, marks: Marks) -> Contamination:
    """Count the tiles and slides of a test store that any of the splits' training parts holds.

    Parameters
    ----------
    splits
        Of the runs judged.
    rows
        The test store's: id, digest, group. Slides are compared by name, unknown ones never.
    marks
        Of the same tiles, in the order of `rows`.
    """
    tables = pd.concat([split.table for split in splits], ignore_index=True)
    train, valid = tables[tables["part"] == "train"], tables[tables["part"] == "valid"]
    turned_digests = pd.Series(marks.dihedral, index=rows.index, dtype=str)
    exact = rows["digest"].isin(train["digest"])
    turned = turned_digests.isin(set(train["dihedral_digest"]) - {""}) & ~exact
    near = _near(marks.prints, train, rows) & ~exact & ~turned
    groups = pd.Series(true_slides(rows["group"].to_numpy()), index=rows.index, dtype=str)
    trained = set(true_slides(train["group"].to_numpy()).tolist())
    slides = groups.isin(trained - {""})
    unknown = int((~slides if "" in trained else groups == "").sum())
    in_valid = rows["digest"].isin(valid["digest"]) | turned_digests.isin(set(valid["dihedral_digest"]) - {""})
    chosen = (in_valid | _near(marks.prints, valid, rows)) & ~exact & ~turned & ~near
    kinds = {"exact": exact, "turned": turned, "near": near, "slides": slides, "chosen": chosen}
    examples = {
        kind: sorted(set(rows.loc[mask, "group" if kind == "slides" else "id"].astype(str)))[:EXAMPLES]
        for kind, mask in kinds.items()
    }
    seen = tables["part"] != "unused"
    unchecked = int((tables["near"][seen] == b"").sum())
    counts = {kind: int(mask.sum()) for kind, mask in kinds.items()}
    return Contamination(n=len(rows), slides_unknown=unknown, unchecked=unchecked, examples=examples, **counts)


def _near(prints: Prints, part: pd.DataFrame, rows: pd.DataFrame) -> "pd.Series[bool]":
    """Return which of `rows` are near to a tile of `part`, by fingerprints."""
    found = np.zeros(len(rows), bool)
    filled = part["near"][part["near"] != b""].unique().tolist()
    if filled:
        found[near_pairs(prints, unpacked(filled))[0]] = True
    return pd.Series(found, index=rows.index, dtype=bool)
