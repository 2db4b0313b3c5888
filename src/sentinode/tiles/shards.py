"""Stores as sources: what was packed before stands for the sources it was packed from, and all shards of a store for the whole.

In: folders of stores. Out: their listings, as if the sources were at hand; the pixels stay where they are until they are copied.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sentinode.errors import SourceProblem, StoreProblem, shown
from sentinode.tiles.listing import Listing, Quarantined
from sentinode.tiles.store import HEADER_BYTES, check_rows, open_store
from sentinode.tiles.stored import Place, Stored

NAMED = 8
"""Shards that an error names at most."""


@dataclass
class Part:
    """A store that is packed again: its rows and record, and where in tiles.npy (bytes) the first tile begins."""

    path: Path
    px: int
    classes: tuple[str, str]
    record: dict[str, Any]
    rows: pd.DataFrame
    offset: int

    @property
    def shard(self) -> dict[str, Any]:
        """What share of a whole it is; {} for a whole store."""
        found: dict[str, Any] = self.record.get("shard") or {}
        return found

    @property
    def title(self) -> str:
        """Which shard it is, in words."""
        return f"{self.shard['number']}/{self.shard['of']}"


def list_stores(paths: Sequence[Path]) -> dict[Path, list[Listing]]:
    """Return the listings of each store, those of a set of shards under the one that was named first and [] for the others.

    Raises
    ------
    StoreProblem
        If one is not finished, cannot be read, or its rows have been changed.
    SourceProblem
        If shards do not belong together, or not every one of them is there once.
    """
    parts = [read_part(path) for path in paths]
    sets: dict[object, list[Part]] = {}
    for part in parts:
        key: object = (part.shard["pack"], part.shard["of"]) if part.shard else part.path
        sets.setdefault(key, []).append(part)
    lacking = {key: missing_of(members) for key, members in sets.items() if members[0].shard}
    broken = [sets[key] for key, missing in lacking.items() if missing]
    listed: dict[Path, list[Listing]] = {path: [] for path in paths}
    for key, members in sets.items():
        first = members[0].path
        if members[0].shard:
            check_shards(members, lacking[key], next((other for other in broken if other is not members), None))
            members.sort(key=lambda part: part.shard["number"])
        listed[first] = join_parts(members)
    return listed


def read_part(path: Path) -> Part:
    """Open a store and check its rows; its pixels are checked when they are copied, and its file is not held open until then."""
    store = open_store(path)
    check_rows(store)
    offset = store.tiles.offset if isinstance(store.tiles, np.memmap) else HEADER_BYTES
    part = Part(path, store.px, store.classes, store.record, store.rows, offset)
    if part.shard and not (isinstance(part.shard, dict) and isinstance(part.shard.get("pack"), str)):
        raise unreadable(path, "a shard without its facts")
    if part.shard and not all(isinstance(part.shard.get(name), int) for name in ("number", "of", "listed")):
        raise unreadable(path, "a shard without its numbers")
    return part


def unreadable(path: Path, found: str) -> StoreProblem:
    """Return the error for a store.json that does not say what a store is made of."""
    return StoreProblem(
        f"store.json of {shown(path)} as it was packed", found, "pack it again with this version; the file has been changed"
    )


def missing_of(members: list[Part]) -> list[str]:
    """Return which shards of one pack are not among `members`."""
    of, there = members[0].shard["of"], {part.title for part in members}
    return [title for title in (f"{number}/{of}" for number in range(1, of + 1)) if title not in there]


def check_shards(members: list[Part], missing: list[str], strangers: list[Part] | None) -> None:
    """Raise SourceProblem unless `members`, shards of one pack, are all there once; `strangers` are of another that is not whole."""
    places: dict[str, Path] = {}
    for part in members:
        if part.title in places:
            found = f"{part.title} in {shown(places[part.title])} and in {shown(part.path)}"
            raise SourceProblem("each shard once", found, "leave one out")
        places[part.title] = part.path
    if missing and strangers is not None:
        raise SourceProblem(
            "shards of one pack",
            f"{shown(members[0].path)} and {shown(strangers[0].path)}, {difference(members[0], strangers[0])}",
            "pack every shard from the same sources with the same settings, versions and number of shards",
        )
    if missing:
        more = f" and {len(missing) - NAMED:,} more" if len(missing) > NAMED else ""
        raise SourceProblem(
            f"all {members[0].shard['of']:,} shards of one pack",
            f"{len(members):,} (one is {shown(members[0].path)}), without {', '.join(missing[:NAMED])}{more}",
            f"pack what is missing (--shard {missing[0]}), then name all of them",
        )


def difference(one: Part, other: Part) -> str:
    """Return in words why two shards are not of one pack."""
    if one.shard["of"] != other.shard["of"]:
        return f"one of {one.shard['of']:,} shards and one of {other.shard['of']:,}"
    if one.px != other.px:
        return f"of {one.px} x {one.px} and of {other.px} x {other.px} pixels"
    if one.shard["listed"] != other.shard["listed"]:
        return f"of {one.shard['listed']:,} tiles and of {other.shard['listed']:,}"
    return "of other files, labels, groups, settings or versions"


def join_parts(parts: list[Part]) -> list[Listing]:
    """Return one listing for each source that the parts, one store or its shards in order, were packed from."""
    try:
        spans = [spans_of(part) for part in parts]
        listings = [join_source(parts, [each[at] for each in spans], at) for at in range(len(spans[0]))]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise unreadable(parts[0].path, f"{type(error).__name__}: {shown(error)}") from error
    return listings


def spans_of(part: Part) -> list[tuple[int, int]]:
    """Return (first row, last row, not included) of each source of a store; a source without a tile has an empty span."""
    runs = [(name, len(list(rows))) for name, rows in groupby(part.rows["source"].tolist())]
    spans, at = [], 0
    for source in part.record["sources"]:
        n = runs.pop(0)[1] if runs and runs[0][0] == source["name"] else 0
        spans.append((at, at + n))
        at += n
    if runs:
        raise unreadable(part.path, f"tiles of {shown(runs[0][0])}, which it does not name")
    return spans


def join_source(parts: list[Part], spans: list[tuple[int, int]], at: int) -> Listing:
    """Return source `at` of all parts as one listing; its rows are numbered over all of them."""
    px, classes = parts[0].px, parts[0].classes
    rows = pd.concat([part.rows.iloc[first:last] for part, (first, last) in zip(parts, spans, strict=True)], ignore_index=True)
    told = [part.record["sources"][at] for part in parts]
    names = {0: classes[0], 1: classes[1], -1: ""}
    labels = [names[code] for code in rows["label"].tolist()]
    labelled, n = bool(told[0]["labelled"]), len(rows)
    wide, high = rows["width"].to_numpy(), rows["height"].to_numpy()
    odd, noted = np.flatnonzero((wide != px) | (high != px)).tolist(), np.flatnonzero(rows["note"].to_numpy() != "").tolist()
    first_of_store, merged = at == 0, Counter[str]()  # what is told of a store as a whole goes with its first source
    for part in parts:
        merged.update(part.record["merged_into_negative"])
    stored = Stored(
        px,
        classes,
        tuple(
            Place(part.path, first, part.offset + first * px * px * 3, last - first)
            for part, (first, last) in zip(parts, spans, strict=True)
        ),
        bytes.fromhex("".join(rows["digest"].tolist())),
        {row: (int(wide[row]), int(high[row])) for row in odd},
        {row: str(rows["note"].iloc[row]) for row in noted},
        sum(source["listed"] for source in told) - n,
        sum(source["images_without_label"] for source in told) - (labels.count("") if labelled else 0),
        dict(merged) if first_of_store else {},
        sum(part.record["groups"]["ids_without_tile"] for part in parts) if first_of_store else 0,
        parts[0].record["settings"],
    )
    return Listing(
        name=told[0]["name"],
        kind=told[0]["kind"],
        root="",
        ids=rows["id"].tolist(),
        paths=rows["path"].tolist(),
        labels=labels,
        groups=rows["group"].tolist(),
        quarantined=[
            Quarantined(*entry) for part in parts for entry in part.record["quarantined"] if entry[0] == told[0]["name"]
        ],
        labelled=labelled,
        ignored=sum(source["other_files"] for source in told),
        indices=list(range(n)),
        stored=stored,
    )
