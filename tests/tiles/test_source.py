"""Every kind of source is recognised; what does not fit is quarantined with its reason or refused in three parts."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sentinode.errors import SourceProblem, UsageProblem
from sentinode.settings import PackSettings
from sentinode.tiles.listing import Listing
from sentinode.tiles.source import list_sources

Make = Callable[..., Path]


def listed(*sources: Path, **options: Any) -> list[Listing]:
    with ExitStack() as scratch:
        return list_sources(sources, PackSettings(**options), scratch)


def reasons(listing: Listing) -> list[tuple[str, str]]:
    return [(entry.path, entry.reason) for entry in listing.quarantined]


def test_kaggle_folder(kaggle: Make) -> None:
    root = kaggle(6)
    listing = listed(root)[0]
    assert (listing.name, listing.kind, len(listing.ids)) == ("kaggle", "kaggle", 6)
    assert listing.ids == sorted(listing.ids)
    table = dict(line.split(",") for line in (root / "train_labels.csv").read_text().split()[1:])
    assert dict(zip(listing.ids, listing.labels, strict=True)) == table
    assert listing.place(0) == f"train/{listing.ids[0]}.tif"
    assert listed(root / "test")[0].labels == [""]


def test_kaggle_label_without_image_image_without_label_and_label_that_is_no_class(kaggle: Make) -> None:
    root = kaggle(5)
    lines = (root / "train_labels.csv").read_text().split()
    unlabelled, strange = lines[1].split(",")[0], lines[2].split(",")[0]
    (root / "train_labels.csv").write_text("\n".join([lines[0], f"{strange},7", *lines[3:], "gone,1"]), encoding="utf-8")
    listing = listed(root)[0]
    assert listing.labels[listing.ids.index(unlabelled)] == ""
    assert reasons(listing) == [("gone", "no image for label"), (f"train/{strange}.tif", "label is not a class")]
    assert "7" in listing.quarantined[1].detail


def test_kaggle_labels_that_are_all_no_class_are_an_error_of_their_own(kaggle: Make) -> None:
    root = kaggle(4)
    text = (root / "train_labels.csv").read_text(encoding="utf-8")
    (root / "train_labels.csv").write_text(text.replace(",0", ",normal").replace(",1", ",tumor"), encoding="utf-8")
    with pytest.raises(SourceProblem) as caught:
        listed(root)
    assert "labels 0 and 1" in caught.value.expected
    assert "tumor" in caught.value.found or "normal" in caught.value.found
    assert "write 1 for tumour" in caught.value.do


@pytest.mark.parametrize("mark", ["store.json", "unfinished.json"])
def test_a_store_packed_into_its_source_is_no_class_folder(images: Make, mark: str) -> None:
    root = images("x", 2)
    before = listed(root)
    (root / "inside.store").mkdir()
    (root / "inside.store" / mark).write_text("{}", encoding="utf-8")
    assert listed(root) == before


def test_class_folders_of_any_depth(images: Make) -> None:
    root = images("set/tumor", 2, name="a").parent
    images("set/normal/slide 1", 1, name="b")
    images("set/normal/süd", 1, name="c")
    (root / "readme.txt").write_text("x", encoding="utf-8")
    (root / "tumor" / ".DS_Store").write_text("x", encoding="utf-8")
    (root / "tumor" / "old.bmp").write_text("x", encoding="utf-8")
    listing = listed(root)[0]
    assert listing.paths == ["tumor/a0.png", "tumor/a1.png", "normal/slide 1/b0.png", "normal/süd/c0.png"]
    assert listing.labels == ["tumor", "tumor", "normal", "normal"]
    assert (listing.ignored, reasons(listing)) == (1, [("tumor/old.bmp", "format not taken")])


def test_plain_folder_with_and_without_labels(images: Make, tmp_path: Path) -> None:
    folder = images("x", 3)
    assert listed(folder)[0].labels == ["", "", ""]
    assert not listed(folder)[0].labelled
    table = tmp_path / "l.csv"
    table.write_text("id,label\nt2.png,tumor\nt0,normal\n", encoding="utf-8")
    listing = listed(folder, labels=str(table))[0]
    assert listing.labels == ["normal", "", "tumor"]
    table.write_text("id,label\nother,tumor\n", encoding="utf-8")
    with pytest.raises(SourceProblem, match="'other'"):
        listed(folder, labels=str(table))


def test_manifest_with_groups_spaces_and_a_missing_file(images: Make, tmp_path: Path) -> None:
    images("süd bilder", 2)
    table = tmp_path / "m.csv"
    rows = ["path,label,group", "süd bilder/t1.png,1,S1", "süd bilder/t0.png,0,", "gone.png,1,S2", "notes.txt,1,S2"]
    table.write_text("\n".join(rows), encoding="utf-8")
    listing = listed(table)[0]
    assert (listing.ids, listing.labels, listing.groups) == (["t0", "t1"], ["0", "1"], ["", "S1"])
    assert reasons(listing) == [("gone.png", "no image for label"), ("notes.txt", "format not taken")]
    assert "line 4" in listing.quarantined[0].detail


def test_duplicate_ids_name_both_places_and_path_ids_are_the_remedy(images: Make) -> None:
    root = images("set/0", 1).parent
    images("set/1", 1, seed=9)
    with pytest.raises(SourceProblem) as caught:
        listed(root)
    assert "'t0' for 'set/0/t0.png' and for 'set/1/t0.png'" in caught.value.found
    assert "--ids path" in caught.value.do
    assert listed(root, ids="path")[0].ids == ["0/t0", "1/t0"]
    other = images("other/set/0", 1, seed=20).parent
    both = listed(root, other, ids="path")
    assert [listing.ids for listing in both] == [["set/0/t0", "set/1/t0"], ["set-2/0/t0"]]


def test_what_is_no_source_is_refused(images: Make, tmp_path: Path) -> None:
    mixed = images("mixed", 1)
    images("mixed/deeper", 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "folders" / "a").mkdir(parents=True)
    (tmp_path / "one.txt").write_text("x", encoding="utf-8")
    for source in (mixed, tmp_path / "empty", tmp_path / "folders", tmp_path / "one.txt", tmp_path / "nothing"):
        with pytest.raises(SourceProblem) as caught:
            listed(source)
        assert caught.value.expected
        assert caught.value.found
        assert caught.value.do
    for sources in ([], [mixed, mixed]):
        with pytest.raises(UsageProblem):
            listed(*sources)


def test_labels_fit_one_plain_folder_only(kaggle: Make, images: Make, tmp_path: Path) -> None:
    table = tmp_path / "l.csv"
    table.write_text("id,label\nt0,1\n", encoding="utf-8")
    for sources in ([kaggle(2)], [images("a", 1), images("b", 1)], [images("c/0", 1).parent]):
        with pytest.raises(UsageProblem, match="labels"):
            listed(*sources, labels=str(table))


def test_a_name_that_is_not_utf8_is_quarantined(images: Make) -> None:
    folder = images("x", 1)
    with open(bytes(folder) + b"/bad\xff.png", "wb") as handle:  # noqa: PTH123
        handle.write(b"x")
    listing = listed(folder)[0]
    assert listing.ids == ["t0"]
    assert reasons(listing) == [("bad\\xff.png", "file name is not UTF-8")]
