"""Runs, anyone's predictions and the floor against each other: joined by id, checked for contamination, ties declared."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from sentinode.cli import main
from sentinode.errors import RunProblem, ScoresProblem, UndefinedScore, UsageProblem
from sentinode.fit.train import train
from sentinode.flows.compare import FLOOR, compare, names_of
from sentinode.flows.recipes import Made, made_of, recipes_of
from sentinode.judge.comparison import RULE
from sentinode.scores import read_scores
from sentinode.tiles.pack import pack
from sentinode.tiles.store import open_store
from sentinode.tiles.synth import synthesise, write_kaggle_folder


def packed(folder: Path, name: str, seed: int) -> None:
    tissue = synthesise(8, 20, px=24, seed=seed)
    write_kaggle_folder(folder / name, tissue)
    pd.DataFrame({"id": tissue.ids, "slide": tissue.groups}).to_csv(folder / f"{name}.csv", index=False)
    pack(folder / name, out=folder / f"{name}.store", quiet=True, groups=str(folder / f"{name}.csv"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make two stores of other slides and two runs of one recipe, trained on the first."""
    folder = tmp_path_factory.mktemp("compare")
    packed(folder, "one", 1)
    packed(folder, "two", 2)
    for seed in (0, 1):
        train(folder / "one.store", out=folder / f"run{seed}", epochs=1, seed=seed, valid_share=0.4, quiet=True)
    return folder


def predictions(store: Path, to: Path, noise: float, seed: int = 0) -> Path:
    """Write a stranger's CSV, in another order than the store's; the less noise the better."""
    rows = open_store(store).rows
    logit = 2 * rows["label"].to_numpy() - 1 + noise * np.random.default_rng(seed).normal(size=len(rows))
    table = pd.DataFrame({"id": rows["id"], "probability": 1 / (1 + np.exp(-logit))})
    table.sample(frac=1, random_state=seed).to_csv(to, index=False)
    return to


def test_runs_predictions_and_the_floor_meet_on_the_same_tiles(place: Path, tmp_path: Path) -> None:
    good = predictions(place / "two.store", tmp_path / "good.csv", 0.5)
    bad = predictions(place / "two.store", tmp_path / "bad.csv", 50)
    runs = [place / "run0", place / "run1"]
    found = compare(good, *runs, bad, test=place / "two.store", out=tmp_path / "out", resamples=200, quiet=True)
    assert set(found.contest.figures) == {"good", "bad", "run0 (2 runs)", FLOOR}
    assert len(found.contest.pairs) == 6
    joined = pd.read_csv(good).merge(open_store(place / "two.store").rows, on="id")
    assert found.contest.figures["good"].estimate == pytest.approx(
        roc_auc_score(joined["label"], joined["probability"]), abs=1e-12
    )
    between = next(pair for pair in found.contest.pairs if {pair.first, pair.second} == {"good", "bad"})
    assert between.told_apart
    assert not set(found.contest.ranks["good"]) & set(found.contest.ranks["bad"])
    recipe = found.provenance["run0 (2 runs)"]
    assert (recipe.kind, recipe.protocol, recipe.contaminated, recipe.runs) == ("recipe", "other slides", False, ("run0", "run1"))
    assert recipe.spread is not None
    assert [(cell.seed, cell.fold) for cell in recipe.spread.cells] == [(0, ""), (1, "")]
    assert recipe.spread.mean == pytest.approx(found.contest.figures["run0 (2 runs)"].estimate, abs=1e-12)
    assert recipe.spread.over_folds is None

    written = json.loads((tmp_path / "out" / "comparison.json").read_text("utf-8"))
    assert written == json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"comparison.json", "report.html", "scores.parquet", "figures"}
    scores = read_scores(tmp_path / "out" / "scores.parquet")
    assert scores.header["columns"] == {f"probability_{n}": name for n, name in enumerate(("good", "run0", "run1", "bad"), 1)}
    assert roc_auc_score(scores.table["label"], scores.table["probability_4"]) == found.contest.figures["bad"].estimate
    lines = found.lines()
    assert lines[0].startswith("warning: the contestants' protocols differ (")
    assert any("only 8 slides" in line for line in lines)
    assert any(
        line.startswith("good, bad: what these predictions were trained on is not known") for line in (x[9:] for x in lines)
    )
    assert RULE in lines
    assert repr(found) == "\n".join(lines)
    with pytest.raises(UsageProblem, match="a finished one"):
        compare(good, bad, test=place / "two.store", out=tmp_path / "out", quiet=True)


