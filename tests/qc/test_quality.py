"""Quality: measures against plain arithmetic, planted faults found, tissue left alone, order and threads without effect."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from sentinode.errors import StoreProblem
from sentinode.qc.quality import MEASURES, judged, measure_quality, measured
from sentinode.tiles.store import Store
from sentinode.tiles.synth import synthesise
from tests.qc.stores import store_of

Tiles = npt.NDArray[np.uint8]
TISSUE = synthesise(6, 20, px=48, difficulty=0.3, seed=3)


def by_hand(tile: Tiles) -> dict[str, float]:
    """Measure one tile pixel by pixel, in float64."""
    few = [tuple(int(v) for v in tile[y, x]) for y in range(0, len(tile), 2) for x in range(0, len(tile), 2)]
    grey = np.array([[(77 * int(r) + 150 * int(g) + 29 * int(b)) // 256 for r, g, b in row] for row in tile], dtype=float)

    def square(image: npt.NDArray[np.float64]) -> float:
        inner = 4 * image[1:-1, 1:-1] - image[:-2, 1:-1] - image[2:, 1:-1] - image[1:-1, :-2] - image[1:-1, 2:]
        return float((inner**2).mean())

    half = (grey[::2, ::2] + grey[1::2, ::2] + grey[::2, 1::2] + grey[1::2, 1::2]) / 4
    blocks = [grey[y : y + 8, x : x + 8].max() for y in range(0, len(tile), 8) for x in range(0, len(tile), 8)]
    white = [min(p) >= 220 for p in few]
    return {
        "white_share": float(np.mean(white)),
        "contrast": float(grey.std()),
        "black_share": float(np.mean([max(p) < 60 and max(p) - min(p) < 20 for p in few])),
        "thick_share": float(np.mean([top < 90 for top in blocks])),
        "foreign_share": float(
            np.mean([(b > r + 60 and g > r) or (g > r + 10 and g > b + 10) or (r > b + 60 and g > b + 40) for r, g, b in few])
        ),
        "clipped_share": float(np.mean([(max(p) == 255 or min(p) == 0) and not w for p, w in zip(few, white, strict=True)])),
        "sharpness": square(grey) ** 2 / (square(half) * grey.var()),
    }


def test_measures_are_what_their_names_say() -> None:
    rng = np.random.default_rng(0)
    tiles = np.concatenate([TISSUE.tiles[:4], rng.integers(0, 256, (2, 48, 48, 3), dtype=np.uint8), TISSUE.tiles[4:6] // 3])
    found = measured(tiles)
    for row, tile in zip(found, tiles, strict=True):
        wanted = by_hand(tile)
        assert dict(zip(MEASURES, row, strict=True)) == pytest.approx(wanted, rel=1e-4, abs=1e-9)


def glass(tile: Tiles) -> Tiles:
    return np.clip(235 + np.random.default_rng(1).normal(0, 2, tile.shape), 0, 255).astype(np.uint8)


def edge_of_the_scan(tile: Tiles) -> Tiles:
    return np.concatenate([np.full_like(tile[:12], 20), tile[12:]])


def fold(tile: Tiles) -> Tiles:
    thick = tile.copy()
    thick[:, 8:32] = (thick[:, 8:32].astype(float) * 0.3 + [30, 0, 40]).astype(np.uint8)
    return thick


def pen(tile: Tiles) -> Tiles:
    marked = tile.copy()
    marked[20:24, :, :] = (20, 120, 180)
    return marked


def overexposed(tile: Tiles) -> Tiles:
    bright: Tiles = np.clip(tile.astype(float) * [1.6, 0.8, 1.0], 0, 255).astype(np.uint8)
    return bright


def out_of_focus(tile: Tiles) -> Tiles:
    return np.array(Image.fromarray(tile).filter(ImageFilter.GaussianBlur(2)))


FAULTS: dict[str, Callable[[Tiles], Tiles]] = {
    "blank": glass,
    "black": edge_of_the_scan,
    "thick": fold,
    "foreign": pen,
    "clipped": overexposed,
    "blurred": out_of_focus,
}


@pytest.mark.parametrize("reason", list(FAULTS))
def test_a_planted_fault_is_found_and_nothing_else(reason: str, tmp_path: Path) -> None:
    tiles = TISSUE.tiles.copy()
    planted = [5, 50, 95]
    for at in planted:
        tiles[at] = FAULTS[reason](tiles[at])
    table = measure_quality(store_of(tmp_path / "s.store", tiles, TISSUE.labels)).table
    assert table.index[table["reason"] == reason].tolist() == planted
    assert (table.loc[planted, "severity"] >= 1).all()
    others = table.drop(index=planted)
    assert (others["reason"] == "").mean() > 0.97


def test_the_worst_come_first_and_counts_add_up(tmp_path: Path) -> None:
    tiles = TISSUE.tiles.copy()
    tiles[7] = 20
    tiles[9] = edge_of_the_scan(tiles[9])
    quality = measure_quality(store_of(tmp_path / "s.store", tiles, TISSUE.labels))
    assert quality.worst("black", 5).tolist() == [7, 9]
    assert quality.worst("black", 1).tolist() == [7]
    assert sum(quality.counts().values()) == (quality.table["reason"] != "").sum()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), workers=st.integers(1, 3))
def test_neither_order_nor_threads_change_a_verdict(seed: int, workers: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    order = np.random.default_rng(seed).permutation(len(TISSUE.tiles))
    stores: list[Store] = []
    for rows in (np.arange(len(order)), order):
        folder = tmp_path_factory.mktemp("order")
        ids = [TISSUE.ids[at] for at in rows]
        stores.append(store_of(folder / "s.store", TISSUE.tiles[rows], TISSUE.labels[rows], ids=ids))
    one, other = (
        measure_quality(store, workers=n).table.sort_values("id") for store, n in zip(stores, (1, workers), strict=True)
    )
    pd.testing.assert_frame_equal(one.reset_index(drop=True), other.reset_index(drop=True), rtol=1e-12)


def test_a_store_of_equal_tiles_has_no_outliers() -> None:
    tile = measured(TISSUE.tiles[:1])
    table = judged(np.array([f"{at}" for at in range(9)]), np.repeat(tile, 9, axis=0)).table
    assert (table["sharpness_z"] == 0).all()


@pytest.mark.parametrize(
    ("n", "px", "expected", "found"),
    [(0, 48, "tiles in ", "an empty store"), (4, 12, "at least 16 x 16 pixels", "4 tiles of 12 x 12")],
)
def test_nothing_to_measure_is_said(n: int, px: int, expected: str, found: str, tmp_path: Path) -> None:
    store = store_of(tmp_path / "s.store", np.zeros((n, px, px, 3), np.uint8), np.zeros(n, np.int8))
    with pytest.raises(StoreProblem) as caught:
        measure_quality(store)
    assert expected in caught.value.expected
    assert caught.value.found == found
    assert "pack" in caught.value.do
