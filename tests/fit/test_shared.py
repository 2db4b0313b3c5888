"""Trials that share features: each is what it would be alone, the best is a run, idle settings are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sentinode.errors import UsageProblem
from sentinode.fit.frozen import fitted_head
from sentinode.fit.shared import check_read
from sentinode.fit.train import train
from sentinode.flows.tune import tune
from sentinode.nets.trained import load
from sentinode.run import read_json
from sentinode.settings import TrainSettings
from sentinode.tiles.store import Store, open_store
from sentinode.tiles.synth import synthesise, write_kaggle_folder

FROZEN: dict[str, Any] = {"backbone": "frozen", "input_size": 32, "epochs": 3, "head": "linear", "split": "random", "quiet": True}
GRID = {"lr": [1e-3, 1e-2], "batch": [16, 32]}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    from sentinode.tiles.pack import pack

    folder = tmp_path_factory.mktemp("shared")
    write_kaggle_folder(folder / "kaggle", synthesise(6, 16, px=32, seed=3))
    pack(folder / "kaggle", out=folder / "s.store", quiet=True)
    return open_store(folder / "s.store")


def table(study: Path) -> pd.DataFrame:
    return pd.read_csv(study / "trials.csv").drop(columns="seconds")


def test_a_trial_in_a_grid_is_the_trial_alone(store: Store, tmp_path: Path) -> None:
    study = tune(store, out=tmp_path / "study", grid=GRID, **FROZEN)
    assert len(study.record["about"]["extractions"]) == 1
    for trial in study.trials[2:3]:
        alone = tune(store, out=tmp_path / f"alone{trial.number}", grid={k: [v] for k, v in trial.options.items()}, **FROZEN)
        assert (alone.trials[0].auroc, alone.trials[0].loss) == (trial.auroc, trial.loss)
        run = train(store, out=tmp_path / f"run{trial.number}", **FROZEN | trial.options)
        assert run.record["valid"]["auroc"] == trial.auroc


def test_the_best_is_a_run_like_any_other(store: Store, tmp_path: Path) -> None:
    study = tune(store, out=tmp_path / "study", grid={"head": ["logistic", "mlp"], "balance": [True, False]}, **FROZEN)
    best = study.record["best"]
    run = load(tmp_path / "study" / "best")
    assert run.record["settings"]["head"] == best["options"]["head"]
    valid = pd.read_parquet(tmp_path / "study" / "best" / "valid.parquet")
    kept = np.load(tmp_path / "study" / "trials" / f"{best['number']:04d}.npy")
    np.testing.assert_allclose(valid["logit"], kept, atol=1e-5)
    rows = store.rows["id"].astype(str).isin(valid["id"].astype(str)).to_numpy()
    again = pd.Series(run.logits(np.array(store.tiles[rows])), index=store.rows.loc[rows, "id"].astype(str))
    np.testing.assert_allclose(again[valid["id"].astype(str)], valid["logit"], atol=2e-3)
    assert not (tmp_path / "study" / "best" / "unfinished.json").exists()


@pytest.mark.parametrize("search", [{"grid": GRID}, {"trials": 12}])
def test_killed_and_resumed_is_uninterrupted(
    store: Store, tmp_path: Path, search: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tune(store, out=tmp_path / "whole", **search, **FROZEN)
    left = [3]

    def dying(*arguments: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return fitted_head(*arguments)

    monkeypatch.setattr("sentinode.fit.shared.fitted_head", dying)
    with pytest.raises(KeyboardInterrupt):
        tune(store, out=tmp_path / "killed", **search, **FROZEN)
    monkeypatch.setattr("sentinode.fit.shared.fitted_head", fitted_head)
    resumed = tune(store, out=tmp_path / "killed", resume=True, **search, **FROZEN)
    pd.testing.assert_frame_equal(table(tmp_path / "whole"), table(tmp_path / "killed"), check_exact=True)
    assert resumed.record["optimism"] == whole.record["optimism"]
    first, second = ((tmp_path / name / "best" / "model.safetensors").read_bytes() for name in ("whole", "killed"))
    assert first == second
    assert read_json(tmp_path / "killed" / "study.json")["about"]["extractions"][0]["cached"]


@pytest.mark.parametrize(
    ("grid", "head", "message"),
    [
        ({"lr": [1, 2]}, "logistic", r"that the head logistic on a frozen network reads; found lr, which .*; add --head linear"),
        ({"dropout": [0.1, 0.2]}, "linear", r"found dropout, which it does not; add --head mlp"),
        ({"colour": [0.1, 0.2]}, "mlp", r"found colour, .*; leave it out of the grid, or use --backbone finetune"),
        ({"lr": [1, 2], "head": ["logistic"]}, "linear", r"the head logistic .* found lr"),
    ],
)
def test_a_grid_that_changes_nothing_is_refused(grid: dict[str, Any], head: Any, message: str) -> None:
    with pytest.raises(UsageProblem, match=message):
        check_read(grid, TrainSettings(head=head))
    check_read({"lr": [1.0], "head": ["logistic", "mlp"], "model": ["a", "b"]}, TrainSettings())
