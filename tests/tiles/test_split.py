"""Splits by tile and by slide, and nested samples: laws over random tables."""

import dataclasses
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinode.errors import SplitProblem, UsageProblem
from sentinode.tiles.split import (
    GUESSED,
    OPTIMISTIC,
    Split,
    check_split,
    given_split,
    make_split,
    parse_sample,
    read_split,
    sample_positions,
    sample_rows,
    write_split,
)


def rows(n: int = 400, n_slides: int = 0, copies: int = 0, seed: int = 0, unlabelled: int = 0) -> pd.DataFrame:
    """Return a store's rows: the first `copies` tiles stand twice, the last `unlabelled` have no label."""
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < 0.4).astype(np.int8)
    digest = [f"d{i}" for i in range(n)]
    for i in range(copies):
        digest[n - 1 - unlabelled - i], label[n - 1 - unlabelled - i] = digest[i], label[i]
    label[n - unlabelled :] = -1
    group = [f"s{g}" for g in rng.integers(n_slides, size=n)] if n_slides else [""] * n
    return pd.DataFrame({"id": [f"t{i}" for i in range(n)], "label": label, "group": group, "digest": digest})


def parts_by_id(split: Split) -> dict[str, str]:
    return dict(zip(split.table["id"], split.table["part"], strict=True))


@given(st.integers(0, 5), st.sampled_from([0.1, 0.2, 0.5]), st.sampled_from(["random", "grouped"]))
@settings(max_examples=25, deadline=None)
def test_a_split_depends_on_ids_and_not_on_row_order(seed: int, share: float, how: str) -> None:
    table = rows(n_slides=20, copies=15, unlabelled=9)
    mixed = table.sample(frac=1, random_state=seed).reset_index(drop=True)
    one, other = (make_split(t, how, share, seed) for t in (table, mixed))  # type: ignore[arg-type]
    assert parts_by_id(one) == parts_by_id(other)
    assert one.table["id"].tolist() == table["id"].tolist()


def test_random_is_stratified_exactly() -> None:
    table = rows(500, copies=20)
    split = make_split(table, "random", 0.2, 3)
    for value in (0, 1):
        of_class = (table["label"] == value).to_numpy()
        assert (split.table["part"][of_class] == "valid").sum() == round(0.2 * of_class.sum())
    assert split.warnings == (OPTIMISTIC,)
    assert split.table["fold"].tolist() == [0 if part == "valid" else -1 for part in split.table["part"]]


@pytest.mark.parametrize("how", ["random", "grouped"])
def test_copies_stay_together(how: str) -> None:
    split = make_split(rows(300, n_slides=25, copies=40), how, 0.3, 1)  # type: ignore[arg-type]
    assert (split.table.groupby("digest")["part"].nunique() == 1).all()


def test_grouped_keeps_slides_whole_and_classes_near_the_share() -> None:
    table = rows(2000, n_slides=40)
    split = make_split(table, "auto", 0.2, 0)
    assert split.how == "grouped"
    assert split.warnings == ()
    assert (split.table.groupby("group")["part"].nunique() == 1).all()
    for value in (0, 1):
        of_class = (table["label"] == value).to_numpy()
        assert 0.18 <= (split.table["part"][of_class] == "valid").mean() <= 0.22


def test_unlabelled_tiles_are_unused() -> None:
    table = rows(unlabelled=30)
    split = make_split(table)
    assert set(split.table["part"][-30:]) == {"unused"}
    assert "unused" not in set(split.table["part"][:-30])


def test_tiles_of_unknown_slides_neither_train_nor_choose() -> None:
    table = rows(n_slides=20)
    table.loc[:49, "group"] = ""
    split = make_split(table, "auto")
    assert split.how == "grouped"
    assert set(split.table["part"][:50]) == {"unused"}
    assert split.warnings == ("50 labelled tiles have no slide: they are unused, since they could be of any",)
    table.loc[:299, "group"] = ""
    assert make_split(table, "auto").how == "random"


def test_pseudo_groups_are_held_out_whole_and_never_pass_for_slides() -> None:
    table = rows(n_slides=20)
    table["group"] = "pseudo-stain-" + table["group"]
    split = make_split(table, "auto")
    assert (split.table.groupby("group")["part"].nunique() == 1).all()
    assert split.warnings == (GUESSED,)
    assert "pseudo-groups, which are no slides" in GUESSED
    assert "optimistic" in GUESSED
    other = table.assign(id="v" + table["id"], digest="v" + table["digest"])
    assert given_split(table, other).warnings == (), "two audits both begin to count at 1: a name shared says nothing"


def test_one_class_slides_still_give_two_classes_on_each_side() -> None:
    table = rows(200)
    table["group"] = [f"{label}-{i % 3}" for i, label in enumerate(table["label"])]
    split = make_split(table, "grouped", 0.3)
    for part in ("train", "valid"):
        assert set(table["label"].to_numpy()[split.rows_of(part)]) == {0, 1}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"group": "one"}, "1 separable slides"),
        ({"group": ""}, "no labelled tile with a known slide"),
        ({"group": "one", "label": 1}, "400 positive and 0 negative"),
        ({"digest": "same"}, "1 separable slides"),
    ],
)
def test_slides_that_cannot_be_split_say_what_to_do(change: dict[str, Any], found: str) -> None:
    with pytest.raises(SplitProblem, match="slides of which some can be held out") as caught:
        make_split(rows(n_slides=10).assign(**change), "grouped")
    assert found in caught.value.found
    assert "--split random" in caught.value.do


