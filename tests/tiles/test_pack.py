"""Packing: the same bytes however many threads and whatever the order, every bad file with its stated behaviour."""

import json
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import sentinode
from sentinode.errors import MachineProblem, SentinodeError, SourceProblem, StoreProblem, UsageProblem
from sentinode.settings import PackSettings
from sentinode.tiles.info import info
from sentinode.tiles.pack import decode_block, open_or_pack, pack
from sentinode.tiles.store import open_store, verify
from tests.tiles.conftest import random_tile, tifffile_tiff

Make = Callable[..., Path]
FILES = ["rows.parquet", "store.json", "tiles.npy"]


def contents(store: Path) -> dict[str, bytes]:
    assert sorted(path.name for path in store.iterdir()) == FILES
    return {name: (store / name).read_bytes() for name in FILES}


def test_the_pixels_are_pillows_and_numpy_opens_them(kaggle: Make, tmp_path: Path) -> None:
    root = kaggle(300)
    store = pack(root, out=tmp_path / "s.store", quiet=True)
    expected = np.stack([np.asarray(Image.open(root / path)) for path in store.rows["path"]])
    assert np.array_equal(expected, np.load(tmp_path / "s.store" / "tiles.npy", mmap_mode="r"))
    np.save(tmp_path / "peer.npy", expected)
    assert (tmp_path / "peer.npy").read_bytes() == (tmp_path / "s.store" / "tiles.npy").read_bytes()
    table = pd.read_csv(root / "train_labels.csv").set_index("id")["label"]
    assert store.rows["label"].tolist() == table.loc[store.rows["id"]].tolist()
    verify(store, quiet=True)


