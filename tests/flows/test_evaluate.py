"""Runs and anyone's predictions judged on a store: floor, passport, protocol, and what is refused."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from sentinode.errors import RunProblem, ScoresProblem, UndefinedScore, UsageProblem
from sentinode.fit.train import train
from sentinode.flows.choosing import threshold_of
from sentinode.flows.evaluate import evaluate, origin_of
from sentinode.judge.judgement import Judgement
from sentinode.nets.trained import load
from sentinode.scores import read_scores
from sentinode.tiles.info import info
from sentinode.tiles.pack import pack
from sentinode.tiles.passport import with_passport
from sentinode.tiles.split import Split, make_split
from sentinode.tiles.store import Store, open_store
from sentinode.tiles.synth import synthesise, write_kaggle_folder


def packed(folder: Path, name: str, *, seed: int, slides: bool = True) -> Store:
    """Pack 8 synthetic slides of 20 tiles, with their slide names or without."""
    tissue = synthesise(8, 20, px=24, seed=seed)
    write_kaggle_folder(folder / name, tissue)
    pd.DataFrame({"id": tissue.ids, "slide": tissue.groups}).to_csv(folder / f"{name}.csv", index=False)
    options: dict[str, Any] = {"groups": str(folder / f"{name}.csv")} if slides else {}
    return pack(folder / name, out=folder / f"{name}.store", quiet=True, **options)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make two stores of other slides, one without slide names, and two runs trained on the first."""
    folder = tmp_path_factory.mktemp("evaluate")
    packed(folder, "one", seed=1)
    packed(folder, "two", seed=2)
    packed(folder, "nameless", seed=2, slides=False)
    for seed in (0, 1):
        train(folder / "one.store", out=folder / f"run{seed}", epochs=1, seed=seed, valid_share=0.4, quiet=True)
    return folder


@pytest.fixture(scope="module")
def plain(place: Path) -> Judgement:
    """Judge the first run on the other slides, without pictures of mistakes."""
    return evaluate(place / "run0", place / "two.store", out=place / "plain", resamples=100, mistakes=0, quiet=True)


def predictions(store: Store, folder: Path, **columns: Any) -> Path:
    """Write a stranger's CSV in another order than the store's."""
    labels = store.rows["label"].to_numpy()
    p = 1 / (1 + np.exp(-(2 * labels - 1 + np.random.default_rng(0).normal(size=len(store)))))
    table = pd.DataFrame({"ID": store.rows["id"], "prob": p})
    for name, value in columns.items():
        table[name] = value
    table.sample(frac=1, random_state=3).to_csv(folder / "theirs.csv", index=False)
    return folder / "theirs.csv"


