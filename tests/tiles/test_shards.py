"""Shards: each a store of its own, all together the bytes of one machine; a set that is not whole says what it lacks."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sentinode.cli import main
from sentinode.errors import SourceProblem, StoreProblem, UsageProblem
from sentinode.tiles.info import info
from sentinode.tiles.pack import pack
from sentinode.tiles.store import StoreWriter, open_store, verify
from tests.tiles.conftest import random_tile, tifffile_tiff

Make = Callable[..., Path]


def contents(store: Path) -> dict[str, Any]:
    """The two files of numbers as bytes; store.json without what names the command's own work."""
    assert sorted(path.name for path in store.iterdir()) == ["rows.parquet", "store.json", "tiles.npy"]
    record = json.loads((store / "store.json").read_text(encoding="utf-8"))
    del record["inputs"]
    return {"record": record, **{name: (store / name).read_bytes() for name in ("rows.parquet", "tiles.npy")}}


def packed_in_shards(*sources: Path, to: Path, of: int, **options: Any) -> list[Path]:
    return [
        pack(*sources, out=to / f"part-{number}.store", shard=f"{number}/{of}", quiet=True, **options).path
        for number in range(1, of + 1)
    ]


@pytest.fixture
def mixed(images: Make, kaggle: Make, pcam: Make, tmp_path: Path) -> list[Path]:
    """Three sources with all that can happen to a tile: no label, no class, no square, no image, another size, a conversion."""
    root, classes, pair = kaggle(20), images("set/1", 9).parent, pcam(7)
    images("set/0", 4, seed=50, name="s")
    lines = (root / "train_labels.csv").read_text().split()
    (root / "train_labels.csv").write_text("\n".join([*lines[:-2], "gone,1", lines[-1].replace(",1", ",7")]), encoding="utf-8")
    (root / "train" / "000.tif").write_bytes(b"bad")
    (root / "train" / "zzz.bmp").write_bytes(b"bad")
    (root / "train" / "notes.txt").write_text("x", encoding="utf-8")
    Image.fromarray(random_tile(3)).convert("L").save(classes / "1" / "grey.png")
    Image.fromarray(random_tile(4, 30)).save(classes / "0" / "big.png")
    (classes / "1" / "e.png").write_bytes(b"")
    return [root, classes, pair]


def groups_of(sources: list[Path], table: Path) -> str:
    names = [*[path.stem for path in sorted(sources[0].rglob("*.tif"))][3:12], "t1", "s2", "nobody"]
    table.write_text("id,slide\n" + "".join(f"{name},S{i % 3}\n" for i, name in enumerate(names)), encoding="utf-8")
    return str(table)


@pytest.mark.parametrize("of", [1, 2, 3, 5, 60])
@pytest.mark.parametrize("options", [{}, {"px": 24, "positive": "1", "ids": "path"}])
def test_all_shards_together_are_the_store_of_one_machine(
    mixed: list[Path], tmp_path: Path, of: int, options: dict[str, Any]
) -> None:
    options = options or {"groups": groups_of(mixed, tmp_path / "g.csv")}
    whole = pack(*mixed, out=tmp_path / "whole.store", quiet=True, **options)
    parts = packed_in_shards(*mixed, to=tmp_path, of=of, **options)
    merged = pack(*reversed(parts), out=tmp_path / "merged.store", quiet=True)
    assert contents(merged.path) == contents(whole.path)
    assert merged.digest == whole.digest
    verify(merged, quiet=True)
    listed = sum(source["listed"] for source in whole.record["sources"])
    sizes = [sum(source["listed"] for source in open_store(part).record["sources"]) for part in parts]
    assert (sum(sizes), max(sizes) - min(sizes) <= 1) == (listed, True)


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(1, 12),
    of=st.integers(1, 6),
    bad=st.sets(st.integers(0, 11)),
    order=st.randoms(use_true_random=False),
)
def test_whatever_the_number_of_tiles_and_shards(
    tmp_path_factory: pytest.TempPathFactory, n: int, of: int, bad: set[int], order: Any
) -> None:
    place = tmp_path_factory.mktemp("any")
    (place / "x").mkdir()
    for i in range(n):
        tiff = tifffile_tiff(random_tile(i, 8))
        # Seen as a tile by its header, so that it is found out only when it is read.
        (place / "x" / f"t{i:02d}.tif").write_bytes(tiff[:-1] if i in bad else tiff)
    parts = packed_in_shards(place / "x", to=place, of=of, px=8)
    order.shuffle(parts)
    assert [row for part in sorted(parts, key=number_of) for row in open_store(part).rows["id"]] == [
        f"t{i:02d}" for i in range(n) if i not in bad
    ]
    if set(range(n)) <= bad:
        with pytest.raises(SourceProblem, match="at least one"):
            pack(*parts, out=place / "merged.store", px=8, quiet=True)
        return
    whole = pack(place / "x", out=place / "whole.store", px=8, quiet=True)
    merged = pack(*parts, out=place / "merged.store", quiet=True)
    assert contents(merged.path) == contents(whole.path)


