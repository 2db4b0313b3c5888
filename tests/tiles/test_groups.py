"""Groups are joined by id, and what is not known stays unknown."""

from pathlib import Path

import pytest

from sentinode.errors import SourceProblem
from sentinode.tiles.groups import join_groups


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "g.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("column", ["group", "slide", "wsi", "patient", "whatever"])
def test_joined_by_id_never_by_position(tmp_path: Path, column: str) -> None:
    path = table(tmp_path, f"{column},id\nS2,b.tif\nS1,a\nS9,elsewhere\n")
    join = join_groups(["a", "b", "c"], path)
    assert join.groups == ["S1", "S2", ""]
    assert join.unmatched == 1


def test_two_groups_for_one_id_is_an_error_and_twice_the_same_is_not(tmp_path: Path) -> None:
    assert join_groups(["a"], table(tmp_path, "id,slide\na,S1\na.png,S1\n")).groups == ["S1"]
    with pytest.raises(SourceProblem) as caught:
        join_groups(["a"], table(tmp_path, "id,slide\na,S1\na,S2\n"))
    assert "line 3" in caught.value.found
    assert "'S2'" in caught.value.found


@pytest.mark.parametrize("text", ["id,x,y\na,1,2\n", "id,slide,patient\na,1,2\n", "name,slide\na,1\n", "id\na\n"])
def test_a_column_that_is_missing_or_ambiguous_is_an_error_that_names_those_found(tmp_path: Path, text: str) -> None:
    with pytest.raises(SourceProblem) as caught:
        join_groups(["a"], table(tmp_path, text))
    assert text.split(",")[0].strip().split("\n")[0] in caught.value.found


def test_a_table_of_other_ids_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceProblem, match="'zzz'"):
        join_groups(["a"], table(tmp_path, "id,slide\nzzz,1\n"))
