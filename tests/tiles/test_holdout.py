"""Folds of tiles, slides and domains: laws over random tables, and what is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinode.errors import SplitProblem, UsageProblem
from sentinode.tiles.holdout import domain_folds, hold, in_order, kind_of, make_folds
from sentinode.tiles.split import By, given_split, make_split


def rows(n: int = 300, slides: int = 0, copies: int = 0, domains: int = 3, seed: int = 0) -> pd.DataFrame:
    """Return a store's rows: the last `copies` tiles are copies of the first, slides and sources come by chance."""
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < 0.4).astype(np.int8)
    digest = np.array([f"d{i}" for i in range(n)])
    if copies:
        digest[-copies:], label[-copies:] = digest[:copies], label[:copies]
    group = [f"s{g}" for g in rng.integers(slides, size=n)] if slides else [""] * n
    source = [f"site{g}" for g in rng.integers(domains, size=n)]
    table = {"id": [f"t{i}" for i in range(n)], "label": label, "group": group, "digest": digest, "source": source}
    return pd.DataFrame(table)


@given(st.integers(0, 50), st.integers(2, 7), st.sampled_from(["random", "grouped"]))
@settings(max_examples=25)
def test_every_labelled_tile_is_held_out_once_and_its_kin_with_it(seed: int, k: int, how: By) -> None:
    table = rows(slides=30, copies=20, seed=seed)
    folds = make_folds(table, k, how)
    assert sorted(set(folds.fold.tolist())) == list(range(k))
    whole = ["digest", "group"] if how == "grouped" else ["digest"]
    for column in whole:
        assert (pd.Series(folds.fold).groupby(table[column].to_numpy()).nunique() == 1).all()
    for at in range(k):
        assert set(table["label"][folds.fold == at]) == {0, 1}


@given(st.integers(0, 50), st.sampled_from(["random", "grouped"]))
@settings(max_examples=15)
def test_folds_depend_on_ids_and_not_on_row_order(seed: int, how: By) -> None:
    table = rows(slides=25, copies=15)
    mixed = table.sample(frac=1, random_state=seed)
    one, other = (
        dict(zip(t["id"], make_folds(t.reset_index(drop=True), 4, how).fold.tolist(), strict=True)) for t in (table, mixed)
    )
    assert one == other


def test_classes_are_spread_evenly_over_folds_of_tiles() -> None:
    table = rows(1000)
    folds = make_folds(table, 5, "random")
    for value in (0, 1):
        counts = np.bincount(folds.fold[(table["label"] == value).to_numpy()], minlength=5)
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("named", ["2/3", "site1"])
@pytest.mark.parametrize("how", ["random", "grouped"])
def test_what_is_held_out_neither_trains_nor_chooses(named: str, how: By) -> None:
    table = rows(400, slides=40, copies=30)
    held = hold(table, named, how)
    split = make_split(table, how, 0.2, 0, held.rows)
    used = split.table["part"].isin(["train", "valid"]).to_numpy()
    assert not used[held.judged()].any()
    assert used.sum() == (~held.rows).sum()
    shared = ["digest"] if how == "random" and named == "2/3" else ["digest", "group"]
    for column in shared:
        assert not set(table[column][used]) & set(table[column][held.judged()])


def test_a_domain_held_out_takes_its_copies_and_slides_along_and_says_so() -> None:
    table = rows(60)
    table["source"] = ["a"] * 30 + ["b"] * 30
    table["label"] = np.arange(60) % 2
    digests = list(table["digest"])
    table["digest"] = [*digests[:59], digests[1]]
    table["group"] = ["slide" if at in (0, 58) else name for at, name in enumerate(table["group"])]
    held = hold(table, "a")
    assert held.judged().tolist() == list(range(30))
    assert np.flatnonzero(held.rows).tolist() == [*range(30), 58, 59]
    assert held.warnings == ("2 tiles of other domains are copies of 'a''s tiles or of its slides: they are unused",)


