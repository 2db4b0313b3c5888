"""Places inside a tile that are found again when the tile was cut elsewhere: how overlapping fields of view meet.

A landmark is where brightness, smoothed, differs most from its surroundings: nuclei and gaps. What it looks like is held by the 5 x 5
coarsest terms of the cosine transform of the window round it (a quarter of the tile), so the symmetries of `fingerprint` hold here too:
two landmarks tell in which view their tiles agree, and their places by how many pixels they are shifted.

Source: Lowe, Int J Comput Vis 2004;60:91 (extrema of differences of Gaussians).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from sentinode.qc.cells import near_in_cells
from sentinode.tiles.fingerprint import COLOUR, SEARCHED, Codes, Floats, Tiles, cosines, invariants, luminance, spectrum_views

MOST = 8
"""Landmarks of a tile, the strongest."""
SIDE = 5
"""Terms of the cosine transform of a window along each axis."""
LEAST = 1.5
"""Grey levels by which a landmark differs from its surroundings, at least."""
LEAST_CONTRAST = 4.0
"""Grey levels of contrast of a landmark's window, at least."""
ALIKE = 0.25
"""Largest difference of two landmarks of one place, as a share of the smaller contrast."""
NEIGHBOURS = 32
"""At most so many landmarks of a cell are compared with each: one place can lie in many tiles."""
TAIL = 1e-12
"""Weights of a Gaussian below this are none."""
NARROW, WIDE = 2.5, 4.0
"""Deviations of the two Gaussians in a tile of 96 px, in pixels."""


@dataclass(frozen=True)
class Landmarks:
    """Landmarks of many tiles: `tile` int64 [n], the tile's row; `place` int64 [n, 2], row and column of the pixel.

    `terms` float32 [n, 5, 5] of unit length, the constant 0; `contrast` and `mean` float32 [n], grey levels of the window.
    """

    tile: Codes
    place: Codes
    terms: Floats
    contrast: Floats
    mean: Floats

    def of(self, rows: Codes) -> "Landmarks":
        """Return some of the landmarks."""
        return Landmarks(self.tile[rows], self.place[rows], self.terms[rows], self.contrast[rows], self.mean[rows])