def test_as_many_threads_decode_as_cores_are_usable(kaggle: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's quota counts, not the machine's cores: more threads would wait for their turn."""
    seen: set[str] = set()

    def spied(*block: Any) -> Any:
        seen.add(threading.current_thread().name)
        return decode_block(*block)

    monkeypatch.setattr("sentinode.tiles.pack.decode_block", spied)
    monkeypatch.setattr("sentinode.limits.cpu_quota", lambda _: 1.0)
    pack(kaggle(200), out=tmp_path / "s.store", quiet=True)
    assert len(seen) == 1


def test_the_same_bytes_whatever_the_threads_the_folder_and_the_order(kaggle: Make, images: Make, tmp_path: Path) -> None:
    root, other = kaggle(200), images("set/1", 40).parent
    (other / "1" / "bad.png").write_bytes(b"bad")
    Image.fromarray(random_tile(3)).convert("L").save(other / "1" / "grey.png")
    first = contents(pack(root, other, out=tmp_path / "a.store", workers=1, quiet=True).path)
    moved = tmp_path / "elsewhere ü"
    for path in sorted([*root.rglob("*"), *other.rglob("*")], reverse=True):
        if path.is_file():
            target = moved / path.relative_to(tmp_path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    for workers in (2, 5):
        made = pack(moved / "kaggle", moved / "set", out=tmp_path / f"{workers}.store", workers=workers, quiet=True)
        assert contents(made.path) == first
    assert b"elsewhere" not in b"".join(first.values())


def test_bad_files_are_quarantined_with_reasons_and_good_ones_stay(images: Make, tmp_path: Path) -> None:
    folder = images("x", 5)
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("no image", encoding="utf-8")
    (folder / "cut.tif").write_bytes(tifffile_tiff(random_tile(1))[:-10])
    Image.fromarray(random_tile(1, 30)).save(folder / "big.png")
    Image.fromarray(random_tile(1, 24, 30)).save(folder / "wide.png")
    Image.fromarray(random_tile(8)).convert("L").save(folder / "grey.png")
    store = pack(folder, out=tmp_path / "s.store", quiet=True)
    assert store.rows["id"].tolist() == ["grey", "t0", "t1", "t2", "t3", "t4"]
    assert {entry[1]: entry[2] for entry in store.record["quarantined"]} == {
        "empty.png": "empty file",
        "text.jpg": "not TIFF, PNG or JPEG",
        "cut.tif": "broken image",
        "big.png": "wrong size",
        "wide.png": "not square",
    }
    assert store.record["converted"] == {"greyscale": 1}
    assert store.rows["note"].tolist() == ["greyscale", "", "", "", "", ""]


def test_conversions_are_noted_and_counted(images: Make, tmp_path: Path) -> None:
    folder, colour = images("x", 1), Image.fromarray(random_tile(7))
    colour.convert("L").save(folder / "grey.jpg")
    colour.convert("RGBA").save(folder / "rgba.png")
    colour.convert("CMYK").save(folder / "cmyk.tif")
    Image.fromarray(np.arange(576, dtype=np.uint16).reshape(24, 24)).save(folder / "deep.png")
    store = pack(folder, out=tmp_path / "s.store", quiet=True)
    notes = {"grey": "greyscale", "rgba": "alpha over white", "cmyk": "CMYK", "deep": "16-bit grey", "t0": ""}
    assert dict(zip(store.rows["id"], store.rows["note"], strict=True)) == notes
    assert store.record["converted"] == {note: 1 for note in notes.values() if note}
    assert store.record["quarantined"] == []


def test_what_pillow_warns_of_is_quarantined_in_silence(images: Make, tmp_path: Path) -> None:
    folder = images("x", 2)
    Image.new("1", (10_000, 10_000)).save(folder / "bomb.png")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        store = pack(folder, out=tmp_path / "s.store", quiet=True)
    assert [str(warning.message) for warning in told] == []
    assert [entry[1:3] for entry in store.record["quarantined"]] == [["bomb.png", "too many pixels"]]


def test_px_resizes_squares_and_keeps_their_size_in_the_rows(images: Make, tmp_path: Path) -> None:
    folder = images("x", 2)
    Image.fromarray(random_tile(1, 30)).save(folder / "big.png")
    store = pack(folder, out=tmp_path / "s.store", px=30, quiet=True)
    assert store.rows[["id", "width", "height", "note"]].to_numpy().tolist() == [
        ["big", 30, 30, ""],
        ["t0", 24, 24, "resized"],
        ["t1", 24, 24, "resized"],
    ]


def test_groups_come_by_id_and_are_counted(images: Make, tmp_path: Path) -> None:
    (tmp_path / "g.csv").write_text("id,slide\nt1,B\nt0,A\ngone,C\n", encoding="utf-8")
    store = pack(images("x", 3), out=tmp_path / "s.store", groups=str(tmp_path / "g.csv"), quiet=True)
    assert store.rows["group"].tolist() == ["A", "B", ""]
    assert store.record["groups"] == {"groups": 2, "tiles_without": 1, "ids_without_tile": 1}


NASTY = [
    "..",
    "=cmd()",
    "<script>alert(1)</script>",
    "\x1b[31mred",
    "né gänzlich",
    "a b",
    '"q",',
    "+1",
    "-1",
    "@x",
    "a\nb",
    "‮gnp",
    "%s{0}",
]


def test_ids_are_data(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    names = [name for name in NASTY if "/" not in name]
    for i, name in enumerate(names):
        Image.fromarray(random_tile(i)).save(folder / f"x{name}.png")
    store = pack(folder, out=tmp_path / "s.store", quiet=True)
    assert store.rows["id"].tolist() == sorted(f"x{name}" for name in names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.store", "x"]
    verify(store, quiet=True)


def test_traversing_paths_of_a_manifest_are_read_but_never_written(images: Make, tmp_path: Path) -> None:
    images("data", 1)
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "m.csv").write_text("path,label,group\n../data/t0.png,1,../../etc\n", encoding="utf-8")
    store = pack(tmp_path / "list" / "m.csv", out=tmp_path / "list" / "s.store", quiet=True)
    assert store.rows["path"].tolist() == ["../data/t0.png"]
    assert store.rows["group"].tolist() == ["../../etc"]
    by_path = pack(tmp_path / "list" / "m.csv", out=tmp_path / "list" / "t.store", ids="path", quiet=True)
    assert by_path.rows["id"].tolist() == ["../data/t0"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "list"]
    assert sorted(path.name for path in (tmp_path / "list").iterdir()) == ["m.csv", "s.store", "t.store"]


def test_nasty_names_are_printed_safely(images: Make, tmp_path: Path) -> None:
    for label in ("\x1b[31mtumor", "normal\x07"):
        images(f"set/{label}", 1, name=label)
    (tmp_path / "set" / "\x1b[31mtumor" / "\x1b]0;x.png").write_bytes(b"")
    (tmp_path / "g.csv").write_text('id,slide\n"normal\x070",\x1b[1m\n', encoding="utf-8")
    settings = PackSettings(positive="\x1b[31mtumor", groups=str(tmp_path / "g.csv"))
    store = pack(tmp_path / "set", out=tmp_path / "s.store", settings=settings, quiet=True)
    text = "\n".join(info(store, quiet=True).lines())
    assert "\\x1b[31mtumor" in text
    assert all(character.isprintable() or character == "\n" for character in text)


@settings(max_examples=25, deadline=None)
@given(
    names=st.lists(
        st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12),
        unique=True,
        min_size=1,
        max_size=5,
    )
)
def test_any_name_comes_back(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    folder = tmp_path_factory.mktemp("any") / "x"
    folder.mkdir()
    data = tifffile_tiff(random_tile(1, 8))
    for name in names:
        (folder / f"x{name}.tif").write_bytes(data)
    store = pack(folder, out=folder.parent / "s.store", quiet=True)
    assert store.rows["id"].tolist() == sorted(f"x{name}" for name in names)


def test_nothing_readable_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"bad")
    with pytest.raises(SourceProblem, match="none that can be read"):
        pack(folder, out=tmp_path / "s.store", quiet=True)
    Image.fromarray(random_tile(0)).save(folder / "a.png")
    (folder / "a.png").write_bytes((folder / "a.png").read_bytes()[:60])
    with pytest.raises(SourceProblem, match="1 broken image"):
        pack(folder, out=tmp_path / "s.store", quiet=True)
    assert not (tmp_path / "s.store").exists()


def test_an_existing_folder_is_never_overwritten_unasked(images: Make, tmp_path: Path) -> None:
    folder, out = images("x", 2), tmp_path / "s.store"
    pack(folder, out=out, quiet=True)
    before = contents(out)
    with pytest.raises(UsageProblem, match="--overwrite"):
        pack(folder, out=out, quiet=True)
    assert contents(pack(folder, out=out, resume=True, quiet=True).path) == before
    images("x", 1, name="more")
    with pytest.raises(UsageProblem, match="--overwrite"):
        pack(folder, out=out, resume=True, quiet=True)
    assert contents(out) == before
    assert len(pack(folder, out=out, overwrite=True, quiet=True)) == 3
    for resume, overwrite in ((False, False), (True, False), (False, True)):
        with pytest.raises(UsageProblem, match="did not write"):
            pack(folder, out=folder, quiet=True, resume=resume, overwrite=overwrite)


@pytest.mark.parametrize(("name", "value"), [("px", 0), ("px", 4000), ("workers", 0), ("px", "96")])
def test_a_number_that_means_nothing_is_refused(images: Make, tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(UsageProblem, match=name):
        pack(images("x", 1), out=tmp_path / "s.store", **{name: value})  # type: ignore[arg-type]
    assert not (tmp_path / "s.store").exists()


def test_an_unknown_option_is_answered(images: Make, tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match="positive"):
        pack(images("x", 1), out=tmp_path / "s.store", postive="1")


def run_limited(code: str, **limits: int) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own that may write files of `fsize` bytes at most."""
    start = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limits['fsize']}, {limits['fsize']}))\n"
    source = Path(sentinode.__file__).parents[1]
    return subprocess.run(
        [sys.executable, "-c", start + code],
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_full_disk_is_an_error_in_three_parts_and_resumes(images: Make, tmp_path: Path) -> None:
    folder, out = images("x", 30, px=96), tmp_path / "s.store"
    code = f"""
from sentinode.errors import MachineProblem
from sentinode.tiles.pack import pack
try:
    pack({str(folder)!r}, out={str(out)!r}, quiet=True)
except MachineProblem as problem:
    print(problem)
"""
    done = run_limited(code, fsize=500_000)
    assert "expected room to write" in done.stdout, done.stderr
    assert "full disk" in done.stdout
    assert "--resume" in done.stdout
    pack(folder, out=out, resume=True, quiet=True)
    pack(folder, out=tmp_path / "t.store", quiet=True)
    assert contents(out) == contents(tmp_path / "t.store")


def test_an_unwritable_folder_is_an_error_in_three_parts(images: Make, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("x", encoding="utf-8")
    with pytest.raises(MachineProblem) as caught:
        pack(images("x", 1), out=blocked / "s.store", quiet=True)
    assert "can be written" in caught.value.expected
    assert "permissions" in caught.value.do


def test_packing_tells_how_far_it_is(images: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setattr("sentinode.progress.TRACK_S", 0.0)
    monkeypatch.setattr("sentinode.tiles.pack.BLOCK_BYTES", 24 * 24 * 3 * 2)
    pack(images("x", 6), out=tmp_path / "s.store", workers=1)
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("packing: ")]
    assert [line.split(",")[0] for line in told] == [f"packing: {done} of 6 tiles" for done in (2, 4, 6)]


def test_open_or_pack_leaves_nothing_behind(kaggle: Make, tmp_path: Path) -> None:
    root = kaggle(3)
    with open_or_pack(root / "test", quiet=True) as store:
        assert (len(store), store.classes) == (1, ("", ""))
        place = store.path
    assert not place.exists()
    made = pack(root, out=tmp_path / "s.store", quiet=True)
    with open_or_pack(made.path, quiet=True) as store:
        assert store.digest == made.digest
    assert made.path.exists()
    with pytest.raises(SentinodeError), open_or_pack(tmp_path / "none", quiet=True):
        pass


def test_what_is_said_is_bounded_and_on_stderr(images: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = images("x", 3)
    (folder / "e.png").write_bytes(b"")
    pack(folder, out=tmp_path / "s.store")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "3 tiles of 24 x 24" in captured.err
    assert "1 empty file" in captured.err
    assert json.loads((tmp_path / "s.store" / "store.json").read_text(encoding="utf-8"))["n"] == 3
    with pytest.raises(StoreProblem):
        open_store(folder)