def test_pseudo_groups_make_folds_that_say_so_and_no_kin_across_domains() -> None:
    table = rows(200, slides=20)
    assert make_folds(table, 3).by == "slide"
    table["group"] = "pseudo-stain-" + table["group"].str[1:]
    folds = make_folds(table, 3)
    assert folds.by == "pseudo-group"
    assert (pd.Series(folds.fold).groupby(table["group"]).nunique() == 1).all()
    assert hold(table, "site1").warnings == (), "tiles of one stain in another hospital are of no shared slide"


def test_domains_come_from_a_table_and_tiles_without_one_are_unused(tmp_path: Path) -> None:
    table = rows(40)
    table["label"] = np.arange(40) % 2
    lines = ["id,scanner"] + [f"t{i}.tif,{'red' if i < 20 else 'blue'}" for i in range(36)]
    (tmp_path / "domains.csv").write_text("\n".join(lines))
    folds = domain_folds(table, tmp_path / "domains.csv")
    assert folds.names == ("blue", "red")
    assert folds.fold.tolist() == [1] * 20 + [0] * 16 + [-1] * 4
    held = hold(table, "red", domains=tmp_path / "domains.csv")
    assert np.flatnonzero(held.rows).tolist() == [*range(20), *range(36, 40)]
    assert held.warnings == ("4 labelled tiles are in no fold, since their domain is not known: they are unused",)


def test_tiles_of_unknown_slides_are_in_no_fold_of_slides() -> None:
    table = rows(200, slides=20)
    table.loc[:9, "group"] = ""
    table.loc[10:14, "label"] = -1
    folds = make_folds(table, 3, "grouped")
    assert np.flatnonzero(folds.fold < 0).tolist() == list(range(15))


def test_a_store_that_chooses_leaves_the_held_out_tiles_unused() -> None:
    table, chooser = rows(200), rows(50, seed=3).assign(digest=[f"other{i}" for i in range(50)], id=[f"v{i}" for i in range(50)])
    held = hold(table, "1/4")
    split = given_split(table, chooser, held.rows)
    assert set(split.table["part"][: len(table)][held.rows]) == {"unused"}
    assert set(split.table["part"][: len(table)][~held.rows]) == {"train"}


@pytest.mark.parametrize(
    ("named", "found", "do"),
    [("6/5", "'6/5'", "1 to 5"), ("0/5", "'0/5'", "1 to 5"), ("sight1", "'sight1'", "site1"), ("2/1", "1", "such as 5")],
)
def test_a_fold_that_does_not_exist_is_refused(named: str, found: str, do: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        hold(rows(), named)
    assert "fold" in caught.value.expected
    assert found in caught.value.found
    assert do in caught.value.do


def test_fewer_tiles_or_slides_than_folds_are_refused() -> None:
    few = rows(8)
    few["label"] = [1, 1, 0, 0, 0, 0, 0, 0]
    with pytest.raises(SplitProblem) as caught:
        make_folds(few, 3)
    assert "3 folds with both classes" in caught.value.expected
    assert "2 positive" in caught.value.found
    assert "fewer folds" in caught.value.do
    with pytest.raises(SplitProblem, match="separable slides"):
        make_folds(rows(100, slides=3), 4)


def test_a_domain_of_one_class_and_a_single_domain_are_refused() -> None:
    table = rows(60)
    table.loc[table["source"] == "site2", "label"] = 1
    with pytest.raises(SplitProblem) as caught:
        hold(table, "site0")
    assert "'site2'" in caught.value.expected
    assert "0 negative" in caught.value.found
    assert "--domains" in caught.value.do
    with pytest.raises(SplitProblem) as caught:
        domain_folds(rows(domains=1), None)
    assert "two domains" in caught.value.expected
    assert "1, 'site0'" in caught.value.found
    assert "--domains" in caught.value.do


def test_names_of_folds_are_ordered_by_number_and_of_one_kind_by_how_many_there_are() -> None:
    assert in_order({"10/10", "2/10", "", "site"}) == ["", "site", "2/10", "10/10"]
    assert [kind_of(name) for name in ("2/5", "3/5", "2/4", "site", "")] == ["/5", "/5", "/4", "domain", ""]
