"""A tile's fingerprint: what all eight views and a JPEG re-encoding of it have in common, and who comes near whom by it.

A tile is compared by its coarse brightness pattern: the lowest 8 x 8 terms of its cosine transform without the constant one (63
numbers; `contrast` is their root of squares, in grey levels). Turning or mirroring a tile only swaps the two axes of the terms
and changes the signs of odd ones, so one fingerprint stands for all eight views. Two tiles are *near* if the patterns of the
best view differ by at most `NEAR` of the smaller contrast and their mean colours by at most `COLOUR` grey levels.

Measured on real tiles of 96 px (2,000 lossless, 5,000 JPEG; those below `LEAST_CONTRAST`, 0.7 %, are blank and near to nothing):

    the same tile re-encoded, 1,500 tiles each      99 %, 99.9 % and all within: quality 75 0.031, 0.060, 0.066;
                                                    quality 85 0.023, 0.031, 0.033; quality 95 0.012, 0.014, 0.015
    136 pairs of one tissue (61 lossless against
    JPEG, 75 in the JPEG part)                      all within 0.038
    all pairs with 2,400 tiles of other slides      16.8 million, none near

With the mean colour counted into the distance, the 136 are within 0.09 and the next pair of the 7,000 tiles is at 0.34.

Source: Rao and Yip, Discrete Cosine Transform, 1990 (symmetries); Dunkl and Williams, Am Math Monthly 1964;71:53 (the inequality
that lets patterns of unit length be searched).
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from sentinode.errors import StoreProblem, shown

SIDE = 8
"""Terms of the cosine transform that are kept along each axis."""
TERMS = SIDE * SIDE - 1
"""Numbers in a pattern."""
NEAR = 0.15
"""Largest difference of two near patterns, as a share of the smaller contrast."""
COLOUR = 10
"""Largest difference of two near tiles' mean red, green or blue, in grey levels."""
LEAST_CONTRAST = 4.0
"""Grey levels; a tile of less has no pattern of its own: JPEG's rounding would be a good part of it."""
UNIT = 127
"""What 1 is stored as in a pattern of unit length."""
FINE = 256
"""Steps of the stored contrast in a grey level."""
RECORD = np.dtype([("mean", "u1", (3,)), ("contrast", "<u2"), ("pattern", "i1", (TERMS,))])
"""68 bytes a tile: mean red, green, blue; contrast in 1/256 grey levels; pattern of unit length, times 127, by row."""
LUMINANCE = (0.299, 0.587, 0.114)
"""Brightness from red, green, blue, as JPEG has it (ITU-R BT.601)."""
SEARCHED = 20
"""Invariants that the search tree sees, the coarsest; the others are compared afterwards."""
NEIGHBOURS = 32
"""At most so many near tiles are found of one: bounds the memory where thousands of tiles are alike."""
CHUNK = 128
"""Tiles worked on at a time."""
QUERIES = 1 << 14
"""Fingerprints looked up at a time."""

Tiles = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]
Prints = npt.NDArray[np.void]
"""Structured array [n] of `RECORD`."""


@lru_cache(maxsize=16)
def cosines(terms: int, length: int) -> Floats:
    """Return the first `terms` rows of the orthonormal cosine transform (DCT-II), over the root of `length`: float32 [terms, length].

    Applied to both axes, squares of the result sum to the mean square of what was transformed, in grey levels.
    """
    at = np.arange(length)
    rows = np.cos(np.pi * (2 * at + 1) * np.arange(terms)[:, None] / (2 * length)) * np.sqrt(2)
    rows[0] = 1.0
    made: Floats = (rows / length).astype(np.float32)
    made.setflags(write=False)
    return made


def check_tiles(tiles: npt.NDArray[Any]) -> None:
    """Raise StoreProblem unless these are square uint8 RGB tiles [n, px, px, 3]."""
    if tiles.ndim != 4 or tiles.shape[1] != tiles.shape[2] or tiles.shape[3] != 3 or tiles.dtype != np.uint8:
        raise StoreProblem("uint8 tiles [n, px, px, 3]", f"{tiles.dtype} {shown(tiles.shape)}", "pack the images first")


def fingerprints(tiles: Tiles, workers: int | None = None) -> Prints:
    """Return the fingerprint of each tile, [n] of `RECORD`.

    Parameters
    ----------
    tiles
        uint8 [n, px, px, 3]; a memory map is read in small pieces.
    workers
        Threads; one a core by default. The result does not depend on it, nor on what other tiles there are.

    Raises
    ------
    StoreProblem
        If the tiles are not square uint8 RGB.
    """
    check_tiles(tiles)
    starts = range(0, len(tiles), CHUNK)
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        parts = list(pool.map(lambda start: _prints(tiles[start : start + CHUNK]), starts))
    return np.concatenate(parts) if parts else np.empty(0, RECORD)


