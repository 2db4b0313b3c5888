"""Tables: columns by name, errors that name the columns and lines found."""

from pathlib import Path

import pytest

from sentinode.errors import SourceProblem
from sentinode.tiles.tables import read_columns, read_labels, without_extension


def written(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.tif", "a"),
        ("a.TIFF", "a"),
        ("slide1.2", "slide1.2"),
        ("a.b.jpeg", "a.b"),
        (".png", ".png"),
        ("x", "x"),
        ("../é x.png", "../é x"),
    ],
)
def test_only_an_images_extension_is_dropped(name: str, stem: str) -> None:
    assert without_extension(name) == stem


def test_labels_with_or_without_extension_bom_and_gaps(tmp_path: Path) -> None:
    path = written(tmp_path, "\ufeffLabel, ID\r\n 1 ,a.png\r\n\r\n0.0,b\r\n,c\r\n")
    assert read_labels(path) == {"a": "1", "b": "0", "c": ""}


def test_a_missing_column_is_named_with_those_found(tmp_path: Path) -> None:
    with pytest.raises(SourceProblem) as caught:
        read_labels(written(tmp_path, "id,class\na,1\n"))
    assert "id and label" in caught.value.expected
    assert "'class'" in caught.value.found
    assert "'label' in the first line" in caught.value.do


@pytest.mark.parametrize(("mark", "word"), [(";", "semicolons"), ("\t", "tabs")])
def test_another_separator_is_recognised(tmp_path: Path, mark: str, word: str) -> None:
    with pytest.raises(SourceProblem) as caught:
        read_labels(written(tmp_path, f"id{mark}label\na{mark}1\n"))
    assert "columns id and label" in caught.value.expected
    assert word in caught.value.do


def test_a_table_that_cannot_be_read_says_so_in_plain_words(tmp_path: Path) -> None:
    for path, expected, found, do in (
        (tmp_path / "none.csv", "a table at", "nothing", "check the path"),
        (tmp_path, "a table in", "directory", "permissions"),
        (written(tmp_path, "id,label\n\xe9,1\n", "latin-1"), "UTF-8", "other bytes", "CSV UTF-8"),
    ):
        with pytest.raises(SourceProblem) as caught:
            read_labels(path)
        assert expected in caught.value.expected
        assert found in caught.value.found
        assert do in caught.value.do


def test_a_duplicate_id_is_an_error_with_both_lines(tmp_path: Path) -> None:
    with pytest.raises(SourceProblem) as caught:
        read_labels(written(tmp_path, "id,label\na,1\nb,0\na.tif,1\n"))
    assert "'a' in line 2 and in line 4" in caught.value.found
    assert "remove" in caught.value.do


@pytest.mark.parametrize("text", ["id,label\na\n", "", "id,label\n\xe9,1\n"])
def test_broken_tables_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SourceProblem):
        read_labels(written(tmp_path, text, "latin-1"))


def test_optional_columns_may_be_absent(tmp_path: Path) -> None:
    path = written(tmp_path, "path,label\nx,1\n")
    assert list(read_columns(path, ("path", "label"), ("group",))) == [(2, ["x", "1", ""])]
