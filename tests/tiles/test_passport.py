"""A training tile is known however it is turned."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sentinode.errors import StoreProblem
from sentinode.tiles.passport import dihedral_digest, marks_of, seen_of, with_passport
from sentinode.tiles.split import make_split, read_split, write_split
from sentinode.tiles.synth import synthesise


def tiles(n: int = 12, px: int = 16, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, px, px, 3), dtype=np.uint8)


def eight(tile: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.uint8]]:
    """Return the eight views by NumPy's own rotations."""
    return [np.rot90(side, turns) for side in (tile, tile[:, ::-1]) for turns in range(4)]


@pytest.mark.parametrize("px", [1, 2, 5, 96])
@pytest.mark.parametrize("kind", ["noise", "few colours", "white border", "blank", "symmetric"])
def test_all_views_have_the_digest_of_the_smallest(px: int, kind: str) -> None:
    tile = tiles(1, px)[0]
    if kind == "few colours":
        tile = tile % 2
    if kind == "blank":
        tile[:] = 255
    if kind == "white border":
        tile[[0, -1]] = 255
        tile[:, [0, -1]] = 255
    if kind == "symmetric":
        tile = np.maximum(tile, tile[::-1])
    expected = hashlib.sha256(min(view.tobytes() for view in eight(tile))).hexdigest()[:32]
    assert dihedral_digest(np.stack(eight(tile))) == [expected] * 8


def test_different_tiles_differ_and_threads_do_not_matter() -> None:
    many = tiles(700, 8)
    digests = dihedral_digest(many, workers=1)
    assert len(set(digests)) == 700
    assert dihedral_digest(many, workers=3) == digests


def test_only_square_rgb_bytes_have_one() -> None:
    with pytest.raises(StoreProblem, match=r"uint8 tiles \[n, px, px, 3\].*float64"):
        dihedral_digest(np.zeros((1, 4, 4, 3)))  # type: ignore[arg-type]
    with pytest.raises(StoreProblem, match="4, 5, 3"):
        dihedral_digest(np.zeros((1, 4, 5, 3), np.uint8))


def rows_of(pixels: npt.NDArray[np.uint8], groups: list[str], first: int = 0) -> pd.DataFrame:
    n = len(pixels)
    digest = [hashlib.sha256(tile.tobytes()).hexdigest()[:32] for tile in pixels]
    return pd.DataFrame(
        {"id": [f"t{first + i}" for i in range(n)], "label": [i % 2 for i in range(n)], "group": groups, "digest": digest}
    )


def test_contamination_counts_each_kind_once_and_names_it() -> None:
    seen = tiles(40)
    split = with_passport(make_split(rows_of(seen, [f"s{i // 4}" for i in range(40)]), "grouped", 0.2), seen)
    train, valid = split.rows_of("train"), split.rows_of("valid")
    fresh = tiles(6, seed=9)
    test = np.concatenate([seen[train[:3]], np.rot90(seen[train[3:5]], axes=(1, 2)), seen[valid[:1], ::-1], fresh])
    slide = split.table["group"][train[0]]
    table = rows_of(test, ["", "", "", "", "", "", slide, slide, "new", "new", "", ""], first=100)
    found = seen_of([split], table, marks_of(test, np.arange(len(test))))
    assert (found.n, found.exact, found.turned, found.chosen, found.slides) == (12, 3, 2, 1, 2)
    assert found.slides_unknown == 8, "those without a slide of their own"
    assert found.is_contaminated
    assert found.examples == {
        "exact": ["t100", "t101", "t102"],
        "turned": ["t103", "t104"],
        "near": [],
        "slides": [slide],
        "chosen": ["t105"],
    }
    assert "contaminated: 3 of 12 test tiles were trained on, such as 't100', 't101', 't102'" in found.warnings()


def test_clean_tiles_and_unknown_slides_are_no_contamination() -> None:
    seen, fresh = tiles(20), tiles(8, seed=5)
    split = with_passport(make_split(rows_of(seen, [""] * 20), "random"), seen)
    found = seen_of([split], rows_of(fresh, [""] * 8), marks_of(fresh, np.arange(len(fresh))))
    assert not found.is_contaminated
    assert found.slides_unknown == 8
    assert found.warnings() == []