def _prints(tiles: Tiles) -> Prints:
    made = np.empty(len(tiles), RECORD)
    n, px = tiles.shape[:2]
    height = min(SIDE, px)
    basis = cosines(height, px)
    # down the columns first, while red, green and blue lie side by side: a twelfth is left of 96 px when they are weighed
    half = (basis @ tiles.reshape(n, px, px * 3).astype(np.float32)).reshape(n, height, px, 3)
    made["mean"] = np.rint(half[:, 0].mean(axis=1))
    terms = np.zeros((n, SIDE * SIDE), np.float32)
    square = terms.reshape(-1, SIDE, SIDE)[:, :height, :height]
    square[:] = (half @ np.array(LUMINANCE, np.float32)) @ basis.T
    pattern = terms[:, 1:]
    contrast = np.sqrt((pattern**2).sum(axis=1))
    made["contrast"] = np.rint(contrast * FINE)
    made["pattern"] = np.rint(pattern * (UNIT / np.maximum(contrast, 1e-3))[:, None])
    return made


def luminance(tiles: Tiles) -> Floats:
    """Return the brightness of tiles [..., 3], float32 [...], 0 to 255."""
    return np.asarray(tiles.astype(np.float32) @ np.array(LUMINANCE, np.float32))


def contrasts(prints: Prints) -> Floats:
    """Return the contrast of each tile in grey levels, float32 [n]."""
    return np.asarray(prints["contrast"] / FINE, np.float32)


def is_blank(prints: Prints) -> npt.NDArray[np.bool_]:
    """Return which tiles have no pattern to be known by: glass, ink, one colour all over."""
    return np.asarray(contrasts(prints) < LEAST_CONTRAST)


def squares(patterns: npt.NDArray[np.int8]) -> Floats:
    """Return patterns int8 [n, 63] as float32 [n, 8, 8] of unit length; the constant term is 0."""
    whole = np.zeros((len(patterns), SIDE * SIDE), np.float32)
    whole[:, 1:] = patterns
    whole /= np.maximum(np.sqrt((whole**2).sum(axis=1, keepdims=True)), 1.0)
    return whole.reshape(-1, SIDE, SIDE)


def spectrum_views(terms: Floats) -> Floats:
    """Return the terms of the eight views of what has `terms` [n, k, k]: float32 [8, n, k, k], in the order of `views_of`."""
    odd = 1.0 - 2.0 * (np.arange(terms.shape[1]) % 2).astype(np.float32)
    plain = [terms, terms * odd, terms * odd[:, None], terms * odd * odd[:, None]]
    return np.stack(plain + [view.transpose(0, 2, 1) for view in plain])


