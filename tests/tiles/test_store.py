"""A store that opens is whole; one that is not says so in three parts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sentinode.errors import StoreProblem
from sentinode.tiles.pack import pack
from sentinode.tiles.store import HEADER_BYTES, Store, WholeDigest, npy_header, open_store, stream_blocks, verify

Make = Callable[..., Path]


@pytest.fixture
def store(kaggle: Make, tmp_path: Path) -> Store:
    return pack(kaggle(20), out=tmp_path / "s.store", quiet=True)


def problem(path: Path) -> StoreProblem:
    with pytest.raises(StoreProblem) as caught:
        open_store(path)
    assert caught.value.expected
    assert caught.value.do
    return caught.value


def change(path: Path, **values: object) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**record, **values}), encoding="utf-8")


def test_the_header_is_numpys_own_and_of_one_length(tmp_path: Path) -> None:
    for n in (0, 7, 220_025, 10**12):
        assert len(npy_header(n, 96)) == HEADER_BYTES
    np.save(tmp_path / "x.npy", np.zeros((7, 8, 8, 3), np.uint8))
    assert (tmp_path / "x.npy").read_bytes()[:HEADER_BYTES] == npy_header(7, 8)


def test_tiles_are_a_read_only_map(store: Store) -> None:
    assert isinstance(store.tiles, np.memmap)
    assert not store.tiles.flags.writeable
    assert (len(store), store.px, store.classes) == (20, 24, ("0", "1"))


def test_a_store_of_another_version_says_how_to_repack(store: Store) -> None:
    change(store.path / "store.json", format=2)
    found = problem(store.path)
    assert "format 1" in found.expected
    assert "'2'" in found.found
    assert "sentinode pack" in found.do


def test_files_that_do_not_agree_are_refused(store: Store, tmp_path: Path) -> None:
    parts = {name: (store.path / name).read_bytes() for name in ("tiles.npy", "rows.parquet", "store.json")}

    def restored(name: str, data: bytes) -> str:
        for other, whole in parts.items():
            (store.path / other).write_bytes(data if other == name else whole)
        return problem(store.path).found

    np.save(tmp_path / "fewer.npy", store.tiles[:19])
    np.save(tmp_path / "floats.npy", store.tiles.astype(np.float32))
    pd.DataFrame({"id": ["a"]}).to_parquet(tmp_path / "other.parquet")
    store.rows.assign(label=5).to_parquet(tmp_path / "labels.parquet")
    assert "[19, 24, 24, 3]" in restored("tiles.npy", (tmp_path / "fewer.npy").read_bytes())
    assert "float32" in restored("tiles.npy", (tmp_path / "floats.npy").read_bytes())
    assert "ValueError" in restored("tiles.npy", parts["tiles.npy"][:-1])
    assert "1 rows" in restored("rows.parquet", (tmp_path / "other.parquet").read_bytes())
    assert restored("rows.parquet", (tmp_path / "labels.parquet").read_bytes()) == "others"
    assert "ArrowInvalid" in restored("rows.parquet", parts["rows.parquet"][:-9])
    assert "JSONDecodeError" in restored("store.json", b"{")
    assert "KeyError" in restored("store.json", b'{"format": 1}')
    assert "no store.json" in problem(tmp_path).found


def test_verify_names_the_first_bad_tile_and_the_count(store: Store) -> None:
    verify(store, quiet=True)
    data = bytearray((store.path / "tiles.npy").read_bytes())
    for row in (7, 12):
        data[HEADER_BYTES + row * 24 * 24 * 3 + 5] ^= 1
    (store.path / "tiles.npy").write_bytes(data)
    with pytest.raises(StoreProblem) as caught:
        verify(store.path, quiet=True)
    assert "2 of 20 tiles" in caught.value.found
    assert f"{store.rows['id'].iloc[7]}' in row 7" in caught.value.found


@pytest.mark.parametrize("column", ["id", "label", "group"])
def test_verify_sees_changed_rows(store: Store, column: str) -> None:
    values = store.rows[column].tolist()
    values[3] = 1 - values[3] if column == "label" else "other"
    rows = store.rows.assign(**{column: pd.Series(values, dtype=store.rows[column].dtype)})
    rows.to_parquet(store.path / "rows.parquet")
    with pytest.raises(StoreProblem, match="other ids, labels or groups"):
        verify(store.path, quiet=True)


def test_the_whole_digest_tells_apart_what_joins_to_the_same_text() -> None:
    def whole(px: int = 24, classes: tuple[str, str] = ("0", "1"), **other: list[Any]) -> str:
        total = WholeDigest(px, classes)
        total.feed({"id": ["a", "b"], "label": [0, 1], "group": ["x", ""], "digest": ["d", "e"], **other})
        return total.hex()

    found = [whole(), whole(id=["ab", ""]), whole(label=[1, 0]), whole(group=["", "x"]), whole(digest=["de", ""])]
    found += [whole(px=25), whole(classes=("1", "0"))]
    assert len(set(found)) == len(found)


def test_streaming_gives_all_tiles_in_order(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sentinode.tiles.store.READ_BYTES", 24 * 24 * 3 * 7)
    parts = list(stream_blocks(store))
    assert [first for first, _ in parts] == [0, 7, 14]
    assert np.array_equal(np.concatenate([tiles for _, tiles in parts]), store.tiles)


def test_rows_in_several_batches_are_one_table(kaggle: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = kaggle(30)
    whole = pack(root, out=tmp_path / "whole.store", quiet=True)
    for module in ("store", "plan"):
        monkeypatch.setattr(f"sentinode.tiles.{module}.ROWS_A_BATCH", 7)
    parts = pack(root, out=tmp_path / "parts.store", quiet=True)
    pd.testing.assert_frame_equal(whole.rows, parts.rows)
    verify(parts, quiet=True)