def test_a_training_tile_of_an_unknown_slide_leaves_open_whether_slides_are_shared() -> None:
    seen, fresh = tiles(20), tiles(4, seed=5)
    split = with_passport(make_split(rows_of(seen, ["a"] * 10 + [""] * 10), "random"), seen)
    found = seen_of([split], rows_of(fresh, ["a", "a", "b", ""]), marks_of(fresh, np.arange(4)))
    assert (found.slides, found.slides_unknown) == (2, 2)


def test_the_passport_needs_the_stores_of_the_split() -> None:
    seen = tiles(20)
    split = make_split(rows_of(seen, [""] * 20), "random")
    with pytest.raises(StoreProblem, match=r"the 20 tiles of the split.*found 10"):
        with_passport(split, seen[:10])
    assert with_passport(split, seen[:10], seen[10:]).table["dihedral_digest"].tolist() == dihedral_digest(seen)


def encoded(tile: npt.NDArray[np.uint8], quality: int) -> npt.NDArray[np.uint8]:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(tile)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize("quality", [75, 85, 95])
def test_re_encoded_training_tiles_are_counted_as_near_in_every_view(quality: int) -> None:
    tissue = synthesise(4, 20, px=96, seed=3)
    split = with_passport(make_split(rows_of(tissue.tiles, tissue.groups), "grouped", 0.25), tissue.tiles)
    train, valid = split.rows_of("train"), split.rows_of("valid")
    changed = [encoded(view, quality) for view in eight(tissue.tiles[train[0]])]
    changed += [encoded(eight(tissue.tiles[valid[at]])[at % 8], quality) for at in range(8)]
    fresh = synthesise(1, 30, px=96, seed=8).tiles
    test = np.concatenate([np.stack(changed), fresh])
    found = seen_of([split], rows_of(test, [""] * 46, first=100), marks_of(test, np.arange(len(test))))
    assert (found.exact, found.turned, found.near, found.chosen, found.unchecked) == (0, 0, 8, 8, 0)
    assert found.examples["near"] == [f"t{100 + at}" for at in range(5)]
    assert found.is_contaminated
    assert found.warnings()[0].startswith("contaminated: 8 of 46 test tiles are re-encoded or slightly changed training tiles")


def test_a_split_of_the_first_format_is_read_and_says_what_it_cannot_know(tmp_path: Path) -> None:
    seen = synthesise(2, 20, px=32, seed=1)
    split = with_passport(make_split(rows_of(seen.tiles, [""] * 40), "random"), seen.tiles)
    path = tmp_path / "split.parquet"
    write_split(path, split)
    assert read_split(path).table["near"].tolist() == split.table["near"].tolist()
    old = pq.ParquetFile(path).read()
    notes = json.loads(old.schema.metadata[b"sentinode split"])
    assert notes["format"] == 2
    old = old.drop_columns(["near"]).replace_schema_metadata({b"sentinode split": json.dumps(notes | {"format": 1}).encode()})
    pq.write_table(old, path)
    again = read_split(path)
    assert (again.table["near"] == b"").all()
    pd.testing.assert_frame_equal(again.table.drop(columns="near"), split.table.drop(columns="near"))
    test = np.stack([encoded(tile, 75) for tile in seen.tiles])
    found = seen_of([again], rows_of(test, [""] * 40, 100), marks_of(test, np.arange(len(test))))
    assert (found.near, found.unchecked) == (0, 40)
    assert "40 training tiles have no fingerprint" in found.warnings()[-1]


def test_pseudo_groups_of_one_name_are_no_shared_slide() -> None:
    """Two audits both begin to count at 1: the name says nothing of another store's tiles."""
    seen, fresh = tiles(20), tiles(8, seed=5)
    split = with_passport(make_split(rows_of(seen, [f"pseudo-stain-{i % 4}" for i in range(20)]), "grouped"), seen)
    assert not seen_of([split], rows_of(fresh, ["pseudo-stain-1"] * 8), marks_of(fresh, np.arange(8))).is_contaminated
