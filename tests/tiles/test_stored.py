"""A store as a source: what was packed before counts as what it was packed from; its pixels are believed only with their digests."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sentinode.cli import main
from sentinode.errors import SourceProblem, StoreProblem, UsageProblem
from sentinode.tiles import pack as pack_module
from sentinode.tiles import plan as plan_module
from sentinode.tiles.journal import NAME
from sentinode.tiles.pack import pack
from sentinode.tiles.store import HEADER_BYTES, open_store
from tests.tiles.conftest import random_tile
from tests.tiles.test_resume import lines, reached, start, wait_for
from tests.tiles.test_shards import contents, packed_in_shards

Make = Callable[..., Path]
TILE = 24 * 24 * 3


def stores_of(*sources: Path, to: Path, **options: Any) -> list[Path]:
    return [pack(source, out=to / f"lab-{number}.store", quiet=True, **options).path for number, source in enumerate(sources)]


def test_stores_count_as_what_they_were_packed_from(kaggle: Make, images: Make, pcam: Make, tmp_path: Path) -> None:
    sources = [kaggle(9), images("two/kaggle/1", 5).parent, pcam(4)]
    Image.fromarray(random_tile(3)).convert("L").save(sources[1] / "1" / "grey.png")
    (sources[0] / "train" / "zzz.bmp").write_bytes(b"bad")
    (sources[1] / "1" / "e.png").write_bytes(b"")
    whole = pack(*sources, out=tmp_path / "whole.store", quiet=True)
    merged = pack(*stores_of(*sources, to=tmp_path), out=tmp_path / "merged.store", quiet=True)
    assert contents(merged.path) == contents(whole.path)
    assert list(dict.fromkeys(merged.rows["source"])) == ["kaggle", "kaggle-2", "camelyonpatch_level_2_split_valid"]
    assert ["kaggle-2", "1/e.png", "empty file", "zero bytes"] in merged.record["quarantined"]


def test_names_stay_apart_whatever_was_numbered_before(kaggle: Make, images: Make, tmp_path: Path) -> None:
    two = pack(kaggle(3), images("a/kaggle/1", 2).parent, out=tmp_path / "two.store", quiet=True)
    one = pack(images("b/kaggle/1", 2, name="u").parent, out=tmp_path / "one.store", quiet=True)
    merged = pack(two.path, one.path, out=tmp_path / "m.store", quiet=True)
    assert merged.rows["source"].value_counts().to_dict() == {"kaggle": 3, "kaggle-2": 2, "kaggle-3": 2}
    again = pack(merged.path, out=tmp_path / "n.store", quiet=True)
    assert contents(again.path) == contents(merged.path)


def test_a_store_beside_a_folder_and_one_without_labels(kaggle: Make, images: Make, tmp_path: Path) -> None:
    root = kaggle(5)
    labelled, bare = stores_of(root, root / "test", to=tmp_path)
    merged = pack(labelled, images("more/0", 3).parent, bare, out=tmp_path / "m.store", quiet=True)
    assert merged.record["counts"] == {"negative": 6, "positive": 2, "unknown": 1}
    assert merged.classes == ("0", "1")
    only = pack(bare, out=tmp_path / "o.store", quiet=True)
    assert only.classes == ("", "")
    assert only.digest == open_store(bare).digest


def test_labels_of_a_csv_are_not_for_a_store(images: Make, tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("id,label\nt0,1\n", encoding="utf-8")
    packed = stores_of(images("x", 2), to=tmp_path)
    with pytest.raises(UsageProblem, match="one plain folder"):
        pack(*packed, out=tmp_path / "m.store", labels=str(tmp_path / "l.csv"), quiet=True)


def test_groups_may_be_joined_when_shards_are(images: Make, tmp_path: Path) -> None:
    (tmp_path / "g.csv").write_text("id,slide\nt1,B\nt0,A\ngone,C\n", encoding="utf-8")
    folder = images("x", 5)
    whole = pack(folder, out=tmp_path / "whole.store", groups=str(tmp_path / "g.csv"), quiet=True)
    parts = packed_in_shards(folder, to=tmp_path, of=2)
    merged = pack(*parts, out=tmp_path / "m.store", groups=str(tmp_path / "g.csv"), quiet=True)
    assert contents(merged.path) == contents(whole.path)


def test_px_resizes_what_was_packed_and_keeps_the_size_it_once_had(images: Make, tmp_path: Path) -> None:
    folder = images("x", 1)
    Image.fromarray(random_tile(1, 30)).convert("L").save(folder / "big.png")
    packed = pack(folder, out=tmp_path / "s.store", px=24, quiet=True)
    small = pack(packed.path, out=tmp_path / "m.store", px=12, quiet=True)
    assert small.rows[["id", "width", "height", "note"]].to_numpy().tolist() == [
        ["big", 30, 30, "greyscale, resized"],
        ["t0", 24, 24, "resized"],
    ]
    for before, after in zip(packed.tiles, small.tiles, strict=True):
        assert np.array_equal(np.asarray(Image.fromarray(before).resize((12, 12), Image.Resampling.LANCZOS)), after)


def test_stores_of_other_sizes_are_refused(images: Make, tmp_path: Path) -> None:
    packed = stores_of(images("y", 1, px=30, name="u"), images("x", 2), to=tmp_path)
    with pytest.raises(SourceProblem) as caught:
        pack(*packed, out=tmp_path / "m.store", quiet=True)
    assert caught.value.expected == "tiles of 24 x 24 in every store, as in 'lab-1.store'"
    assert caught.value.found == "30 x 30 in 'lab-0.store'"
    assert "--px 24" in caught.value.do
    assert len(pack(*packed, out=tmp_path / "m.store", px=24, quiet=True)) == 3


def test_ids_that_clash_are_told_with_their_stores(images: Make, tmp_path: Path) -> None:
    packed = stores_of(images("a/x", 2), images("b/x", 2, seed=9), to=tmp_path)
    with pytest.raises(SourceProblem) as caught:
        pack(*packed, out=tmp_path / "m.store", quiet=True)
    assert caught.value.found == "'t0' for 'lab-0.store: x/t0.png' and for 'lab-1.store: x-2/t0.png'"
    assert "--ids path" in caught.value.do
    named = pack(*packed, out=tmp_path / "m.store", ids="path", quiet=True)
    assert named.rows["id"].tolist() == ["x/t0", "x/t1", "x-2/t0", "x-2/t1"]


def test_ids_by_path_may_change_the_order_and_the_pixels_follow(images: Make, tmp_path: Path) -> None:
    root = images("set/1", 3, name="a").parent
    images("set/0", 3, seed=7, name="b")
    packed = pack(root, out=tmp_path / "s.store", quiet=True)
    assert packed.rows["id"].tolist()[0] == "a0"
    by_path = pack(packed.path, out=tmp_path / "m.store", ids="path", quiet=True)
    assert contents(by_path.path) == contents(pack(root, out=tmp_path / "t.store", ids="path", quiet=True).path)


def test_classes_come_from_the_stores(images: Make, tmp_path: Path) -> None:
    for place, classes in (
        ("a", ("good", "evil")),
        ("b", ("good", "evil")),
        ("c", ("lymph", "stroma", "evil")),
        ("d", ("evil",)),
    ):
        for at, name in enumerate(classes):
            images(f"{place}/{name}", 2, seed=at, name=place + name)
    a, b, c, d = stores_of(*(tmp_path / name for name in "abcd"), to=tmp_path, positive="evil")
    assert pack(a, b, out=tmp_path / "1.store", quiet=True).classes == ("good", "evil")
    merged = pack(a, d, out=tmp_path / "2.store", quiet=True)
    assert (merged.classes, merged.record["counts"]["positive"]) == (("good", "evil"), 4)
    with pytest.raises(SourceProblem) as caught:
        pack(a, c, out=tmp_path / "3.store", quiet=True)
    assert "beside 'evil'" in caught.value.expected
    assert caught.value.found == "'good' 2, 'not evil' 4"
    assert "--positive 'evil'" in caught.value.do
    merged = pack(a, c, out=tmp_path / "3.store", positive="evil", quiet=True)
    assert merged.classes == ("not evil", "evil")
    assert merged.record["merged_into_negative"] == {"good": 2, "lymph": 2, "stroma": 2}
    with pytest.raises(UsageProblem, match="leave --positive out"):
        pack(a, out=tmp_path / "4.store", positive="good", quiet=True)


def test_stores_that_differ_in_what_is_positive_are_refused(images: Make, tmp_path: Path) -> None:
    images("a/0", 1, name="a"), images("a/1", 1, name="b")
    images("b/normal", 1, name="c"), images("b/tumor", 1, name="d")
    packed = stores_of(tmp_path / "a", tmp_path / "b", to=tmp_path)
    with pytest.raises(SourceProblem) as caught:
        pack(*packed, out=tmp_path / "m.store", quiet=True)
    assert caught.value.found == "'1' in 'lab-0.store' and 'tumor' in 'lab-1.store'"


def test_a_folder_of_stores_says_how_to_name_them(images: Make, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    packed_in_shards(images("x", 2), to=tmp_path / "parts", of=2)
    with pytest.raises(SourceProblem, match=r"found 0 other files, and 2 stores; name the stores one by one, as DIR/\*\.store"):
        pack(tmp_path / "parts", out=tmp_path / "m.store", quiet=True)


def test_a_store_is_never_written_over_by_a_pack_of_itself(images: Make, tmp_path: Path) -> None:
    packed = stores_of(images("x", 2), to=tmp_path)
    before = contents(packed[0])
    for resume, overwrite in ((False, False), (True, False), (False, True)):
        with pytest.raises(UsageProblem) as caught:
            pack(*packed, out=tmp_path / "x" / ".." / "lab-0.store", quiet=True, resume=resume, overwrite=overwrite)
        assert "a source as well" in caught.value.found
    assert contents(packed[0]) == before


def damage(store: Path, row: int) -> None:
    with (store / "tiles.npy").open("rb+") as handle:
        handle.seek(HEADER_BYTES + row * TILE + 100)
        byte = handle.read(1)[0]
        handle.seek(-1, os.SEEK_CUR)
        handle.write(bytes([byte ^ 4]))


def test_a_flipped_bit_is_told_and_the_work_goes_on_when_the_shard_is_packed_again(
    kaggle: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pack_module, "BLOCK_BYTES", 2 * TILE)
    root = kaggle(20)
    whole = pack(root, out=tmp_path / "whole.store", quiet=True)
    parts, out = packed_in_shards(root, to=tmp_path, of=3), tmp_path / "m.store"
    damage(parts[1], 4)
    words = ["pack", *map(str, parts), "--out", str(out), "--quiet"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    said = capsys.readouterr().err
    assert (ended.value.code, said.count("\n")) == (3, 1)
    assert f"packed into '{parts[1]}'; found others in row 4; pack that store again" in said
    assert lines(out) >= 3
    pack(root, out=parts[1], shard="2/3", overwrite=True, quiet=True)
    pack(*parts, out=out, resume=True, quiet=True)
    assert contents(out) == contents(whole.path)


@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_pixels_that_are_gone_while_they_are_copied_are_told(
    kaggle: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    parts = packed_in_shards(kaggle(8), to=tmp_path, of=2)
    real = plan_module.fingerprint

    def harmed(*args: Any) -> str:
        path = parts[1] / "tiles.npy"
        path.unlink() if harm == "gone" else os.truncate(path, HEADER_BYTES + 2 * TILE)
        return real(*args)

    monkeypatch.setattr("sentinode.tiles.pack.fingerprint", harmed)
    with pytest.raises(StoreProblem) as caught:
        pack(*parts, out=tmp_path / "m.store", quiet=True)
    assert "part-2.store" in caught.value.expected
    assert caught.value.found in {"a file that ends before them", "No such file or directory"}


@pytest.mark.parametrize("column", ["id", "label", "group", "digest"])
def test_rows_that_were_changed_are_told(kaggle: Make, tmp_path: Path, column: str) -> None:
    parts = packed_in_shards(kaggle(4), to=tmp_path, of=2)
    rows = pd.read_parquet(parts[0] / "rows.parquet")
    changed: dict[str, list[Any]] = {"label": [1, -1], "group": ["one", "two"]}
    rows[column] = changed.get(column, rows[column].tolist()[::-1])
    rows.to_parquet(parts[0] / "rows.parquet", index=False)
    with pytest.raises(StoreProblem, match=r"rows\.parquet of .*part-1"):
        pack(*parts, out=tmp_path / "m.store", quiet=True)


def test_merging_that_is_killed_goes_on(kaggle: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = kaggle(60)
    (root / "train" / "bad.tif").write_bytes(b"bad")
    whole = pack(root, out=tmp_path / "whole.store", quiet=True)
    parts, out = packed_in_shards(root, to=tmp_path, of=4), tmp_path / "m.store"
    for enough in (0, 2, 6):
        process = start(parts, out)
        wait_for(partial(reached, out, enough))
        process.kill()
        process.wait()
    finished = lines(out)
    assert finished >= 6
    done: list[int] = []
    real = pack_module.decode_block

    def counted(*args: Any) -> Any:
        done.append(1)
        return real(*args)

    monkeypatch.setattr(pack_module, "BLOCK_BYTES", 5 * TILE)
    monkeypatch.setattr(pack_module, "decode_block", counted)
    pack(*reversed(parts), out=out, resume=True, quiet=True)
    assert len(done) == 12 - finished
    assert contents(out) == contents(whole.path)
    assert not (out / NAME).exists()