def test_a_strangers_predictions_are_judged(place: Path, tmp_path: Path) -> None:
    store = open_store(place / "two.store")
    theirs = predictions(store, tmp_path)
    judged = evaluate(theirs, place / "two.store", out=tmp_path / "out", resamples=200, quiet=True)
    joined = pd.read_csv(theirs).merge(store.rows, left_on="ID", right_on="id")
    assert judged.figures["auroc"].estimate == pytest.approx(roc_auc_score(joined["label"], joined["prob"]), abs=1e-12)
    assert judged.figures["auroc"].method == "slide bootstrap (200 resamples)"
    assert (judged.protocol, judged.threshold, judged.threshold_source) == ("unknown", 0.5, "0.5, not chosen on valid")
    assert any("what these predictions were trained on is not known" in text for text in judged.warnings)
    assert judged.floor == {}
    written = json.loads((tmp_path / "out" / "judgement.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(judged.as_dict()))
    assert read_scores(tmp_path / "out" / "scores.parquet").table["id"].tolist() == store.rows["id"].tolist()
    assert (tmp_path / "out" / "figures" / "roc.svg").is_file()
    assert not (tmp_path / "out" / "unfinished.json").exists()
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    told = [str(theirs), str(place / "two.store"), "--out", str(tmp_path / "out")]
    assert f"{judged.figures['auroc'].estimate:.4f}" in page
    assert "No saliency: predictions came without the model" in page
    assert judged.record["command"] == [shlex.join(["sentinode", "evaluate", *told, "--resamples", "200"])]
    with pytest.raises(UsageProblem, match="a finished one"):
        evaluate(theirs, place / "two.store", out=tmp_path / "out", quiet=True)


def test_runs_on_other_slides_have_threshold_floor_and_a_clean_passport(place: Path, tmp_path: Path) -> None:
    runs = [place / "run0", place / "run1"]
    judged = evaluate(*runs, place / "two.store", out=tmp_path / "out", resamples=200, quiet=True)
    assert judged.protocol == "other slides"
    assert not judged.contaminated
    assert set(judged.floor) == {"auroc", "auroc_difference"}
    cuts = [json.loads((run / "model.json").read_text(encoding="utf-8"))["threshold"] for run in runs]
    logits = np.log(np.array(cuts) / (1 - np.array(cuts)))
    assert judged.threshold == pytest.approx(1 / (1 + np.exp(-logits.mean())))
    assert judged.threshold_source.startswith("mean in logit space of the 2 members' thresholds")
    assert [run["name"] for run in judged.record["runs"]] == ["run0", "run1"]
    assert judged.record["store"]["digest"] == open_store(place / "two.store").digest
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    for group in open_store(place / "two.store").rows["group"].unique():
        assert f'data-value="{group}"' in page
    assert "Saliency of tile" in page
    assert (tmp_path / "out" / "figures" / "mistakes.svg").is_file()


def test_stress_and_a_stated_aim_stand_in_the_judgement_and_on_the_page(place: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"resamples": 100, "stress": True, "sensitivity": 0.9, "mistakes": 0, "quiet": True}
    judged = evaluate(place / "run0", place / "two.store", out=tmp_path / "out", **options)
    assert judged.threshold_source == "sensitivity of at least 0.9 on valid"
    assert judged.stress["n"] == 160
    assert judged.stress["geometry"]["whole"] == pytest.approx(judged.figures["auroc"].estimate, abs=1e-9)
    assert {one["name"] for one in judged.stress["shifts"]} == {"stain", "blur", "brightness", "JPEG"}
    assert judged.abstention["cut"]["unit"] == "slides"
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    for said in (
        f"The model follows {judged.stress['geometry']['follows']}",
        "JPEG, quality 50",
        "asked for: 0.9",
        "None are shown",
    ):
        assert said in page


def test_training_tiles_on_the_test_side_are_counted_named_and_marked(place: Path, tmp_path: Path) -> None:
    judged = evaluate(place / "run0", place / "one.store", out=tmp_path / "out", resamples=200, mistakes=0, quiet=True)
    split = pd.read_parquet(place / "run0" / "split.parquet")
    assert judged.passport["exact"] == (split["part"] == "train").sum()
    assert judged.passport["chosen"] == (split["part"] == "valid").sum()
    assert judged.passport["examples"]["exact"][0] in set(split["id"])
    assert judged.protocol == "random tiles"
    assert judged.warnings[0].startswith("contaminated: ")
    assert any(line.startswith("auroc (contaminated)") for line in judged.lines())
    assert judged.as_dict()["figures"]["auroc"]["contaminated"] is True


def test_the_floor_can_come_from_a_store_or_a_run(place: Path, tmp_path: Path) -> None:
    theirs = predictions(open_store(place / "two.store"), tmp_path)
    for number, floor in enumerate((place / "one.store", place / "run0")):
        options: dict[str, Any] = {"floor": str(floor), "resamples": 100, "mistakes": 0, "quiet": True}
        judged = evaluate(theirs, place / "two.store", out=tmp_path / f"{number}", **options)
        assert 0 <= judged.floor["auroc"].estimate <= 1
    with pytest.raises(UsageProblem, match="a run or a store for --floor"):
        evaluate(theirs, place / "two.store", out=tmp_path / "x", floor=str(tmp_path / "none"), quiet=True)


def origin_protocol(place: Path, part: str) -> str:
    """Return the protocol of the given part of the first store, judged by a grouped split of it."""
    store = open_store(place / "one.store")
    split = with_passport(make_split(store.rows, "grouped", 0.4), store.tiles)
    at = split.rows_of(part)
    some = Store(store.path, store.tiles[at], store.rows.iloc[at].reset_index(drop=True), store.classes, "x", {})
    return origin_of([split], some).protocol


def test_protocols(place: Path) -> None:
    assert origin_protocol(place, "train") == "random tiles"
    assert origin_protocol(place, "valid") == "grouped"
    one, nameless = (open_store(place / f"{name}.store") for name in ("one", "nameless"))
    splits: list[Split] = [make_split(one.rows, "grouped", 0.4)]
    found = origin_of(splits, nameless)
    assert found.protocol == "unknown"
    assert any("shared ones cannot be excluded" in text for text in found.warnings)
    guessed = [make_split(one.rows.assign(group="pseudo-stain-" + one.rows["group"]), "grouped", 0.4)]
    other = nameless.rows.assign(group="pseudo-stain-1")
    again = origin_of(guessed, Store(nameless.path, nameless.tiles, other, nameless.classes, "x", {}))
    assert again.protocol == "unknown", "a pseudo-group is no slide, however it came into a store"


def test_scores_of_another_store_do_not_join(place: Path, tmp_path: Path) -> None:
    theirs = predictions(open_store(place / "one.store"), tmp_path)
    with pytest.raises(ScoresProblem, match="one score for each of the store's 160 tiles, by id; found 0 that join"):
        evaluate(theirs, place / "two.store", out=tmp_path / "out", quiet=True)


def test_labels_of_the_store_win_and_the_difference_is_said(place: Path, tmp_path: Path) -> None:
    store = open_store(place / "two.store")
    theirs = predictions(store, tmp_path, label=1 - store.rows["label"].to_numpy())
    judged = evaluate(theirs, place / "two.store", out=tmp_path / "out", resamples=100, mistakes=0, quiet=True)
    assert judged.figures["auroc"].estimate > 0.8
    assert "160 labels of the scores differ from the store's, which were used" in judged.warnings


def test_a_store_without_labels_cannot_judge(place: Path, tmp_path: Path) -> None:
    unlabelled = pack(place / "two" / "train", out=tmp_path / "u.store", quiet=True)
    theirs = predictions(unlabelled, tmp_path)
    with pytest.raises(UndefinedScore, match=r"labels in .*160 tiles without one") as caught:
        evaluate(theirs, tmp_path / "u.store", out=tmp_path / "out", quiet=True)
    assert "predict" in caught.value.do


def test_inputs_that_do_not_fit_are_refused(place: Path, tmp_path: Path) -> None:
    store, run = place / "two.store", place / "run0"
    theirs = predictions(open_store(store), tmp_path)
    cases: list[tuple[tuple[Path, ...], dict[str, Any], str]] = [
        ((store,), {}, "runs or one scores file, then the store"),
        ((run, theirs, store), {}, "runs only, or one scores file"),
        ((theirs, theirs, store), {}, "one scores file"),
        ((tmp_path / "none.csv", store), {}, "a run folder or a scores file"),
        ((theirs, store), {"views": 8}, "--views with runs"),
        ((theirs, store), {"resamples": 10}, "at least 100 resamples"),
        ((theirs, store), {"mistakes": -1}, "0 to 200 mistakes"),
        ((theirs, store), {"resample": 100}, "did you mean resamples"),
    ]
    for number, (inputs, options, said) in enumerate(cases):
        with pytest.raises(UsageProblem, match=said):
            evaluate(*inputs, out=tmp_path / f"out{number}", quiet=True, **options)


def reclassed(store: Path, to: Path, classes: list[str]) -> Path:
    """Copy a store and call its classes something else."""
    shutil.copytree(store, to)
    record = json.loads((to / "store.json").read_text("utf-8"))
    (to / "store.json").write_text(json.dumps(record | {"classes": classes}), "utf-8")
    return to


def test_classes_the_other_way_round_are_refused_and_other_names_are_said(place: Path, plain: Judgement, tmp_path: Path) -> None:
    turned = reclassed(place / "two.store", tmp_path / "turned.store", ["1", "0"])
    with pytest.raises(RunProblem, match=r"expected '1' as the positive class, as in .*run0'; found '0' in .*--positive '1'"):
        evaluate(place / "run0", turned, out=tmp_path / "out", resamples=100, quiet=True)
    named = reclassed(place / "two.store", tmp_path / "named.store", ["normal", "tumour"])
    judged = evaluate(place / "run0", named, out=tmp_path / "named", resamples=100, mistakes=0, quiet=True)
    said = "negative and positive are 'normal' and 'tumour' here, '0' and '1' in the run 'run0': taken as the same"
    assert said in judged.warnings
    assert not any("taken as the same" in warning for warning in plain.warnings)
    assert plain.figures == judged.figures


def test_a_notebook_shows_the_lines_and_not_the_insides(place: Path, plain: Judgement) -> None:
    store, run = open_store(place / "two.store"), load(place / "run0")
    assert repr(plain) == "\n".join(plain.lines())
    assert repr(run) == "\n".join(run.lines())
    assert repr(store).endswith("two.store': 160 tiles of 24 x 24")
    assert repr(info(store)) == "\n".join(info(store).lines())


def test_a_run_without_a_threshold_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text('{"threshold": 7}', encoding="utf-8")
    with pytest.raises(RunProblem, match=r"a threshold in \[0, 1\].*'7'"):
        threshold_of([tmp_path])
