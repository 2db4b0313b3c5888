"""Planted duplicates are found with their view and shift, strangers are not, and the order of rows plays no part."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from PIL import Image

from sentinode.errors import StoreProblem
from sentinode.qc.duplicates import COLUMNS, duplicates, groups
from sentinode.qc.landmarks import landmarks, turned_place
from sentinode.tiles.decode import tile_digest
from sentinode.tiles.passport import views_of
from sentinode.tiles.store import Store, StoreWriter, open_store
from sentinode.tiles.synth import synthesise

Tiles = npt.NDArray[np.uint8]


def stored(path: Path, tiles: Tiles, names: list[str], labels: list[int]) -> Store:
    path.mkdir()
    digests = [tile_digest(np.ascontiguousarray(tile).data).hex() for tile in tiles]
    n, px = tiles.shape[:2]
    columns: dict[str, list[Any]] = {"id": names, "label": labels, "digest": digests, "width": [px] * n, "height": [px] * n}
    columns |= {name: [""] * n for name in ("group", "source", "path", "note")}
    with StoreWriter(path, px) as writer:
        writer.append(memoryview(np.ascontiguousarray(tiles).tobytes()))
        writer.finish([columns], {"classes": ["normal", "tumour"]})
    return open_store(path)


def encoded(tile: Tiles, quality: int) -> Tiles:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(tile)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


@pytest.fixture(scope="module")
def planted() -> tuple[Tiles, list[str], list[int]]:
    """Make 16 tiles of 64 px cut from larger ones, and copies of some: exact, turned, re-encoded, shifted; and blank ones."""
    large = synthesise(4, 4, px=128, seed=6).tiles
    plain = large[:, 32:96, 32:96]
    made = {f"p{at:02d}": tile for at, tile in enumerate(plain)}
    made |= {"p00 copy": plain[0], "p00 copy again": plain[0], "p01 turned": views_of(plain[1])[6]}
    made |= {"p02 jpeg": encoded(plain[2], 75), "p03 turned jpeg": encoded(views_of(plain[3])[5], 75)}
    made |= {"p04 shifted": large[4, 36:100, 24:88], "p05 shifted turned jpeg": encoded(views_of(large[5, 32:96, 48:112])[3], 85)}
    made |= {"white": np.full((64, 64, 3), 250, np.uint8), "whiter": np.full((64, 64, 3), 252, np.uint8)}
    labels = [at % 2 for at in range(16)] + [0, 1, 1, 0, -1, 0, 0, 0, 1]
    return np.stack(list(made.values())), list(made), labels


def test_every_planted_pair_is_found_and_nothing_else(planted: tuple[Tiles, list[str], list[int]], tmp_path: Path) -> None:
    tiles, names, labels = planted
    found = duplicates(stored(tmp_path / "s.store", tiles, names, labels), quiet=True)
    assert tuple(found.columns) == COLUMNS
    kinds = {tuple(sorted((a, b))): kind for a, b, kind in zip(found["id_a"], found["id_b"], found["kind"], strict=True)}
    exact = {pair for pair, kind in kinds.items() if kind == "exact"}
    assert exact == {("p00", "p00 copy"), ("p00", "p00 copy again")}
    assert {pair: kind for pair, kind in kinds.items() if kind != "exact"} == {
        ("p01", "p01 turned"): "turned",
        ("p02", "p02 jpeg"): "near",
        ("p03", "p03 turned jpeg"): "near",
        ("p04", "p04 shifted"): "overlap",
        ("p05", "p05 shifted turned jpeg"): "overlap",
    }
    assert found.attrs["blank"] == 2
    by_name = found.set_index(["id_a", "id_b"])
    clash = set(by_name.index[by_name["conflict"]])
    assert {frozenset(pair) for pair in clash} == {
        frozenset(("p00", "p00 copy again")),
        frozenset(("p05", "p05 shifted turned jpeg")),
    }


def test_view_and_shift_lay_the_pixels_over_each_other(planted: tuple[Tiles, list[str], list[int]], tmp_path: Path) -> None:
    tiles, names, labels = planted
    found = duplicates(stored(tmp_path / "s.store", tiles, names, labels), quiet=True)
    by_id = dict(zip(names, tiles, strict=True))
    for a, b, view, dx, dy in found[["id_a", "id_b", "view", "dx", "dy"]].to_numpy(object).tolist():
        seen, other = views_of(by_id[a])[view].astype(int), by_id[b].astype(int)
        rows, columns = 64 - abs(dy), 64 - abs(dx)
        here = seen[max(-dy, 0) :, max(-dx, 0) :][:rows, :columns]
        there = other[max(dy, 0) :, max(dx, 0) :][:rows, :columns]
        assert np.abs(here - there).mean() < 8, (a, b)
    shifted = found[found["kind"] == "overlap"]
    assert sorted((abs(dx), abs(dy)) for dx, dy in zip(shifted["dx"], shifted["dy"], strict=True)) == [(8, 4), (16, 0)]


def test_the_order_of_rows_and_threads_play_no_part(planted: tuple[Tiles, list[str], list[int]], tmp_path: Path) -> None:
    tiles, names, labels = planted
    mixed = np.random.default_rng(1).permutation(len(tiles))
    one = duplicates(stored(tmp_path / "a.store", tiles, names, labels), quiet=True, workers=1)
    other_store = stored(tmp_path / "b.store", tiles[mixed], [names[at] for at in mixed], [labels[at] for at in mixed])
    pd.testing.assert_frame_equal(one, duplicates(other_store, quiet=True, workers=2))


def test_one_store_against_another(planted: tuple[Tiles, list[str], list[int]], tmp_path: Path) -> None:
    tiles, names, labels = planted
    one = stored(tmp_path / "a.store", tiles[:16], names[:16], labels[:16])
    other = stored(tmp_path / "b.store", tiles[16:], names[16:], labels[16:])
    found = duplicates(one, other, quiet=True)
    assert list(zip(found["id_a"], found["id_b"], found["kind"], strict=True)) == [
        ("p00", "p00 copy", "exact"),
        ("p00", "p00 copy again", "exact"),
        ("p01", "p01 turned", "turned"),
        ("p02", "p02 jpeg", "near"),
        ("p03", "p03 turned jpeg", "near"),
        ("p04", "p04 shifted", "overlap"),
        ("p05", "p05 shifted turned jpeg", "overlap"),
    ]
    assert found.loc[found["kind"] == "turned", "view"].tolist() == [6]
    small = stored(tmp_path / "c.store", tiles[:2, :32, :32], names[:2], labels[:2])
    with pytest.raises(StoreProblem, match="tiles of 64 px in both stores; found 32 px; pack it with --px 64"):
        duplicates(one, small, quiet=True)


def test_a_store_without_duplicates_gives_an_empty_table(tmp_path: Path) -> None:
    tiles = synthesise(1, 4, px=32, seed=9).tiles
    found = duplicates(stored(tmp_path / "s.store", tiles, list("abcd"), [0, 1, 0, 1]), quiet=True)
    assert (len(found), tuple(found.columns)) == (0, COLUMNS)
    assert len(groups(found)) == 0


def test_groups_are_joined_over_others_and_know_conflicts_that_no_pair_shows() -> None:
    pairs = pd.DataFrame(
        {"id_a": ["b", "b", "x"], "id_b": ["a", "c", "y"], "label_a": [-1, -1, 1], "label_b": [0, 1, 1], "conflict": [False] * 3}
    )
    found = groups(pairs)
    assert found["id"].tolist() == ["a", "b", "c", "x", "y"]
    assert found["group"].tolist() == [0, 0, 0, 1, 1]
    assert found["size"].tolist() == [3, 3, 3, 2, 2]
    assert found["conflict"].tolist() == [True] * 3 + [False] * 2


@pytest.mark.parametrize("view", range(8))
def test_the_views_of_a_tile_have_its_landmarks_turned(view: int) -> None:
    tile = synthesise(1, 1, px=64, seed=2).tiles[0]
    marks, turned = landmarks(tile[None]), landmarks(np.ascontiguousarray(views_of(tile)[view])[None])
    moved = turned_place(marks.place, np.full(len(marks.place), view), 64)
    assert len(marks.place) >= 4
    assert sorted(map(tuple, moved.tolist())) == sorted(map(tuple, turned.place.tolist()))