def test_one_class_or_no_label_is_refused() -> None:
    with pytest.raises(SplitProblem, match=r"both classes in train.*0 negative"):
        make_split(rows().assign(label=1), "random")
    with pytest.raises(SplitProblem, match="0 positive and 0 negative"):
        make_split(rows().assign(label=-1), "random")


@pytest.mark.parametrize(("how", "share"), [("grouped", 0.0), ("random", 1.0), ("random", float("nan")), ("slides", 0.2)])
def test_wrong_settings_are_refused(how: str, share: float) -> None:
    with pytest.raises(UsageProblem, match=r"a split of auto|a validation share"):
        make_split(rows(), how, share)  # type: ignore[arg-type]


def test_the_audit_sees_leaks() -> None:
    split = make_split(rows(n_slides=20, copies=5), "grouped")
    moved = split.table.copy()
    leak = split.table.index[split.table["part"] == "valid"][0]
    moved.loc[leak, "part"] = "train"
    with pytest.raises(SplitProblem, match=r"every (group|digest) on one side"):
        check_split(dataclasses.replace(split, table=moved))


def test_given_stores_train_and_choose() -> None:
    one, two = rows(100, n_slides=5), rows(60, n_slides=5, seed=1)
    two["digest"] = [f"e{i}" for i in range(60)]
    two.loc[:2, "digest"] = ["d7", "d8", "d9"]
    split = given_split(one, two)
    assert split.how == "given"
    assert split.table["part"].tolist() == ["unused" if i in (7, 8, 9) else "train" for i in range(100)] + ["valid"] * 60
    assert split.warnings[0] == "3 training tiles are copies of validation tiles: they are unused"
    assert "5 slides train and choose, such as 's0'" in split.warnings[1]
    with pytest.raises(SplitProblem, match="both classes in valid"):
        given_split(one, two.assign(label=-1))


SHARES = st.fractions(min_value=Fraction(1, 100), max_value=1)


@given(SHARES, SHARES, st.integers(0, 3))
def test_samples_are_nested_and_stratified(one: Fraction, other: Fraction, seed: int) -> None:
    table = rows(137)
    ids, labels = table["id"].tolist(), table["label"].to_numpy()
    small, large = (set(sample_positions(ids, labels, share, seed).tolist()) for share in sorted((one, other)))
    assert small <= large
    for value in (0, 1):
        n = int((labels == value).sum())
        assert sum(labels[at] == value for at in small) == -(-min(one, other) * n // 1)


@given(st.permutations(list(range(60))))
@settings(max_examples=20)
def test_a_sample_depends_on_ids_and_not_on_row_order(order: list[int]) -> None:
    table = rows(60)
    mixed = table.iloc[order].reset_index(drop=True)
    picks = [sample_positions(t["id"].tolist(), t["label"].to_numpy(), Fraction(1, 5)) for t in (table, mixed)]
    assert set(table["id"].iloc[picks[0]]) == set(mixed["id"].iloc[picks[1]])


def test_a_sample_of_a_split_leaves_valid_alone() -> None:
    split = make_split(rows(1000), "random", 0.2)
    five, ten = sample_rows(split, "5%"), sample_rows(split, "10%")
    assert five.rows_of("valid").tolist() == split.rows_of("valid").tolist()
    assert set(five.rows_of("train")) < set(ten.rows_of("train")) < set(split.rows_of("train"))
    assert 40 <= len(five.rows_of("train")) <= 41
    assert 100 <= len(sample_rows(split, "100").rows_of("train")) <= 101


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("5%", Fraction(1, 20)),
        ("0.05", Fraction(1, 20)),
        ("7 %", Fraction(7, 100)),
        ("2000", Fraction(1, 5)),
        ("100%", 1),
        ("1", 1),
    ],
)
def test_samples_are_read(text: str, share: Fraction) -> None:
    assert parse_sample(text, 10000) == share


@pytest.mark.parametrize("text", ["", "five", "0", "-5%", "101%", "10001", "nan", "inf", "1/0", "5%%"])
def test_samples_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(UsageProblem, match="a sample"):
        parse_sample(text, 10000)


def test_splits_are_written_and_read_back(tmp_path: Path) -> None:
    split = make_split(rows(n_slides=20, unlabelled=5), "grouped", 0.3, 4)
    write_split(tmp_path / "split.parquet", split)
    back = read_split(tmp_path / "split.parquet")
    assert back.table.to_dict("list") == split.table.to_dict("list")
    assert (back.how, back.seed, back.warnings) == (split.how, 4, split.warnings)
    first = (tmp_path / "split.parquet").read_bytes()
    write_split(tmp_path / "split.parquet", split)
    assert (tmp_path / "split.parquet").read_bytes() == first


def test_foreign_files_are_no_split(tmp_path: Path) -> None:
    path = tmp_path / "split.parquet"
    with pytest.raises(SplitProblem, match="a readable"):
        read_split(path)
    path.write_bytes(b"PAR1")
    with pytest.raises(SplitProblem, match="a readable"):
        read_split(path)
    rows().to_parquet(path)
    with pytest.raises(SplitProblem, match="a split of format 2"):
        read_split(path)