def number_of(part: Path) -> int:
    return int(part.stem.split("-")[1])


def test_a_shard_is_a_stretch_of_the_whole_and_says_which(kaggle: Make, tmp_path: Path) -> None:
    whole = pack(kaggle(10), out=tmp_path / "whole.store", quiet=True)
    parts = [open_store(part) for part in packed_in_shards(tmp_path / "kaggle", to=tmp_path, of=4)]
    assert [part.rows["id"].tolist() for part in parts] == [
        whole.rows["id"].tolist()[first:last] for first, last in ((0, 2), (2, 5), (5, 7), (7, 10))
    ]
    for part in parts:
        verify(part, quiet=True)
    told = info(parts[1], quiet=True)
    assert "shard        2 of 4, tiles 3 to 5 of 10 listed" in told.lines()
    assert told.as_dict()["shard"]["listed"] == 10
    assert info(whole, quiet=True).shard is None


def test_a_shard_that_has_no_tile_is_a_store_that_can_be_looked_at(images: Make, tmp_path: Path) -> None:
    part = pack(images("x", 2), out=tmp_path / "part.store", shard="1/3", quiet=True)
    assert len(part) == 0
    assert part.tiles.shape == (0, 24, 24, 3)
    told = info(part, verify=True, quiet=True)
    assert (told.n, told.mean_rgb) == (0, None)
    json.dumps(told.as_dict(), allow_nan=False)
    assert told.lines()[1:4] == ["tiles        0 of 24 x 24", "labels       'unknown' 0", "shard        1 of 3, none of 2 listed"]


def test_classes_and_size_are_those_of_the_whole(images: Make, tmp_path: Path) -> None:
    root = images("set/tumor", 3, name="a").parent
    images("set/normal", 3, name="b", px=30)
    parts = packed_in_shards(root, to=tmp_path, of=2, px=24)
    assert [open_store(part).classes for part in parts] == [("normal", "tumor")] * 2
    assert [open_store(part).record["counts"] for part in parts] == [
        {"negative": 0, "positive": 3, "unknown": 0},
        {"negative": 3, "positive": 0, "unknown": 0},
    ]


def test_several_classes_that_became_one_are_counted_once(images: Make, tmp_path: Path) -> None:
    root = images("set/tumor", 3, name="c").parent
    images("set/lymph", 5, name="a")
    images("set/stroma", 4, name="b")
    whole = pack(root, out=tmp_path / "whole.store", positive="tumor", quiet=True)
    parts = packed_in_shards(root, to=tmp_path, of=3, positive="tumor")
    merged = pack(*parts, out=tmp_path / "merged.store", quiet=True)
    assert merged.record["merged_into_negative"] == {"lymph": 5, "stroma": 4}
    assert contents(merged.path) == contents(whole.path)


def test_shards_may_be_shared_out_again(mixed: list[Path], tmp_path: Path) -> None:
    whole = pack(*mixed, out=tmp_path / "whole.store", quiet=True)
    parts = packed_in_shards(*mixed, to=tmp_path, of=3)
    (tmp_path / "again").mkdir()
    again = packed_in_shards(*parts, to=tmp_path / "again", of=4)
    assert contents(pack(*again, out=tmp_path / "merged.store", quiet=True).path) == contents(whole.path)


