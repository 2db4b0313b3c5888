"""Exact, turned, near and overlapping tiles of a store, or of one store against another, and where their labels disagree.

Three sieves, coarse to fine: digests find equal bytes; fingerprints find whole tiles, landmarks find shared places; the pixels of
every pair that these suggest then decide (`pixels.align`). Blank tiles are paired if their bytes are equal and not otherwise.

Nothing depends on the order of rows: tiles are taken by digest. Memory is bounded: 68 bytes of fingerprint and eight landmarks a
tile, and a limit on the neighbours of each. Of copies with equal bytes one stands for all: n copies give n - 1 pairs, not n^2 / 2.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from sentinode.errors import StoreProblem
from sentinode.limits import usable_cores
from sentinode.progress import Progress
from sentinode.qc.landmarks import Landmarks, joined, landmarks, meetings
from sentinode.qc.pixels import SAME, SAME_PART, align
from sentinode.tiles.fingerprint import CHUNK, Codes, Prints, Tiles, fingerprints, is_blank, near_pairs
from sentinode.tiles.passport import views_of
from sentinode.tiles.store import Store, map_blocks, tile_reader

COLUMNS = ("id_a", "id_b", "kind", "view", "dx", "dy", "distance", "label_a", "label_b", "conflict")
"""Columns of the table of pairs."""


@dataclass(frozen=True)
class Seen:
    """What is kept of a store: `order` int64 [k], the row that stands for each digest, by digest; fingerprints and landmarks of those.

    `blank` counts tiles without a pattern.
    """

    store: Store
    order: Codes
    prints: Prints
    marks: Landmarks
    blank: int


def duplicates(store: Store, against: Store | None = None, workers: int | None = None, quiet: bool = False) -> pd.DataFrame:
    """Return pairs of tiles that show one place, inside a store or between two.

    Parameters
    ----------
    store, against
        Opened stores of one tile size. Without `against`, pairs inside `store`; with it, one tile of each.
    workers
        Threads that read; one a core by default. The result does not depend on it.
    quiet
        Say nothing.

    Returns
    -------
    pandas.DataFrame
        One row a pair, ordered: id_a, id_b; kind (`exact` equal bytes, `turned` equal bytes in another view, `near` the whole tile,
        changed, `overlap` shifted); view (0 to 7 in the order of `views_of`, applied to a); dx, dy (pixel (x, y) of that view of a is
        (x + dx, y + dy) of b); distance (0 for equal bytes; see `pixels.align`); label_a, label_b; conflict (both known
        and different). `attrs["blank"]` counts tiles that have no pattern and are compared by bytes alone.

    Raises
    ------
    StoreProblem
        If the two stores hold tiles of different sizes.
    """
    if against is not None and against.px != store.px:
        raise StoreProblem(f"tiles of {store.px} px in both stores", f"{against.px} px", f"pack it with --px {store.px}")
    progress = Progress(quiet)
    one = _seen(store, workers, progress)
    other = one if against is None else _seen(against, workers, progress)
    found = [
        *_exact(one, None if against is None else other),
        *_alike(one, other if against is not None else None, workers or usable_cores(), progress),
    ]
    table = _table(found, store, against or store)
    table.attrs["blank"] = one.blank + (other.blank if against is not None else 0)
    return table


def _seen(store: Store, workers: int | None, progress: Progress) -> Seen:
    """Read a store once, in its order, and keep what is needed of one tile a digest, by digest."""
    digests, ids = store.rows["digest"].to_numpy(str), store.rows["id"].to_numpy(str)
    by_digest = np.lexsort((ids, digests))
    fresh = np.ones(len(store), bool)
    fresh[1:] = digests[by_digest][1:] != digests[by_digest][:-1]
    order = by_digest[fresh].astype(np.int64)
    place = np.full(len(store), -1, np.int64)
    place[order] = np.arange(len(order))

    def look(first: int, tiles: Tiles) -> tuple[Prints, Landmarks]:
        parts = [landmarks(tiles[start : start + CHUNK], first + start) for start in range(0, len(tiles), CHUNK)]
        return fingerprints(tiles, 1), joined(parts)

    parts = list(map_blocks(store, look, workers, progress, "looking at tiles"))
    prints = np.concatenate([part for part, _ in parts] or [fingerprints(store.tiles[:0], 1)])
    marks = joined([part for _, part in parts] or [landmarks(store.tiles[:0])])
    tile = place[marks.tile]
    # by digest, then by place: neighbours that are equally near are then taken in an order that rows have no part in
    kept = np.lexsort((marks.place[:, 1], marks.place[:, 0], tile))
    kept = kept[tile[kept] >= 0]
    marks = replace(marks.of(kept), tile=tile[kept])
    return Seen(store, order, prints[order], marks, int(is_blank(prints).sum()))


Found = tuple[int, int, str, int, int, int, float]
"""Row of a, row of b, kind, view, dx, dy, distance."""


def _exact(one: Seen, other: Seen | None) -> list[Found]:
    """Return pairs of equal bytes: the tile that stands for its digest with each copy of it, on both sides."""
    against = one if other is None else other
    names = one.store.rows["digest"].to_numpy(str)
    there = against.store.rows["digest"].to_numpy(str)
    first = dict(zip(names[one.order].tolist(), one.order.tolist(), strict=True))
    second = dict(zip(there[against.order].tolist(), against.order.tolist(), strict=True))
    pairs = {(first[digest], at) for at, digest in enumerate(there.tolist()) if digest in first}
    if other is None:
        pairs = {(a, b) for a, b in pairs if a != b}
    else:
        pairs |= {(at, second[digest]) for at, digest in enumerate(names.tolist()) if digest in second}
    return [(a, b, "exact", 0, 0, 0, 0.0) for a, b in sorted(pairs)]


def _alike(one: Seen, against: Seen | None, workers: int, progress: Progress) -> list[Found]:
    """Return pairs whose pixels agree, of those that fingerprints or landmarks suggest; copies follow the tile they equal."""
    other = one if against is None else against
    first, second, _, view = near_pairs(one.prints, None if against is None else against.prints)
    whole = np.stack([first, second, view, np.zeros_like(view), np.zeros_like(view)], axis=1)
    guesses = np.concatenate([whole, meetings(one.marks, None if against is None else against.marks, one.store.px, workers)])
    digests = (one.store.rows["digest"].to_numpy(str)[one.order], other.store.rows["digest"].to_numpy(str)[other.order])
    best: dict[tuple[int, int], Found] = {}
    with (
        tile_reader(one.store) as read_one,
        tile_reader(other.store) as read_other,
        progress.track("comparing pixels", len(guesses), "pairs") as tick,
    ):
        for a, b, turn, dy, dx in guesses.tolist():
            tick(1)
            key = (int(one.order[a]), int(other.order[b]))
            if digests[0][a] == digests[1][b] or (key in best and best[key][4:6] == (0, 0)):
                continue
            left, right = read_one(key[0]), read_other(key[1])
            aligned = align(left, right, turn, dy, dx)
            limit = SAME if aligned.dy == aligned.dx == 0 else SAME_PART
            if aligned.distance > limit or (key in best and best[key][6] <= aligned.distance):
                continue
            kind = "near" if aligned.dy == aligned.dx == 0 else "overlap"
            if kind == "near" and np.array_equal(views_of(left)[turn], right):
                kind = "turned"
            best[key] = (*key, kind, turn, aligned.dx, aligned.dy, aligned.distance)
    copies = (_copies(one), _copies(other))
    return [pair for found in best.values() for pair in _with_copies(found, *copies)]


def _copies(seen: Seen) -> dict[int, list[int]]:
    """Return the other rows of equal bytes for each tile that stands for some."""
    digests = seen.store.rows["digest"]
    stands = dict(zip(digests.to_numpy(str)[seen.order].tolist(), seen.order.tolist(), strict=True))
    made: dict[int, list[int]] = {}
    for at in np.flatnonzero(digests.duplicated(keep=False).to_numpy()).tolist():
        first = stands[str(digests.iloc[at])]
        if at != first:
            made.setdefault(first, []).append(at)
    return made


def _with_copies(found: Found, ones: dict[int, list[int]], others: dict[int, list[int]]) -> list[Found]:
    """Return a pair, and its kind again for each copy of either tile with the other."""
    a, b, kind, view, dx, dy, distance = found
    pairs = [(a, b)] + [(copy, b) for copy in ones.get(a, [])] + [(a, copy) for copy in others.get(b, [])]
    return [(left, right, kind, view, dx, dy, distance) for left, right in pairs]


def _table(found: list[Found], store: Store, against: Store) -> pd.DataFrame:
    """Return the pairs as the public table, ordered by ids."""
    raw = pd.DataFrame(found, columns=["a", "b", "kind", "view", "dx", "dy", "distance"])
    a, b = raw["a"].to_numpy(np.int64), raw["b"].to_numpy(np.int64)
    label_a, label_b = store.rows["label"].to_numpy(np.int8)[a], against.rows["label"].to_numpy(np.int8)[b]
    table = raw.drop(columns=["a", "b"]).astype({"view": np.int8, "dx": np.int32, "dy": np.int32, "distance": np.float64})
    table = table.assign(
        id_a=store.rows["id"].to_numpy()[a], id_b=against.rows["id"].to_numpy()[b], label_a=label_a, label_b=label_b
    )
    table["conflict"] = (label_a >= 0) & (label_b >= 0) & (label_a != label_b)
    return table[list(COLUMNS)].sort_values(["id_a", "id_b", "kind"], ignore_index=True)


def groups(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return the sets of tiles that pairs inside one store join, directly or over others.

    Parameters
    ----------
    pairs
        `duplicates(store)`.

    Returns
    -------
    pandas.DataFrame
        One row a tile that has a duplicate, ordered by group and id: id, group (0, 1, ... by the smallest id in it), size, label,
        conflict (tiles of both labels in the group, though no pair may show it).
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    sides = [
        pairs[["id_a", "label_a"]].set_axis(["id", "label"], axis=1),
        pairs[["id_b", "label_b"]].set_axis(["id", "label"], axis=1),
    ]
    tiles = pd.concat(sides, ignore_index=True).drop_duplicates("id").sort_values("id", ignore_index=True)
    at = pd.Series(np.arange(len(tiles)), index=tiles["id"])
    ends = (at.loc[pairs["id_a"]].to_numpy(), at.loc[pairs["id_b"]].to_numpy())
    edges = coo_array((np.ones(len(pairs), np.int8), ends), shape=(len(tiles), len(tiles)))
    found = connected_components(edges, directed=False)[1] if len(tiles) else np.empty(0, np.int64)
    tiles["group"] = pd.factorize(found)[0]  # tiles are ordered by id, so groups come by their smallest
    members = tiles.groupby("group")["label"]
    tiles["size"] = members.transform("size")
    tiles["conflict"] = members.transform(lambda labels: labels.isin([0]).any() and labels.isin([1]).any()).astype(bool)
    return tiles[["id", "group", "size", "label", "conflict"]].sort_values(["group", "id"], ignore_index=True)
