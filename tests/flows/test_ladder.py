"""The ladder: one split for all rungs, verdicts by their rule, nothing lost when killed, one line for what does not fit."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from sentinode.errors import MachineProblem, SentinodeError, SplitProblem, StoreProblem, UndefinedScore, UsageProblem
from sentinode.fit.checkpoint import Interruption
from sentinode.flows.ladder import Ladder, ladder
from sentinode.flows.rungs import CLOCK, SAMPLED, chosen_rungs, settings_of
from sentinode.flows.verdicts import verdict_of
from sentinode.judge.statement import Figure
from sentinode.nets.trained import load
from sentinode.scores import read_scores
from sentinode.settings import RUNGS, LadderSettings
from sentinode.tiles.pack import pack
from sentinode.tiles.store import open_store
from sentinode.tiles.synth import synthesise, write_kaggle_folder

FAST: dict[str, Any] = {
    "epochs": 2,
    "precision": "fp32",
    "batch": 16,
    "lr": 0.01,
    "resamples": 100,
    "rungs": "floor,simple-cnn",
    "study": False,
    "quiet": True,
}
TIMES = {"minutes", "train_tiles_per_s", "predict_tiles_per_s", "cost", "machine", "command"}


def packed(folder: Path, name: str, seed: int, px: int = 32) -> Path:
    write_kaggle_folder(folder / name, synthesise(8, 16, px=px, difficulty=0.3, seed=seed))
    return pack(folder / name, out=folder / f"{name}.store", groups=str(folder / name / "slides.csv"), quiet=True).path


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("stores")
    return packed(folder, "first", 3), packed(folder, "other", 4)


@pytest.fixture(scope="module")
def climbed(stores: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Ladder:
    out = tmp_path_factory.mktemp("ladder") / "out"
    return ladder(stores[0], out=out, test=stores[1], **FAST | {"study": True, "resamples": 2000})


def lasting(value: Any) -> Any:
    """Return a result without what the clock decides."""
    if isinstance(value, dict):
        return {name: lasting(one) for name, one in value.items() if name not in TIMES}
    return [lasting(one) for one in value] if isinstance(value, list) else value


def test_every_rung_has_the_same_validation_tiles(climbed: Ladder, stores: tuple[Path, Path]) -> None:
    rungs = climbed.out / "rungs"
    splits = [pd.read_parquet(path) for path in sorted(rungs.glob("*/split.parquet"))]
    chose = [set(split.loc[split["part"] == "valid", "id"]) for split in splits]
    trained = [set(split.loc[split["part"] == "train", "id"]) for split in splits]
    assert len(splits) == 2
    assert chose[0] == chose[1]
    assert trained[1] < trained[0], "the 5 % sample is drawn from the tiles that train"
    for name in ("floor", "simple-cnn"):
        assert set(read_scores(climbed.out / "scores" / f"{name}-valid.parquet").table["id"]) == chose[0]
        judged = set(read_scores(climbed.out / "scores" / f"{name}-test.parquet").table["id"])
        assert judged == set(open_store(stores[1]).rows["id"])
        assert not judged & (chose[0] | trained[0])


def test_figures_are_those_of_the_scores_that_are_kept(climbed: Ladder) -> None:
    tables = {}
    for row in climbed.values["rungs"]:
        for part in ("valid", "test"):
            table = read_scores(climbed.out / "scores" / f"{row['name']}-{part}.parquet").table
            tables[row["name"], part] = roc_auc_score(table["label"], table["logit"])
            assert row[part]["estimate"] == pytest.approx(tables[row["name"], part], abs=1e-12)
            assert row[part]["low"] <= row[part]["estimate"] <= row[part]["high"] or row[part]["n_groups"] < 5
    difference = climbed.values["rungs"][1]["difference"]
    assert difference["on"] == "test"
    assert difference["estimate"] == pytest.approx(tables["simple-cnn", "test"] - tables["floor", "test"], abs=1e-12)


def test_a_run_scores_its_validation_tiles_as_training_did(climbed: Ladder) -> None:
    ours = read_scores(climbed.out / "scores" / "simple-cnn-valid.parquet").table.set_index("id")["logit"]
    theirs = read_scores(climbed.out / "rungs" / "simple-cnn" / "valid.parquet").table.set_index("id")["logit"]
    assert np.abs(ours - theirs.loc[ours.index]).max() < 1e-5


def test_what_it_cost_is_there_and_the_files_agree(climbed: Ladder) -> None:
    floor, cnn = climbed.values["rungs"]
    assert cnn["weights"] == sum(p.numel() for p in load(climbed.out / "rungs" / "simple-cnn").model.parameters())
    assert cnn["megabytes"] == (climbed.out / "rungs" / "simple-cnn" / "model.safetensors").stat().st_size / 1e6
    assert min(cnn["minutes"], cnn["train_tiles_per_s"], cnn["predict_tiles_per_s"], floor["minutes"]) > 0
    assert json.loads((climbed.out / "ladder.json").read_text("utf-8")) == climbed.values
    with (climbed.out / "ladder.csv").open(encoding="utf-8", newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["floor", "simple-cnn"]
    assert (climbed.out / "ladder.html").is_file()
    assert {path.name for path in (climbed.out / "figures").iterdir()} == {"ladder.svg", "ladder.png"}
    assert not (climbed.out / "unfinished.json").exists()


def test_the_studys_table_stands_beside_ours(climbed: Ladder) -> None:
    trained, sampled = (
        json.loads((climbed.out / "rungs" / name / "run.json").read_text("utf-8"))["data"]["train"]["n"]
        for name in ("simple-cnn", SAMPLED)
    )
    assert sampled < trained
    assert [(row["auc"], row["ours"]) for row in climbed.values["study"]] == [
        (0.9365, f"simple CNN, simple-cnn with a dense head, {trained:,} tiles"),
        (0.93, f"simple CNN, 5 % sample, simple-cnn with a dense head, {sampled:,} tiles"),
    ]
    assert any("0.9365" in line for line in climbed.lines())


def test_a_finished_ladder_is_opened_and_another_one_refused(climbed: Ladder, stores: tuple[Path, Path]) -> None:
    again = ladder(stores[0], out=climbed.out, test=stores[1], resume=True, **FAST | {"study": True, "resamples": 2000})
    assert again.values == climbed.values
    for test, changes, found in (
        (stores[1], {"epochs": 3}, "epochs '3', not '2'"),
        (None, {}, "another test store"),
    ):
        with pytest.raises(UsageProblem) as caught:
            ladder(stores[0], out=climbed.out, test=test, resume=True, **FAST | {"study": True, "resamples": 2000} | changes)
        assert "was started with" in caught.value.expected
        assert caught.value.found == found
        assert "--overwrite" in caught.value.do


def stopped_at(place: str, patch: pytest.MonkeyPatch) -> None:
    """Make the next ladder end as by a signal, at a place on its way."""

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    if place == "training":
        patch.setattr(Interruption, "asked", True, raising=False)
        patch.setattr(Interruption, "__init__", lambda _self: None)
    else:
        patch.setattr(place, stop)


def test_stopped_anywhere_it_goes_on_to_the_same_ladder(
    climbed: Ladder, stores: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def go_on() -> Ladder:
        return ladder(stores[0], out=tmp_path / "out", test=stores[1], resume=True, **FAST | {"study": True, "resamples": 2000})

    places = ("rungs.keep_floor_sample", "rungs.load_floor", "training", "rungs.scored", "ladder.climb", "ladder.write_ladder")
    for place in places:
        with monkeypatch.context() as patch:
            stopped_at(place if place == "training" else f"sentinode.flows.{place}", patch)
            with pytest.raises(KeyboardInterrupt):
                go_on()
        assert not (tmp_path / "out" / "ladder.json").exists()
    with pytest.raises(UsageProblem) as caught:
        ladder(stores[0], out=tmp_path / "out", test=stores[1], **FAST)
    assert (caught.value.found, "--resume" in caught.value.do) == ("unfinished work", True)
    ours, theirs = lasting(climbed.values), lasting(go_on().values)
    for name in ("rungs", "study", "judged", "stores", "protocol", "warnings"):
        assert ours[name] == theirs[name], name
    weights = Path("rungs") / "simple-cnn" / "model.safetensors"
    assert (climbed.out / weights).read_bytes() == (tmp_path / "out" / weights).read_bytes()


def test_without_a_test_store_it_says_that_what_judges_also_chose(stores: tuple[Path, Path], tmp_path: Path) -> None:
    got = ladder(stores[0], out=tmp_path / "out", **FAST)
    assert got.values["rungs"][1]["difference"]["on"] == "valid"
    assert "verdicts rest on the tiles that chose" in got.values["warnings"][0]
    assert "test" not in got.values["rungs"][0]


def test_test_tiles_that_trained_are_told_first(
    stores: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    got = ladder(stores[0], out=tmp_path / "out", test=stores[0], **FAST | {"quiet": False, "rungs": "floor"})
    assert got.values["contaminated"]
    assert "contaminat" in got.values["warnings"][0].lower()
    assert "contaminat" in capsys.readouterr().err.splitlines()[0].lower()
    assert "contaminat" in got.lines()[0].lower()


def one_class(folder: Path) -> Path:
    tissue = synthesise(4, 8, px=32, seed=5)
    write_kaggle_folder(folder / "one", tissue)
    labels = pd.read_csv(folder / "one" / "train_labels.csv", dtype={"id": str})
    labels.assign(label=0).iloc[:-1].to_csv(folder / "one" / "train_labels.csv", index=False)
    labels.iloc[[0]].assign(id=labels["id"].iloc[-1], label=1).to_csv(
        folder / "one" / "train_labels.csv", index=False, mode="a", header=False
    )
    return pack(folder / "one", out=folder / "one.store", quiet=True).path


def test_stores_that_do_not_fit_are_told_before_anything_trains(stores: tuple[Path, Path], tmp_path: Path) -> None:
    small, lonely = packed(tmp_path, "small", 6, px=24), one_class(tmp_path)
    cases: list[tuple[Path, Path, type[SentinodeError], str]] = [
        (stores[0], small, StoreProblem, "24 px"),
        (stores[0], lonely, UndefinedScore, "1 positive and 31 negative"),
        (lonely, stores[1], SplitProblem, "positive"),
    ]
    for first, test, kind, found in cases:
        with pytest.raises(kind) as caught:
            ladder(first, out=tmp_path / "out", test=test, **FAST)
        assert found in caught.value.found
        assert caught.value.expected
        assert caught.value.do
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "found", "do"),
    [
        ({"rungs": "floor,simple-cn"}, "'simple-cn'", "did you mean simple-cnn"),
        ({"rungs": ""}, "none", "--rungs"),
        ({"rungs": "simple-cnn,ensemble"}, "an ensemble of fewer than two", "--rungs"),
        ({"rungs": "floor,ensemble", "members": "test_vit"}, "an ensemble of fewer than two", "--members"),
        ({"members": "test_vit"}, "no such rung", "ensemble"),
        ({"rungs": "simple-cnn,ensemble", "members": "test_vit@big"}, "'test_vit@big'", "--members"),
        ({"rungs": "simple-cnn,ensemble", "members": "test_vit@0"}, "'test_vit@0'", "--members"),
        ({"rungs": "simple-cnn,ensemble", "members": "p4m-cnn"}, "'p4m-cnn'", "--rungs"),
        (
            {"rungs": "simple-cnn,ensemble", "members": "test_vit,test_vit"},
            "'fine-tuned test_vit', which is named before",
            "--members",
        ),
        (
            {"rungs": "finetune,ensemble", "model": "test_vit", "input_size": 64, "members": "test_vit@64"},
            "'fine-tuned test_vit at 64 px', which is the fine-tuned rung",
            "--members",
        ),
        ({"rungs": "simple-cnn,ensemble", "members": "tf_efficientnet_lit1"}, "'tf_efficientnet_lit1'", "tf_efficientnet_lite1"),
        ({"resamples": 5}, "5", "--resamples"),
        ({"backbone": "frozen"}, "--backbone frozen", "--rungs floor,frozen,finetune"),
        ({"epohcs": 5}, "'epohcs'", "did you mean epochs?"),
    ],
)
def test_wishes_that_cannot_be_meant_are_told(
    stores: tuple[Path, Path], tmp_path: Path, changes: dict[str, Any], found: str, do: str
) -> None:
    with pytest.raises(UsageProblem) as caught:
        ladder(stores[0], out=tmp_path / "out", **FAST | changes)
    assert caught.value.found == found
    assert do in caught.value.do
    assert not (tmp_path / "out").exists()


def test_rungs_come_in_their_order_and_once() -> None:
    assert chosen_rungs(" simple-cnn, floor,floor") == ("floor", "simple-cnn")
    assert chosen_rungs(LadderSettings().rungs) == RUNGS


def test_memory_that_is_too_small_for_the_ladder_itself_is_told(
    stores: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 8.00 PiB for an array")

    monkeypatch.setattr("sentinode.flows.ladder.choose_parts", full)
    with pytest.raises(MachineProblem, match=r"expected memory enough for the work; found 8.00 PiB asked for at once"):
        ladder(stores[0], out=tmp_path / "ladder", **FAST)
    assert list(tmp_path.iterdir()) == []


def test_a_frozen_rung_gets_no_minutes_which_its_training_would_refuse() -> None:
    settings = LadderSettings(minutes=22.0)
    assert settings_of("frozen", settings, ["frozen", "finetune"]).minutes is None


def test_minutes_are_divided_by_the_rule_and_none_are_lost() -> None:
    settings = LadderSettings(minutes=22.0)
    trained = ["simple-cnn", "p4m-cnn", "frozen", "finetune", SAMPLED]
    given = {name: settings_of(name, settings, trained).minutes for name in trained}
    assert given.pop("frozen") is None
    assert given == {name: pytest.approx(2.0 * parts) for name, parts in CLOCK.items()}
    assert settings_of("finetune", settings, ["finetune"]).minutes == 22.0
    assert settings_of("simple-cnn", LadderSettings(epochs=3), trained).minutes is None


@pytest.mark.parametrize(("low", "high", "word"), [(0.01, 0.02, "worth it"), (-0.02, -0.01, "worse"), (-0.1, 0.1, "no better")])
def test_a_verdict_follows_the_interval(low: float, high: float, word: str) -> None:
    assert verdict_of(Figure("auroc_difference", (low + high) / 2, low, high, "", 9, 3)) == word