def test_a_contestant_that_has_seen_the_tiles_is_marked(place: Path, tmp_path: Path) -> None:
    theirs = predictions(place / "one.store", tmp_path / "theirs.csv", 1)
    options: dict[str, Any] = {"test": place / "one.store", "resamples": 200, "quiet": True, "together": False}
    found = compare(place / "run0", place / "run1", theirs, out=tmp_path / "out", **options)
    assert set(found.contest.figures) == {"run0", "run1", "theirs", FLOOR}
    for name in ("run0", "run1"):
        assert found.provenance[name].contaminated
        assert found.as_dict()["contestants"][name]["auroc"]["contaminated"] is True
        assert found.as_dict()["contestants"][name]["passport"]["exact"] > 0
    assert not found.provenance["theirs"].contaminated
    assert found.warnings[0].startswith("contaminated: ")
    assert any("run0 (contaminated)" in line for line in found.lines())


def test_the_command_line_prints_a_table_or_json(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [str(predictions(place / "two.store", tmp_path / f"{name}.csv", 2, seed)) for seed, name in enumerate("ab")]
    words = [
        "compare",
        *given,
        "--test",
        str(place / "two.store"),
        "--out",
        str(tmp_path / "out"),
        "--resamples",
        "200",
        "--quiet",
    ]
    for more in ([], ["--overwrite", "--json"]):
        with pytest.raises(SystemExit) as ended:
            main([*words, *more])
        assert ended.value.code == 0
        text = capsys.readouterr().out
        if not more:
            assert "not told apart" in text or "told apart" in text
    assert json.loads(text)["contestants"].keys() == {"a", "b"}
    assert json.loads(text)["pairs"][0]["detectable"] > 0


def test_predictions_that_do_not_join_are_named(place: Path, tmp_path: Path) -> None:
    good = predictions(place / "two.store", tmp_path / "good.csv", 1)
    foreign = predictions(place / "one.store", tmp_path / "foreign.csv", 1)
    with pytest.raises(
        ScoresProblem, match=r"one score for each of the store's 160 tiles, by id, from foreign; found 0 that join"
    ) as caught:
        compare(good, foreign, test=place / "two.store", out=tmp_path / "out", quiet=True)
    assert "score this very store" in caught.value.do


@pytest.mark.parametrize(("value", "said"), [("nan", "nan"), ("1.5", "1.5"), ("-0.1", "-0.1")])
def test_probabilities_that_are_none_are_refused_with_their_row(place: Path, tmp_path: Path, value: str, said: str) -> None:
    good = predictions(place / "two.store", tmp_path / "good.csv", 1)
    lines = good.read_text("utf-8").splitlines()
    lines[3] = f"{lines[3].split(',')[0]},{value}"
    (tmp_path / "bad.csv").write_text("\n".join(lines), "utf-8")
    with pytest.raises(ScoresProblem, match=rf"in \[0, 1\].*from bad; found '{said}' in row 3 \(1 such rows\)"):
        compare(good, tmp_path / "bad.csv", test=place / "two.store", out=tmp_path / "out", quiet=True)


def test_exact_zeros_and_ones_and_equal_scores_are_ranked_as_they_stand(place: Path, tmp_path: Path) -> None:
    rows = open_store(place / "two.store").rows
    for name, values in (("perfect", rows["label"].to_numpy() * 1.0), ("flat", np.full(len(rows), 0.5))):
        pd.DataFrame({"id": rows["id"], "probability": values}).to_csv(tmp_path / f"{name}.csv", index=False)
    pair = [tmp_path / "perfect.csv", tmp_path / "flat.csv"]
    found = compare(*pair, test=place / "two.store", out=tmp_path / "out", resamples=200, quiet=True)
    assert [found.contest.figures[name].estimate for name in ("perfect", "flat")] == [1, 0.5]
    assert any("no spread of the difference between perfect and flat" in text for text in found.warnings)
    assert any("probabilities lie within 1e-7 of 0 or 1" in text for text in found.warnings)


def test_a_store_of_one_class_cannot_judge(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "two" / "train", tmp_path / "some")
    rows = open_store(place / "two.store").rows
    pd.DataFrame({"id": rows["id"], "label": 1}).to_csv(tmp_path / "labels.csv", index=False)
    pack(tmp_path / "some", out=tmp_path / "pos.store", labels=str(tmp_path / "labels.csv"), quiet=True)
    given = [predictions(tmp_path / "pos.store", tmp_path / f"{name}.csv", 1) for name in "ab"]
    with pytest.raises(UndefinedScore, match="both classes"):
        compare(*given, test=tmp_path / "pos.store", out=tmp_path / "out", quiet=True)


def test_inputs_that_do_not_fit_are_refused(place: Path, tmp_path: Path) -> None:
    a, b = (predictions(place / "two.store", tmp_path / f"{name}.csv", 1) for name in "ab")
    cases: list[tuple[tuple[Path, ...], dict[str, Any], str]] = [
        ((a,), {}, "at least two runs or scores files; found 1"),
        ((a, a), {}, "every contestant once; found .* twice; name each once"),
        ((a, tmp_path / "none.csv"), {}, "a run folder or a scores file"),
        ((a, b), {"resamples": 10}, "at least 100 resamples"),
        ((a, b), {"power": 1.0}, "a power from 0.5 to below 1; found 1"),
        ((a, b), {"powr": 0.9}, "did you mean power"),
    ]
    for number, (inputs, options, said) in enumerate(cases):
        with pytest.raises(UsageProblem, match=said):
            compare(*inputs, test=place / "two.store", out=tmp_path / f"out{number}", quiet=True, **options)


def test_names_grow_until_they_differ(tmp_path: Path) -> None:
    (tmp_path / "x" / "run").mkdir(parents=True)
    (tmp_path / "y" / "run").mkdir(parents=True)
    assert names_of([tmp_path / "x" / "run", tmp_path / "y" / "run"]) == ["x/run", "y/run"]
    assert names_of([Path("a.csv"), Path("b.csv")]) == ["a", "b"]
    assert {name.rsplit("/", 1)[-1] for name in names_of([Path("a.csv"), Path("a.parquet")])} == {"a.csv", "a.parquet"}


def test_recipes_are_runs_that_differ_in_seed_or_fold_alone(tmp_path: Path) -> None:
    one, other = {"lr": 1e-3, "folds": "/5", "store": "d"}, {"lr": 1e-4, "folds": "/5", "store": "d"}
    first, second = "1/5", "2/5"
    made = [
        Made(0, first, one),
        None,
        Made(0, first, other),
        Made(1, first, one),
        Made(0, second, one),
        Made(0, first, one),
        None,
    ]
    assert recipes_of(made) == [[0, 3, 4], [1], [2], [5], [6]]
    record = {"settings": {"lr": 1e-3, "seed": 3, "fold": "2/5", "threads": 2}, "data": {"train": {"store": "d"}}}
    assert made_of(tmp_path) is None
    (tmp_path / "run.json").write_text(json.dumps(record), "utf-8")
    assert made_of(tmp_path) == Made(3, second, one)
    (tmp_path / "run.json").write_text(json.dumps(record | {"settings": 3}), "utf-8")
    with pytest.raises(RunProblem, match=r"settings and data in .*; found something else; train the run again"):
        made_of(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"settings": {"seed": "x"}}), "utf-8")
    with pytest.raises(RunProblem, match=r"a whole number as seed in .*; found 'x'; train the run again"):
        made_of(tmp_path)