@lru_cache(maxsize=4)
def _places(side: int) -> tuple[Codes, Codes, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return rows and columns above the diagonal, coarsest first, and which of them are both even, and of one parity."""
    rows, columns = np.triu_indices(side, 1)
    order = np.lexsort((rows, rows**2 + columns**2))
    rows, columns = rows[order].astype(np.int64), columns[order].astype(np.int64)
    return rows, columns, (rows % 2 == 0) & (columns % 2 == 0), rows % 2 == columns % 2


def invariants(terms: Floats) -> Floats:
    """Return what all eight views of `terms` [n, k, k] share, coarsest first: float32 [n, k * k - 1].

    No two tiles are further apart in it than their closest views are in `terms`: each pair of mirrored terms is rotated by 45
    degrees, and signs or order are dropped where a view could change them, which never moves two points apart. So a search
    in it misses nothing.
    """
    rows, columns, even, alike = _places(terms.shape[1])
    one, other = terms[:, rows, columns], terms[:, columns, rows]
    total, difference = (one + other) * np.float32(0.5**0.5), np.abs(one - other) * np.float32(0.5**0.5)
    first = np.where(alike, np.where(even, total, np.abs(total)), np.maximum(np.abs(one), np.abs(other)))
    second = np.where(alike, difference, np.minimum(np.abs(one), np.abs(other)))
    at = np.arange(1, terms.shape[1])
    diagonal = np.where(at % 2 == 0, terms[:, at, at], np.abs(terms[:, at, at]))
    whole = np.concatenate([first, second, diagonal], axis=1)
    fineness = np.concatenate([rows**2 + columns**2] * 2 + [2 * at**2])
    return np.ascontiguousarray(whole[:, np.argsort(fineness, kind="stable")], np.float32)


def distances(one: Prints, other: Prints) -> tuple[Floats, Codes]:
    """Return how far tiles are apart pair by pair, as a share of the smaller contrast, and by which view.

    Parameters
    ----------
    one, other
        Fingerprints of n pairs.

    Returns
    -------
    distance
        float32 [n], of the best view; infinite where either is blank or the mean colours differ by more than `COLOUR`.
    view
        int64 [n], 0 to 7 in the order of `views_of`: the view of `one` that is like `other`.
    """
    here, there = contrasts(one), contrasts(other)
    left = squares(one["pattern"]) * here[:, None, None]
    right = squares(other["pattern"]) * there[:, None, None]
    apart = ((spectrum_views(left) - right) ** 2).sum(axis=(2, 3))
    view = apart.argmin(axis=0)
    share = np.sqrt(apart.min(axis=0)) / np.maximum(np.minimum(here, there), 1e-3)
    colour = np.abs(one["mean"].astype(np.int16) - other["mean"].astype(np.int16)).max(axis=1)
    share[(colour > COLOUR) | is_blank(one) | is_blank(other)] = np.inf
    return np.asarray(share, np.float32), view.astype(np.int64)


def neighbours(points: Floats, others: Floats, radius: float, most: int = NEIGHBOURS) -> Iterator[tuple[Codes, Codes]]:
    """Yield (rows of `points`, rows of `others`) of pairs at most `radius` apart, at most the nearest `most` of each point.

    Euclidean, on the first `SEARCHED` coordinates: further ones only lessen the number of pairs, and are the caller's to compare.
    """
    from scipy.spatial import cKDTree

    if not len(points) or not len(others):
        return
    # balanced trees take a median at every node; midpoints are found at once and the search is no slower
    tree = cKDTree(others[:, :SEARCHED], leafsize=24, balanced_tree=False)
    most = min(most, len(others))
    for start in range(0, len(points), QUERIES):
        _, found = tree.query(points[start : start + QUERIES, :SEARCHED], most, distance_upper_bound=radius, workers=-1)
        found = np.asarray(found).reshape(-1, most)
        row, column = np.nonzero(found < len(others))
        yield row.astype(np.int64) + start, found[row, column].astype(np.int64)


def near_pairs(one: Prints, other: Prints | None = None) -> tuple[Codes, Codes, Floats, Codes]:
    """Return all pairs of near tiles: rows of `one`, rows of `other`, distance and view, ordered by rows.

    Without `other`, pairs inside `one`, each once, first row below the second. Blank tiles are near to nothing.
    """
    inside = other is None
    against = one if other is None else other
    left, right = (np.flatnonzero(~is_blank(prints)).astype(np.int64) for prints in (one, against))
    points = invariants(squares(one["pattern"][left]))
    others = points if inside else invariants(squares(against["pattern"][right]))
    kept: list[tuple[Codes, Codes, Floats, Codes]] = []
    # patterns of unit length are no further apart than the patterns as a share of the smaller contrast: nothing is missed
    for rows, columns in neighbours(points, others, NEAR):
        first, second = left[rows], right[columns]
        if inside:
            first, second = first[first != second], second[first != second]
            first, second = np.minimum(first, second), np.maximum(first, second)
        distance, view = distances(one[first], against[second])
        close = distance <= NEAR
        kept.append((first[close], second[close], distance[close], view[close]))
    if not kept:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64)
    first, second, distance, view = (np.concatenate(column) for column in zip(*kept, strict=True))
    _, unique = np.unique(first * (len(against) + 1) + second, return_index=True)
    return first[unique], second[unique], distance[unique], view[unique]


def packed(prints: Prints) -> list[bytes]:
    """Return each fingerprint as its 68 bytes, as split.parquet holds it."""
    return [prints[at].tobytes() for at in range(len(prints))]


def unpacked(texts: list[bytes]) -> Prints:
    """Return the fingerprints [n] that `packed` made bytes of.

    Raises
    ------
    StoreProblem
        If one has another length.
    """
    wrong = [len(text) for text in texts if len(text) != RECORD.itemsize]
    if wrong:
        raise StoreProblem(f"fingerprints of {RECORD.itemsize} bytes", f"one of {wrong[0]}", "train the run again")
    return np.frombuffer(b"".join(texts), RECORD)
