"""Info counts what is there; every figure against a plain count of our own."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sentinode.errors import StoreProblem
from sentinode.tiles.info import info
from sentinode.tiles.pack import pack
from tests.tiles.conftest import random_tile

Make = Callable[..., Path]


def test_counts_colours_and_sha1(kaggle: Make, tmp_path: Path) -> None:
    store = pack(kaggle(150), out=tmp_path / "s.store", quiet=True)
    found = info(store, verify=True, quiet=True)
    assert (found.n, found.px, found.classes) == (150, 24, ("0", "1"))
    assert found.labels == {"0": 75, "1": 75}
    assert found.by_source == {"kaggle": {"0": 75, "1": 75}}
    pixels = np.asarray(store.tiles, np.float64).reshape(-1, 3)
    assert found.mean_rgb == pytest.approx(pixels.mean(0))
    assert found.std_rgb == pytest.approx(pixels.std(0))
    assert (found.sha1_ids, found.sha1_right) == (150, 150)
    assert found.verified
    assert found.biggest_group is None


def test_a_wrong_sha1_is_counted(kaggle: Make, tmp_path: Path) -> None:
    root = kaggle(3)
    first = sorted((root / "train").iterdir())[0]
    other = first.with_name(f"{'0' * 40}.tif")
    first.rename(other)
    found = info(pack(root / "train", out=tmp_path / "s.store", quiet=True), quiet=True)
    assert (found.sha1_ids, found.sha1_right) == (3, 2)
    assert found.labels == {"unknown": 3}


def test_groups_duplicates_sizes_and_quarantine(images: Make, tmp_path: Path) -> None:
    root = images("set/0", 4).parent
    images("set/1", 1, seed=2, name="twin")
    images("set/1", 1, seed=3, name="other")
    images("set/0", 1, seed=3, name="third")
    Image.fromarray(random_tile(1, 40)).save(root / "0" / "big.png")
    (root / "1" / "e.png").write_bytes(b"")
    (tmp_path / "g.csv").write_text("id,slide\nt0,A\nt1,A\nt2,B\ngone,B\n", encoding="utf-8")
    store = pack(root, out=tmp_path / "s.store", px=24, groups=str(tmp_path / "g.csv"), quiet=True)
    found = info(store.path, quiet=True)
    assert found.sizes == {"24 x 24": 7, "40 x 40": 1}
    assert (found.duplicate_sets, found.duplicate_tiles, found.conflicting_sets) == (2, 5, 2)
    assert (found.groups, found.tiles_without_group, found.group_ids_without_tile) == (2, 5, 1)
    assert (found.biggest_group, found.smallest_group) == (("A", 2), ("B", 1))
    assert found.by_group == {"A": {"0": 2}, "B": {"0": 1}}
    assert found.quarantined == {"empty file": 1}
    assert found.converted == {"resized": 1}
    assert json.loads(json.dumps(found.as_dict()))["quarantined_files"] == [["set", "1/e.png", "empty file", "zero bytes"]]
    text = "\n".join(found.lines())
    assert "from 1 ('B') to 2 tiles ('A'); 5 tiles without" in text
    assert "group        'A' '0' 2\n             'B' '0' 1\n" in text
    assert "'set/1/e.png': empty file" in text


def test_long_lists_are_cut_in_print_only(images: Make, tmp_path: Path) -> None:
    folder = images("x", 1)
    for i in range(30):
        (folder / f"e{i}.png").write_bytes(b"")
    found = info(pack(folder, out=tmp_path / "s.store", quiet=True), quiet=True)
    assert len(found.quarantined_files) == 30
    assert len(found.lines()) < 30
    assert any("18 more" in line for line in found.lines())


def test_verify_raises_what_verify_raises(images: Make, tmp_path: Path) -> None:
    store = pack(images("x", 2), out=tmp_path / "s.store", quiet=True)
    with (store.path / "tiles.npy").open("rb+") as handle:
        handle.seek(200)
        handle.write(b"\0\1\2")
    with pytest.raises(StoreProblem):
        info(store.path, verify=True, quiet=True)
