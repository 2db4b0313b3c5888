"""Cross-validation: every tile judged once, by a run that was not shown it; the same after a kill; evaluate takes the scores."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from sentinode.cli import main
from sentinode.errors import SplitProblem, UsageProblem
from sentinode.flows.crossvalidate import CrossValidation, crossvalidate
from sentinode.flows.evaluate import evaluate
from sentinode.report.folds import note
from sentinode.scores import read_scores
from sentinode.tiles.pack import pack
from sentinode.tiles.split import GUESSED, read_split
from sentinode.tiles.store import open_store
from sentinode.tiles.synth import synthesise, write_kaggle_folder

FAST: dict[str, Any] = {"epochs": 1, "precision": "fp32", "batch": 16, "lr": 0.01, "resamples": 100, "folds": 3, "quiet": True}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    write_kaggle_folder(folder / "tiles", synthesise(12, 12, px=24, difficulty=0.3, seed=3))
    return pack(folder / "tiles", out=folder / "s.store", groups=str(folder / "tiles" / "slides.csv"), quiet=True).path


@pytest.fixture(scope="module")
def found(store: Path, tmp_path_factory: pytest.TempPathFactory) -> CrossValidation:
    return crossvalidate(store, out=tmp_path_factory.mktemp("cv") / "out", **FAST)


def test_each_slide_is_judged_once_by_a_run_that_saw_nothing_of_it(store: Path, found: CrossValidation) -> None:
    rows, oof = open_store(store).rows, read_scores(found.out / "oof.parquet")
    assert sorted(oof.table["id"]) == sorted(rows["id"].astype(str))
    assert oof.header["protocol"] == "out of fold, other slides"
    for row in found.values["folds"]:
        mine = oof.table[oof.table["fold"] == row["fold"]]
        split = read_split(found.out / row["run"] / "split.parquet").table
        used = split[split["part"].isin(["train", "valid"])]
        assert not set(used["group"]) & set(mine["group"])
        assert set(split.loc[split["fold"] == int(row["fold"][0]) - 1, "id"]) == set(mine["id"])
        assert row["auroc"]["estimate"] == pytest.approx(roc_auc_score(mine["label"], mine["logit"]), abs=1e-12)
    mean = np.mean([row["auroc"]["estimate"] for row in found.values["folds"]])
    assert found.values["mean"]["auroc"]["estimate"] == pytest.approx(mean, abs=1e-12)
    assert found.values["pooled"]["estimate"] == pytest.approx(roc_auc_score(oof.table["label"], oof.table["logit"]), abs=1e-12)
    written = pd.read_csv(found.out / "folds.csv")
    assert written["auroc_estimate"].tolist() == [row["auroc"]["estimate"] for row in found.values["folds"]]
    assert (found.out / "figures" / "folds.svg").read_bytes().startswith(b"<?xml")


def test_the_score_of_a_tile_is_that_of_its_fold_s_run(store: Path, found: CrossValidation) -> None:
    opened, oof = open_store(store), read_scores(found.out / "oof.parquet").table
    run = found.runs()[1]
    mine = oof[oof["fold"] == "2/3"]
    at = pd.Series(np.arange(len(opened)), index=opened.rows["id"].astype(str)).loc[mine["id"]].to_numpy()
    np.testing.assert_allclose(run.predict_proba(np.asarray(opened.tiles[at])), mine["probability"], atol=1e-6)


def test_a_killed_one_goes_on_to_the_same_scores(
    store: Path, found: CrossValidation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sentinode.flows import crossvalidate as module

    whole, calls = module.train_fold, []

    def killed(*given: Any) -> Any:
        calls.append(given[3])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(*given)

    monkeypatch.setattr(module, "train_fold", killed)
    with pytest.raises(KeyboardInterrupt):
        crossvalidate(store, out=tmp_path / "out", **FAST)
    monkeypatch.setattr(module, "train_fold", whole)
    with pytest.raises(UsageProblem, match="add --resume"):
        crossvalidate(store, out=tmp_path / "out", **FAST)
    with pytest.raises(UsageProblem, match=r"lr '0\.02', not '0\.01'"):
        crossvalidate(store, out=tmp_path / "out", resume=True, **FAST | {"lr": 0.02})
    again = crossvalidate(store, out=tmp_path / "out", resume=True, **FAST)
    assert (again.out / "oof.parquet").read_bytes() == (found.out / "oof.parquet").read_bytes()
    assert again.values == found.values
    assert crossvalidate(store, out=tmp_path / "out", resume=True, **FAST).values == found.values


def test_evaluate_takes_the_scores_and_says_that_they_are_out_of_fold(
    store: Path, found: CrossValidation, tmp_path: Path
) -> None:
    judged = evaluate(found.out / "oof.parquet", store, out=tmp_path / "judged", resamples=100, mistakes=0, quiet=True)
    assert judged.protocol == "out of fold, other slides"
    assert judged.figures["auroc"].estimate == pytest.approx(found.values["pooled"]["estimate"], abs=1e-12)
    oof = read_scores(found.out / "oof.parquet").table
    floor = roc_auc_score(oof["label"], oof["floor_probability"])
    assert judged.floor["auroc"].estimate == pytest.approx(floor, abs=1e-12)
    assert any("not shown it" in text for text in judged.warnings)


def test_domains_are_held_out_by_name(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = open_store(store).rows
    groups = sorted(set(rows["group"]))
    domain = {group: f"<b>{'=1+1' if at % 2 else 'north'}</b>" for at, group in enumerate(groups)}
    table = pd.DataFrame({"id": rows["id"], "centre": rows["group"].map(domain)})
    table.to_csv(tmp_path / "centres.csv", index=False)
    words = ["crossvalidate", str(store), "--out", str(tmp_path / "cv"), "--folds", "domains", "--epochs", "1", "--batch", "16"]
    words += ["--precision", "fp32", "--resamples", "100", "--quiet", "--json", "--domains", str(tmp_path / "centres.csv")]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["fold"] for row in told["folds"]] == ["<b>=1+1</b>", "<b>north</b>"]
    assert told["by"] == "domain"
    for row in told["folds"]:
        split = read_split(tmp_path / "cv" / row["run"] / "split.parquet").table
        used = split[split["part"].isin(["train", "valid"])]
        assert {domain[group] for group in used["group"]} == {domain[g] for g in groups} - {row["fold"]}


def test_random_tiles_carry_a_warning(store: Path, tmp_path: Path) -> None:
    found = crossvalidate(store, out=tmp_path / "cv", **FAST | {"split": "random", "folds": 2})
    assert "folds are random tiles" in found.lines()[0]
    assert "optimistic" in found.lines()[0]
    assert read_scores(found.out / "oof.parquet").header["protocol"] == "out of fold, random tiles"


def test_pseudo_groups_carry_one_too_and_never_pass_for_slides(store: Path, tmp_path: Path) -> None:
    rows = open_store(store).rows
    table = pd.DataFrame({"id": rows["id"], "group": "pseudo-stain-" + rows["group"].astype(str)})
    table.to_csv(tmp_path / "pseudo.csv", index=False)
    guessed = pack(store.parent / "tiles", out=tmp_path / "g.store", groups=str(tmp_path / "pseudo.csv"), quiet=True).path
    found = crossvalidate(guessed, out=tmp_path / "cv", **FAST | {"folds": 2})
    assert found.lines()[0].startswith(
        "warning: the folds are pseudo-groups, which are no slides: tiles of one slide may be on both"
    )
    assert found.values["n_groups"] == 0
    assert "Held out: whole pseudo-groups, which are no slides." in note(found.values)
    judged = evaluate(found.out / "oof.parquet", guessed, out=tmp_path / "judged", resamples=100, mistakes=0, quiet=True)
    assert judged.protocol == "out of fold, other pseudo-groups, which are no slides"
    assert GUESSED in judged.warnings


@pytest.mark.parametrize(
    ("change", "expected", "got", "do"),
    [
        ({"folds": "five"}, "a number of folds, or domains", "'five'", "write --folds 5"),
        ({"folds": 1}, "at least 2 folds", "1", "such as 5"),
        ({"fold": "1/3"}, "--folds for a cross-validation", "--fold '1/3'", "leave --fold out"),
        ({"domains": "x.csv"}, "--folds domains beside --domains", "--folds 3", "leave --domains out"),
        ({"backbone": "frozen", "minutes": 5.0}, "how a frozen backbone follows", "100%", "--minutes out"),
    ],
)
def test_settings_that_folds_cannot_have_are_refused_before_anything_is_written(
    store: Path, tmp_path: Path, change: dict[str, Any], expected: str, got: str, do: str
) -> None:
    with pytest.raises(UsageProblem) as caught:
        crossvalidate(store, out=tmp_path / "cv", **FAST | change)
    assert expected in caught.value.expected
    assert got in caught.value.found
    assert do in caught.value.do
    assert not (tmp_path / "cv").exists()


def test_more_folds_than_slides_are_refused_before_anything_is_written(store: Path, tmp_path: Path) -> None:
    with pytest.raises(SplitProblem, match="13 folds with both classes"):
        crossvalidate(store, out=tmp_path / "cv", **FAST | {"folds": 13})
    assert not (tmp_path / "cv").exists()
