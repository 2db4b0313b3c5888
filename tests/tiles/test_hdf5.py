"""PCam's HDF5 pairs, plain and gzipped, with slides from meta.csv; broken ones answered in three parts."""

import builtins
import errno
import gzip
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from sentinode.errors import MachineProblem, SentinodeError, SourceProblem
from sentinode.tiles.hdf5 import find_pairs, open_pair
from sentinode.tiles.pack import pack
from tests.tiles.conftest import random_tile

Make = Callable[..., Path]


def zipped(path: Path) -> Path:
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return packed


@pytest.mark.parametrize("gz", [False, True])
def test_a_pair_is_packed_in_its_order_with_labels_and_slides(pcam: Make, tmp_path: Path, gz: bool) -> None:
    x = pcam(50)
    if gz:
        zipped(x.with_name(x.name.replace("_x", "_y")))
        x = zipped(x)
    store = pack(x, out=tmp_path / "s.store", quiet=True)
    assert np.array_equal(np.stack([random_tile(i) for i in range(50)]), store.tiles)
    assert store.rows["label"].tolist() == [i % 2 for i in range(50)]
    assert store.rows["id"].iloc[7] == "camelyonpatch_level_2_split_valid_000007"
    assert store.rows["group"].iloc[7] == "camelyon16_train_tumor_002"
    assert store.rows["path"].iloc[7] == f"{x.name}#7"


def test_a_folder_holds_pairs_and_the_plain_file_is_preferred(pcam: Make, tmp_path: Path) -> None:
    x = pcam(4)
    x.with_name(x.name + ".gz").write_bytes(b"never read")
    assert find_pairs(x.parent) == [x]
    assert len(pack(x.parent, out=tmp_path / "s.store", quiet=True)) == 4


def test_a_label_that_is_no_class_is_quarantined_with_its_row(pcam: Make, tmp_path: Path) -> None:
    store = pack(pcam(4, labels=[0, 1, 5, 1]), out=tmp_path / "s.store", quiet=True)
    assert store.rows["label"].tolist() == [0, 1, 1]
    assert np.array_equal(random_tile(3), store.tiles[2])
    assert [entry[2:] for entry in store.record["quarantined"]] == [["label is not a class", "5 in row 2 of y"]]


def test_another_size_is_resized(pcam: Make, tmp_path: Path) -> None:
    store = pack(pcam(3), out=tmp_path / "s.store", px=16, quiet=True)
    assert store.tiles.shape == (3, 16, 16, 3)
    assert store.rows["note"].tolist() == ["resized"] * 3
    assert store.rows["width"].tolist() == [24] * 3


def test_broken_pairs_are_refused(pcam: Make, tmp_path: Path) -> None:
    x = pcam(6)
    y = x.with_name(x.name.replace("_x", "_y"))
    meta = x.with_name("camelyonpatch_level_2_split_valid_meta.csv")

    def problem(path: Path) -> SourceProblem:
        with pytest.raises(SourceProblem) as caught, ExitStack() as scratch:
            open_pair(path, scratch)
        return caught.value

    assert "_x.h5" in problem(y).expected
    whole = meta.read_text(encoding="utf-8")
    meta.write_text(whole.rsplit("\n", 2)[0], encoding="utf-8")
    assert "5" in problem(x).found
    meta.write_text(whole.replace("\n5,", "\n4,"), encoding="utf-8")
    assert "'4'" in problem(x).found
    meta.unlink()
    with h5py.File(y, "w") as handle:
        handle["y"] = np.zeros((5, 1, 1, 1), np.uint8)
    assert "[5, 1, 1, 1]" in problem(x).found
    with h5py.File(y, "w") as handle:
        handle["labels"] = np.zeros((6, 1, 1, 1), np.uint8)
    assert "'labels'" in problem(x).found
    y.write_bytes(b"no HDF5")
    assert "HDF5" in problem(x).expected
    y.unlink()
    assert "no such file" in problem(x).found


def test_a_cut_gzip_is_refused_and_its_copy_removed(pcam: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = zipped(pcam(6))
    x.write_bytes(x.read_bytes()[:-200])
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    with pytest.raises(SourceProblem, match="whole gzip"):
        pack(x, out=tmp_path / "s.store", quiet=True)
    assert list((tmp_path / "scratch").iterdir()) == []
    assert not (tmp_path / "s.store").exists()


@pytest.mark.parametrize(
    ("number", "kind", "do"), [(errno.ENOSPC, MachineProblem, "TMPDIR"), (errno.EACCES, SourceProblem, "permissions")]
)
def test_no_room_to_unpack_says_where_room_is_needed(
    pcam: Make, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[SentinodeError], do: str
) -> None:
    x = zipped(pcam(6))

    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(kind) as caught, ExitStack() as scratch:
        open_pair(x, scratch)
    assert "x.h5.gz" in caught.value.expected
    assert os.strerror(number) in caught.value.found
    assert do in caught.value.do


def test_without_h5py_the_remedy_is_named(pcam: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    x = pcam(2)
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "h5py":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MachineProblem) as caught, ExitStack() as scratch:
        open_pair(x, scratch)
    assert caught.value.do == "pip install 'sentinode[hdf5]'"