def joined(parts: list[Landmarks]) -> Landmarks:
    """Return the landmarks of all parts, one behind the other."""
    names = ("tile", "place", "terms", "contrast", "mean")
    return Landmarks(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def half_window(px: int) -> int:
    """Return how many pixels a window reaches from its landmark: an eighth of the tile, 12 of 96."""
    return max(2, px // 8)


@lru_cache(maxsize=8)
def _gaussian(px: int, deviation: float) -> Floats:
    """Return the matrix [px, px] that smooths an axis, cut where the tile ends."""
    at = np.arange(px)
    rows = np.exp(-0.5 * ((at[:, None] - at) / deviation) ** 2)
    # Far tails would be denormal numbers in float32, with which a product takes five times as long.
    rows[rows < TAIL] = 0
    return np.asarray(rows / rows.sum(axis=1, keepdims=True), np.float32)


def landmarks(tiles: Tiles, first: int = 0) -> Landmarks:
    """Return the landmarks of tiles uint8 [m, px, px, 3], whose rows count from `first`.

    A tile's landmarks depend on its pixels alone, and its views have the same ones, turned.
    """
    px, reach = tiles.shape[1], half_window(tiles.shape[1])
    grey = luminance(tiles)
    narrow, wide = (_gaussian(px, deviation * px / 96) for deviation in (NARROW, WIDE))
    strength = np.abs(narrow @ grey @ narrow.T - wide @ grey @ wide.T)
    inside = strength[:, reach : px - reach, reach : px - reach]
    highest = np.zeros_like(inside)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            there = strength[:, reach + down : px - reach + down, reach + right : px - reach + right]
            np.maximum(highest, there, out=highest)
    peaks = np.where((inside == highest) & (inside >= LEAST), inside, 0).reshape(len(tiles), -1)
    most = min(MOST, peaks.shape[1])
    at = np.argpartition(-peaks, most - 1, axis=1)[:, :most]
    tile, column = np.nonzero(np.take_along_axis(peaks, at, axis=1) > 0)
    row, column = np.divmod(at[tile, column], inside.shape[2])
    windows = np.lib.stride_tricks.sliding_window_view(grey, (2 * reach + 1, 2 * reach + 1), axis=(1, 2))[tile, row, column]
    basis = cosines(min(SIDE, windows.shape[1]), windows.shape[1])
    terms = basis @ windows @ basis.T
    mean = terms[:, 0, 0].copy()
    terms[:, 0, 0] = 0
    contrast = np.sqrt((terms**2).sum(axis=(1, 2)))
    kept = contrast >= LEAST_CONTRAST
    place = np.stack([row, column], axis=1) + reach
    unit = terms[kept] / contrast[kept, None, None]
    return Landmarks(tile[kept].astype(np.int64) + first, place[kept].astype(np.int64), unit, contrast[kept], mean[kept])


def turned_place(place: Codes, view: Codes, px: int) -> Codes:
    """Return where pixels [n, 2] of tiles of `px` come to lie in their views [n], in the order of `views_of`."""
    row = np.where(view & 2, px - 1 - place[:, 0], place[:, 0])
    column = np.where(view & 1, px - 1 - place[:, 1], place[:, 1])
    swap = view >= 4
    return np.stack([np.where(swap, column, row), np.where(swap, row, column)], axis=1)


def meetings(one: Landmarks, other: Landmarks | None, px: int, workers: int = 1) -> Codes:
    """Return which tiles may show one place: int64 [n, 5] of row of `one`, row of `other`, view, dy, dx; unique, ordered.

    The pixel (y, x) of that view of the first tile would be (y + dy, x + dx) in the second. Without `other`, pairs inside `one`,
    first row below the second. Each is a guess for the pixels to confirm.
    """
    inside = other is None
    against = one if other is None else other
    kept = [np.empty((0, 6), np.int64)]
    for rows, columns in near_in_cells(_points(one), _points(against), ALIKE, NEIGHBOURS, workers):
        wanted = one.tile[rows] < against.tile[columns] if inside else np.ones(len(rows), bool)
        first, second = one.of(rows[wanted]), against.of(columns[wanted])
        if not len(first.tile):
            continue
        left, right = first.terms * first.contrast[:, None, None], second.terms * second.contrast[:, None, None]
        apart = ((spectrum_views(left) - right) ** 2).sum(axis=(2, 3))
        view, share = apart.argmin(axis=0), np.sqrt(apart.min(axis=0)) / np.minimum(first.contrast, second.contrast)
        shift = second.place - turned_place(first.place, view, px)
        found = np.stack([first.tile, second.tile, view, shift[:, 0], shift[:, 1], np.rint(share * 1e6).astype(np.int64)], axis=1)
        kept.append(found[share <= ALIKE])
    return _best(np.concatenate(kept))


def _points(marks: Landmarks) -> Floats:
    """Return where landmarks stand in the search: brightness, then what all views share.

    Brightness first, since it tells most of them apart at once; JPEG moves it by a grey level, a tenth of what is let through.
    """
    whole = [(marks.mean * np.float32(ALIKE / COLOUR))[:, None], invariants(marks.terms)]
    return np.ascontiguousarray(np.concatenate(whole, axis=1)[:, :SEARCHED])


def _best(found: Codes, most: int = 2) -> Codes:
    """Return for each pair of tiles the `most` guesses whose landmarks are most alike."""
    found = found[np.lexsort(found.T[[4, 3, 2, 5, 1, 0]])]
    _, unique = np.unique(found[:, :5], axis=0, return_index=True)
    found = found[np.sort(unique)]
    new = np.ones(len(found), bool)
    new[1:] = (found[1:, :2] != found[:-1, :2]).any(axis=1)
    starts = np.flatnonzero(new)
    place = np.arange(len(found)) - np.repeat(starts, np.diff(np.append(starts, len(found))))
    return found[place < most][:, :5]