@pytest.mark.parametrize("shard", ["0/4", "5/4", "a/b", "", "1/0", "-1/4", "1/4/2", "1.5/4", "²/4"])
def test_what_is_no_shard_is_refused(images: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], shard: str) -> None:
    folder = images("x", 2)
    with pytest.raises(UsageProblem) as caught:
        pack(folder, out=tmp_path / "s.store", shard=shard, quiet=True)
    assert "such as 2/4" in caught.value.expected
    assert repr(shard) == caught.value.found
    assert "--shard 1/4 to --shard 4/4" in caught.value.do
    with pytest.raises(SystemExit) as ended:
        main(["pack", str(folder), "--out", str(tmp_path / "s.store"), f"--shard={shard}"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "s.store").exists()


def refusal(*stores: Path, out: Path, **options: Any) -> SourceProblem:
    with pytest.raises(SourceProblem) as caught:
        pack(*stores, out=out, quiet=True, **options)
    assert not out.exists()
    return caught.value


def test_a_missing_shard_is_named(kaggle: Make, tmp_path: Path) -> None:
    parts = packed_in_shards(kaggle(8), to=tmp_path, of=4)
    said = refusal(*parts[:2], parts[3], out=tmp_path / "m.store")
    assert said.expected == "all 4 shards of one pack"
    assert said.found == f"3 (one is '{parts[0]}'), without 3/4"
    assert "--shard 3/4" in said.do
    assert "2/4, 3/4, 4/4" in refusal(parts[0], out=tmp_path / "m.store").found
    gone = refusal(*parts[:3], tmp_path / "part-5.store", out=tmp_path / "m.store")
    assert (gone.expected, gone.found) == (f"a source at '{tmp_path / 'part-5.store'}'", "nothing")


def test_many_missing_shards_are_not_all_named(images: Make, tmp_path: Path) -> None:
    part = pack(images("x", 1), out=tmp_path / "part.store", shard="1/900", quiet=True)
    said = refusal(part.path, out=tmp_path / "m.store")
    assert said.found.endswith("9/900 and 891 more")


def test_a_shard_twice_is_told_with_both_places(kaggle: Make, tmp_path: Path) -> None:
    parts = packed_in_shards(kaggle(4), to=tmp_path, of=2)
    copy = shutil.copytree(parts[1], tmp_path / "copy.store")
    said = refusal(*parts, copy, out=tmp_path / "m.store")
    assert said.expected == "each shard once"
    assert said.found == f"2/2 in '{parts[1]}' and in '{copy}'"
    with pytest.raises(UsageProblem, match="twice"):
        pack(*parts, parts[1], out=tmp_path / "m.store", quiet=True)


def test_shards_of_different_packs_are_told_apart(kaggle: Make, images: Make, tmp_path: Path) -> None:
    root, other = kaggle(8), kaggle(6, "other")
    (root / "train" / "last.png").write_bytes((images("x", 1, px=30) / "t0.png").read_bytes())
    first = pack(root, out=tmp_path / "first.store", shard="1/2", quiet=True).path
    others: list[tuple[Path, str, dict[str, Any]]] = [
        (root, "one of 2 shards and one of 3", {"shard": "2/3"}),
        (root, "of 24 x 24 and of 12 x 12 pixels", {"shard": "2/2", "px": 12}),
        (other, "of 9 tiles and of 6", {"shard": "2/2"}),
        (root, "other files, labels, groups, settings or versions", {"shard": "2/2", "ids": "path"}),
    ]
    for number, (source, difference, options) in enumerate(others):
        second = pack(source, out=tmp_path / f"{number}.store", quiet=True, **options).path
        said = refusal(first, second, out=tmp_path / "m.store")
        assert said.expected == "shards of one pack"
        assert difference in said.found
        assert "first.store" in said.found
        assert f"{number}.store" in said.found


def test_whole_sets_of_two_packs_are_two_sources(kaggle: Make, images: Make, tmp_path: Path) -> None:
    one, two = kaggle(5), images("set/1", 4, seed=90).parent
    whole = pack(one, two, out=tmp_path / "whole.store", quiet=True)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    parts = packed_in_shards(one, to=tmp_path / "a", of=2)
    parts += packed_in_shards(two, to=tmp_path / "b", of=3)
    assert contents(pack(*parts, out=tmp_path / "m.store", quiet=True).path) == contents(whole.path)
    said = refusal(*parts[:2], *parts[3:], out=tmp_path / "n.store")
    assert said.found == f"2 (one is '{parts[3]}'), without 1/3"


def test_an_unfinished_shard_is_told(kaggle: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = kaggle(6)
    first = pack(root, out=tmp_path / "1.store", shard="1/2", quiet=True).path
    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pack(root, out=tmp_path / "2.store", shard="2/2", quiet=True)
    with pytest.raises(StoreProblem, match=r"2\.store'; found one that is not finished; .*--resume"):
        pack(first, tmp_path / "2.store", out=tmp_path / "m.store", quiet=True)
    assert not (tmp_path / "m.store").exists()
    with pytest.raises(UsageProblem, match="--overwrite"):
        pack(root, out=tmp_path / "2.store", shard="1/2", resume=True, quiet=True)
    second = pack(root, out=tmp_path / "2.store", shard="2/2", resume=True, quiet=True).path
    assert len(pack(first, second, out=tmp_path / "m.store", quiet=True)) == 6


def test_a_record_that_lacks_what_a_shard_must_say_is_refused(kaggle: Make, tmp_path: Path) -> None:
    parts = packed_in_shards(kaggle(4), to=tmp_path, of=2)
    path = parts[0] / "store.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    for name, value in (("shard", {"number": 1}), ("shard", 7), ("sources", [{}]), ("sources", []), ("groups", None)):
        path.write_text(json.dumps({**record, name: value}), encoding="utf-8")
        with pytest.raises(StoreProblem, match="as it was packed"):
            pack(*parts, out=tmp_path / "m.store", quiet=True)
