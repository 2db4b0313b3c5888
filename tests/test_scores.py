"""The table of predictions: read from anyone, joined by id, written so that nothing in it runs and nothing is lost."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from sentinode.errors import ScoresProblem
from sentinode.scores import Scores, align, logit_of, probability_of, read_scores, write_scores, write_submission

IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
NASTY = [
    "=1+1",
    "+a",
    "-b",
    "@c",
    "\tt",
    "\rr",
    "'q",
    "'=q",
    "''",
    "<b>",
    "\x1b[31m",
    "../x",
    "a,b",
    'a"b',
    "a\nb",
    "é 漢",
    "'plain",
    "\x00",
]


def scores(ids: Any, **columns: Any) -> Scores:
    n = len(ids)
    p = np.linspace(0.1, 0.9, n)
    plain = {"id": ids, "group": "", "label": -1, "logit": logit(p), "probability": p}
    return Scores(pd.DataFrame(plain | columns), {"store": "d", "runs": ["r"]})


def written(folder: Path, text: str) -> Path:
    path = folder / "theirs.csv"
    path.write_bytes(text.encode())
    return path


@given(st.lists(IDS, min_size=1, max_size=8, unique=True), st.data())
@settings(max_examples=60, deadline=None)
def test_round_trip_is_exact(tmp_path_factory: pytest.TempPathFactory, ids: list[str], data: st.DataObject) -> None:
    n = len(ids)
    p = data.draw(st.lists(st.floats(0, 1), min_size=n, max_size=n))
    given_scores = scores(
        ids,
        probability=p,
        logit=data.draw(st.lists(st.floats(-1e6, 1e6), min_size=n, max_size=n)),
        label=data.draw(st.lists(st.sampled_from([-1, 0, 1]), min_size=n, max_size=n)),
        group=data.draw(st.lists(st.just("") | IDS, min_size=n, max_size=n)),
    )
    folder = tmp_path_factory.mktemp("scores")
    for name in ("s.csv", "s.parquet"):
        write_scores(folder / name, given_scores)
        back = read_scores(folder / name)
        for column in ("id", "group", "label", "logit", "probability"):
            assert back.table[column].tolist() == given_scores.table[column].tolist()
        assert back.header == {"format": 1, "store": "d", "runs": ["r"]}


def test_no_cell_starts_a_formula(tmp_path: Path) -> None:
    write_scores(tmp_path / "s.csv", scores(NASTY, group=list(reversed(NASTY))))
    write_submission(tmp_path / "k.csv", NASTY, np.full(len(NASTY), 0.5))
    for name, skip in (("s.csv", 1), ("k.csv", 0)):
        text = (tmp_path / name).read_bytes().decode().split("\n", skip)[-1]
        rows = list(csv.reader(io.StringIO(text, newline="")))
        texts = [cell for row in rows for cell in row[: 2 if skip else 1]]
        assert [cell for cell in texts if cell[:1] in ("=", "+", "-", "@", "\t", "\r")] == []
        assert read_scores(tmp_path / name).table["id"].tolist() == NASTY


@pytest.mark.parametrize("name", ["s.csv", "s.parquet"])
def test_same_scores_same_bytes(tmp_path: Path, name: str) -> None:
    write_scores(tmp_path / name, scores(["a", "b"]))
    first = (tmp_path / name).read_bytes()
    write_scores(tmp_path / name, scores(["a", "b"]))
    assert (tmp_path / name).read_bytes() == first


def test_submission_is_what_kaggle_takes(tmp_path: Path) -> None:
    write_submission(tmp_path / "k.csv", ["a1", "b2"], np.array([0.25, 1.0]))
    assert (tmp_path / "k.csv").read_text(encoding="utf-8") == "id,label\na1,0.25\nb2,1.0\n"
    assert read_scores(tmp_path / "k.csv").table["probability"].tolist() == [0.25, 1.0]


@pytest.mark.parametrize("column", ["probability", "Prob", "SCORE", "p", "label"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_strangers_tables_are_read(tmp_path: Path, column: str, separator: str) -> None:
    back = read_scores(written(tmp_path, f"\ufeffID{separator}{column}\r\n007{separator}0.25\r\nNA{separator}0.5\r\n"))
    assert back.table["id"].tolist() == ["007", "NA"]
    assert back.table["probability"].tolist() == [0.25, 0.5]
    assert back.table["logit"].tolist() == pytest.approx(logit([0.25, 0.5]).tolist())
    assert back.table["label"].tolist() == [-1, -1]


def test_label_beside_a_probability_is_a_label(tmp_path: Path) -> None:
    back = read_scores(written(tmp_path, "id,label,prob,site\na,1,0.2,x\nb,,0.3,y\n"))
    assert back.table["label"].tolist() == [1, -1]
    assert back.table["site"].tolist() == ["x", "y"]


def test_logits_alone_are_enough(tmp_path: Path) -> None:
    back = read_scores(written(tmp_path, "id,logit\na,-800\nb,2\n"))
    assert back.table["probability"].tolist() == pytest.approx(expit([-800, 2]).tolist())


def test_probabilities_of_0_and_1_are_clipped_for_the_logit_and_counted(tmp_path: Path) -> None:
    back = read_scores(written(tmp_path, "id,p\na,0\nb,1\nc,0.5\n"))
    assert back.header["clipped"] == 2
    assert back.table["probability"].tolist() == [0, 1, 0.5]
    assert back.table["logit"].tolist() == pytest.approx([logit(1e-7), logit(1 - 1e-7), 0])


@given(st.lists(st.floats(-700, 700), min_size=1, max_size=20))
def test_logit_and_probability_are_inverse_and_monotone(values: list[float]) -> None:
    x = np.sort(np.array(values))
    p = probability_of(x)
    assert p == pytest.approx(expit(x), rel=1e-12)
    assert (np.diff(logit_of(p)) >= 0).all()


BAD = {
    "not a number": ("id,p\na,0.5\nb,high\n", "a number in column 'p'", "'high' in row 2"),
    "empty cell": ("id,p\na,\n", "a number", "'' in row 1"),
    "nan": ("id,p\na,0.5\nb,nan\n", r"probability in \[0, 1\]", "'nan' in row 2"),
    "inf": ("id,p\na,inf\n", r"probability in \[0, 1\]", "'inf' in row 1"),
    "above one": ("id,p\na,0.5\nb,1.01\n", r"probability in \[0, 1\]", "'1.01' in row 2"),
    "below zero": ("id,p\na,-0.1\n", r"probability in \[0, 1\]", "'-0.1' in row 1"),
    "duplicate": ("id,p\na,0.5\na,0.6\n", "every id once", "'a' in row 2"),
    "empty id": ("id,p\n,0.5\n", "an id in every row", "in row 1"),
    "bad label": ("id,p,label\na,0.5,3\n", "a label of -1, 0 or 1", r"'3\.0' in row 1"),
    "no id": ("name,p\na,0.5\n", "a column 'id'", "no id among 'name', 'p'"),
    "no probability": ("id,propability\na,0.5\n", "a column 'id' and one of", "no probability among 'id', 'propability'"),
    "ragged": ("id,p\na,0.5\nb\n", "2 cells in every row", "1 in row 2"),
    "empty file": ("", "a line of column names", "an empty file"),
    "no rows": ("id,p\n", "at least one row", "none"),
    "open quote": ('id,p\n"a,0.5\n', "a readable table", "unexpected end"),
    "other format": ('# sentinode scores {"format": 99}\nid,p\na,0.5\n', "scores of format 1", "99"),
    "foreign header": ("# sentinode scores [1]\nid,p\na,0.5\n", "a JSON header", "list"),
    "cut header": ('# sentinode scores {"for\nid,p\na,0.5\n', "a readable table", "JSON|Unterminated"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_tables_are_refused_in_three_parts(tmp_path: Path, kind: str) -> None:
    text, expected, found = BAD[kind]
    with pytest.raises(ScoresProblem, match=expected) as caught:
        read_scores(written(tmp_path, text))
    assert caught.match(found)
    assert caught.value.do
    assert caught.value.exit_code == 3


def test_a_misspelt_column_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ScoresProblem, match=r"did you mean propability\?; rename that column"):
        read_scores(written(tmp_path, "id,propability\na,0.5\n"))


def test_terminal_escapes_in_data_are_shown_as_text(tmp_path: Path) -> None:
    with pytest.raises(ScoresProblem) as caught:
        read_scores(written(tmp_path, "id,p\na,\x1b[31mred\n"))
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("content", [b"PAR1 cut", b"", b"\xff\xfe\x00"])
@pytest.mark.parametrize("name", ["x.parquet", "x.csv"])
def test_unreadable_files_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ScoresProblem, match=r"expected (a readable|a line|a column|at least)"):
        read_scores(tmp_path / name)
    with pytest.raises(ScoresProblem, match="readable"):
        read_scores(tmp_path / f"missing-{name}")


def test_writing_refuses_unsound_tables(tmp_path: Path) -> None:
    with pytest.raises(ScoresProblem, match="every id once"):
        write_scores(tmp_path / "s.csv", scores(["a", "a"]))
    with pytest.raises(ScoresProblem, match="UTF-8"):
        write_scores(tmp_path / "s.csv", scores(pd.Series(["\ud800"], dtype=object)))
    with pytest.raises(ScoresProblem, match=r"\.parquet or \.csv"):
        write_scores(tmp_path / "s.xlsx", scores(["a"]))
    with pytest.raises(ScoresProblem, match="the columns id, group"):
        write_scores(tmp_path / "s.csv", Scores(pd.DataFrame({"id": ["a"]})))
    with pytest.raises(ScoresProblem, match="a finite logit"):
        write_scores(tmp_path / "s.csv", scores(["a"], logit=[np.inf]))
    assert list(tmp_path.iterdir()) == []


def store_rows(ids: list[str], labels: list[int], groups: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"id": ids, "label": labels, "group": groups})


def test_align_takes_order_labels_and_groups_from_the_store() -> None:
    joined = align(scores(["a", "b", "c"], label=[1, 1, -1]), store_rows(["c", "a", "b"], [0, 0, 1], ["s", "", "t"]))
    assert joined.table["id"].tolist() == ["c", "a", "b"]
    assert joined.table["probability"].tolist() == pytest.approx([0.9, 0.1, 0.5])
    assert joined.table["label"].tolist() == [0, 0, 1]
    assert joined.table["group"].tolist() == ["s", "", "t"]
    assert joined.header["labels_overruled"] == 1


@pytest.mark.parametrize(
    ("ids", "found"),
    [
        (["a", "b"], "2 that join, 1 tiles without a score, such as 'c'"),
        (["a", "b", "c", "d"], "3 that join, 1 scores without a tile, such as 'd'"),
        (["x", "y", "z"], "0 that join, 3 tiles without a score, such as 'a', 'b', 'c' and 3 scores without a tile"),
    ],
)
def test_ids_that_do_not_join_are_counted_and_named(ids: list[str], found: str) -> None:
    with pytest.raises(ScoresProblem, match="one score for each of the store's 3 tiles") as caught:
        align(scores(ids), store_rows(["a", "b", "c"], [0, 1, 1], ["", "", ""]))
    assert found in caught.value.found
    assert "score this very store" in caught.value.do
