"""What is in a store, counted in one pass over it with flat memory."""

import hashlib
import re
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sentinode.errors import shown
from sentinode.progress import Progress
from sentinode.tiles.store import Store, Tiles, map_blocks, open_store
from sentinode.tiles.store import verify as verify_store

SHA1 = re.compile(r"[0-9a-f]{40}\Z")
"""What an id looks like that may be the SHA-1 of the tile's pixels, as Kaggle's are."""
LINES = 12
"""Entries of one list printed at most; `as_dict` has them all."""


@dataclass(frozen=True)
class StoreInfo:
    """What `sentinode info` shows.

    `sizes` counts the tiles by width x height before any conversion; `mean_rgb` and `std_rgb` are over all pixels, in grey levels
    from 0 to 255, None without a tile; `shard` says which share of a whole it is, None for a whole; `sha1_ids` of the ids look like
    SHA-1, `sha1_right` of them are that of the pixels.
    """

    path: str
    n: int
    px: int
    classes: tuple[str, str]
    labels: dict[str, int]
    by_source: dict[str, dict[str, int]]
    by_group: dict[str, dict[str, int]]
    images_without_label: int
    groups: int
    tiles_without_group: int
    group_ids_without_tile: int
    biggest_group: tuple[str, int] | None
    smallest_group: tuple[str, int] | None
    sizes: dict[str, int]
    mean_rgb: tuple[float, float, float] | None
    std_rgb: tuple[float, float, float] | None
    duplicate_tiles: int
    duplicate_sets: int
    conflicting_sets: int
    quarantined: dict[str, int]
    quarantined_files: list[tuple[str, str, str, str]]
    converted: dict[str, int]
    sha1_ids: int
    sha1_right: int
    digest: str
    verified: bool
    shard: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        return asdict(self)

    def __repr__(self) -> str:
        """Return `lines` as one text: what a notebook shows."""
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """Return a table as lines of plain text; text from data is made safe to print."""
        out = [
            f"store        {shown(self.path)}",
            f"tiles        {self.n:,} of {self.px} x {self.px}",
            f"labels       {in_words(self.labels)}",
        ]
        if self.shard:
            number, of, first, last, n = (self.shard[name] for name in ("number", "of", "first", "last", "listed"))
            span = f"tiles {first + 1:,} to {last:,}" if last > first else "none"
            out.append(f"shard        {number:,} of {of:,}, {span} of {n:,} listed")
        out += listed("source", {name: in_words(counts) for name, counts in self.by_source.items()})
        if self.images_without_label:
            out.append(f"unlabelled   {self.images_without_label:,} images of labelled sources have no label")
        out.append(self._group_line())
        out += listed("group", {name: in_words(counts) for name, counts in self.by_group.items()})
        out += listed("size", {name: f"{count:,}" for name, count in self.sizes.items()})
        if self.mean_rgb is not None and self.std_rgb is not None:
            red, green, blue = self.mean_rgb
            spread = ", ".join(f"{value:.1f}" for value in self.std_rgb)
            out.append(f"mean colour  red {red:.1f}, green {green:.1f}, blue {blue:.1f} (std {spread})")
        duplicates = f"{self.duplicate_tiles:,} tiles in {self.duplicate_sets:,} sets of equal pixels"
        out.append(f"duplicates   {duplicates}, {self.conflicting_sets:,} of them with different labels")
        out.append(f"ids          {self.sha1_ids:,} look like SHA-1; {self.sha1_right:,} of these are that of the pixels")
        out += listed("converted", {name: f"{count:,}" for name, count in self.converted.items()})
        out += listed("left out", {name: f"{count:,}" for name, count in self.quarantined.items()})
        for source, path, reason, detail in self.quarantined_files[:LINES]:
            out.append(f"             {shown(f'{source}/{path}')}: {reason}{f' ({shown(detail)})' if detail else ''}")
        if len(self.quarantined_files) > LINES:
            out.append(f"             and {len(self.quarantined_files) - LINES:,} more (--json lists all)")
        out.append(f"digest       {shown(self.digest)}{' verified' if self.verified else ''}")
        return out

    def _group_line(self) -> str:
        if self.biggest_group is None or self.smallest_group is None:
            return "groups       none known: slides or patients can be given with pack --groups"
        (big, most), (small, least) = self.biggest_group, self.smallest_group
        known = f"{self.groups:,}, from {least:,} ({shown(small)}) to {most:,} tiles ({shown(big)})"
        missed = f"; {self.group_ids_without_tile:,} ids of the table have no tile" if self.group_ids_without_tile else ""
        return f"groups       {known}; {self.tiles_without_group:,} tiles without{missed}"


def in_words(counts: dict[str, int]) -> str:
    """Return names from data with their counts."""
    return ", ".join(f"{shown(name, 40)} {count:,}" for name, count in counts.items())


def listed(title: str, entries: dict[str, str]) -> list[str]:
    """Return at most `LINES` lines of names and values."""
    lines = [f"{shown(name)} {value}" for name, value in list(entries.items())[:LINES]]
    lines += [f"and {len(entries) - LINES:,} more"] * (len(entries) > LINES)
    return [f"{title if i == 0 else '':<12} {line}" for i, line in enumerate(lines)]


def info(store: Store | str | Path, verify: bool = False, quiet: bool = False) -> StoreInfo:
    """Count what is in a store.

    Parameters
    ----------
    store
        A store or its folder.
    verify
        Recompute every digest first.
    quiet
        Show no progress.

    Returns
    -------
    StoreInfo
        Counts, sizes in pixels, colours in grey levels.

    Raises
    ------
    StoreProblem
        If it is no store, or with `verify` if its pixels or rows have changed.
    """
    store = store if isinstance(store, Store) else open_store(store)
    if verify:
        verify_store(store, quiet=quiet)
    rows, record = store.rows, store.record
    sums, squares, right = pixel_pass(store, quiet)
    pixels = max(1, len(store) * store.px**2)
    mean = sums / pixels
    std = np.sqrt(np.maximum(squares / pixels - mean**2, 0))
    colours = [(float(each[0]), float(each[1]), float(each[2])) if len(store) else None for each in (mean, std)]
    groups = rows["group"][rows["group"] != ""].value_counts(sort=False).sort_index()
    sets, tiles, conflicting = duplicates(rows)
    sizes = (rows["width"].astype(str) + " x " + rows["height"].astype(str)).value_counts()
    quarantined = [(str(source), str(path), str(reason), str(detail)) for source, path, reason, detail in record["quarantined"]]
    return StoreInfo(
        path=str(store.path),
        n=len(store),
        px=store.px,
        classes=store.classes,
        labels=label_counts(rows, store.classes),
        by_source={str(name): label_counts(part, store.classes) for name, part in rows.groupby("source", sort=False)},
        by_group=by_group(rows, store.classes),
        images_without_label=sum(source["images_without_label"] for source in record["sources"]),
        groups=len(groups),
        tiles_without_group=int((rows["group"] == "").sum()),
        group_ids_without_tile=record["groups"]["ids_without_tile"],
        biggest_group=(str(groups.idxmax()), int(groups.max())) if len(groups) else None,
        smallest_group=(str(groups.idxmin()), int(groups.min())) if len(groups) else None,
        sizes={str(name): int(count) for name, count in sizes.items()},
        mean_rgb=colours[0],
        std_rgb=colours[1],
        duplicate_tiles=tiles,
        duplicate_sets=sets,
        conflicting_sets=conflicting,
        quarantined=dict(Counter(entry[2] for entry in quarantined).most_common()),
        quarantined_files=quarantined,
        converted=dict(record["converted"]),
        sha1_ids=sum(SHA1.match(name) is not None for name in rows["id"]),
        sha1_right=right,
        digest=store.digest,
        verified=verify,
        shard=record.get("shard"),
    )


def label_counts(rows: pd.DataFrame, classes: tuple[str, str]) -> dict[str, int]:
    """Return the tiles of each class, and of none where there are such."""
    counts = rows["label"].value_counts()
    found = {name: int(counts.get(code, 0)) for code, name in enumerate(classes) if name}
    unknown = int(counts.get(-1, 0))
    return {**found, "unknown": unknown} if unknown or not found else found


def by_group(rows: pd.DataFrame, classes: tuple[str, str]) -> dict[str, dict[str, int]]:
    """Return for each known group, in order of name, its tiles of each class that it has."""
    counts: dict[str, dict[str, int]] = {}
    table = rows[rows["group"] != ""].groupby(["group", "label"]).size().reset_index(name="tiles")
    for group, label, tiles in zip(table["group"].tolist(), table["label"].tolist(), table["tiles"].tolist(), strict=True):
        counts.setdefault(group, {})["unknown" if label < 0 else classes[label]] = tiles
    return counts


def duplicates(rows: pd.DataFrame) -> tuple[int, int, int]:
    """Return (sets of equal pixels, tiles in them, sets whose known labels differ)."""
    repeated = rows[rows["digest"].duplicated(keep=False)]
    known = repeated[repeated["label"] >= 0]
    conflicting = int((known.groupby("digest")["label"].nunique() > 1).sum())
    return int(repeated["digest"].nunique()), len(repeated), conflicting


def pixel_pass(store: Store, quiet: bool) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], int]:
    """Return the sum and the sum of squares of each channel (exact, [3]), and how many ids are their tile's SHA-1."""
    ids = store.rows["id"].tolist()

    def count(first: int, tiles: Tiles) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], int]:
        lanes = tiles.reshape(len(tiles) * store.px, store.px * 3)
        sums = lanes.sum(axis=0, dtype=np.uint64).reshape(-1, 3).sum(axis=0)
        squares = np.square(lanes, dtype=np.uint16).sum(axis=0, dtype=np.uint64).reshape(-1, 3).sum(axis=0)
        named = (i for i in range(len(tiles)) if SHA1.match(ids[first + i]))
        return sums, squares, sum(hashlib.sha1(tiles[i], usedforsecurity=False).hexdigest() == ids[first + i] for i in named)

    sums, squares, right = np.zeros(3, np.uint64), np.zeros(3, np.uint64), 0
    for part in map_blocks(store, count, None, Progress(quiet), "looking"):
        sums, squares, right = sums + part[0], squares + part[1], right + part[2]
    return sums, squares, right
