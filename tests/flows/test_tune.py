"""A study: trials are what they would be alone, killed and resumed is uninterrupted, another study is refused."""

import dataclasses
import functools
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from sentinode.errors import MachineProblem, RunProblem, UsageProblem
from sentinode.fit.train import train
from sentinode.fit.trials import Watch, claimed
from sentinode.flows.tune import tune
from sentinode.nets.trained import load
from sentinode.settings import RECIPES, TrainSettings
from sentinode.tiles.arrays import store_of
from sentinode.tiles.store import Store
from sentinode.tiles.synth import synthesise

FAST: dict[str, Any] = {"epochs": 2, "precision": "fp32", "split": "random", "quiet": True}
GRID = {"lr": [1e-3, 1e-2], "batch": [8, 16]}
KEPT = ["number", "state", "valid_auroc", "valid_loss", "epochs"]


@functools.cache
def tissue() -> Store:
    made = synthesise(8, 16, px=24, difficulty=0.0, seed=3)
    return store_of(made.tiles, made.labels, made.groups)


class Formula:
    """Trials that cost nothing: scores that are better the nearer lr is to 3e-3; it counts, and can be killed."""

    def __init__(self, dies_at: int = -1) -> None:
        self.ran: list[int] = []
        self.about: dict[str, Any] = {}
        self.dies_at = dies_at

    def run(self, number: int, settings: TrainSettings, watch: Watch) -> tuple[Any, dict[str, Any]]:
        self.ran.append(number)
        if settings.lr > 1:
            raise RunProblem("a training that stays finite", "one that does not", "lower --lr")
        far = abs(np.log10(settings.lr / 3e-3)) + settings.batch / 1000
        for epoch in range(1, 6):
            if number == self.dies_at and epoch == 2:
                raise KeyboardInterrupt
            watch(epoch, 0.9 - 0.1 * far + 0.001 * epoch)
        labels = tissue_labels()
        scores = labels - far * np.random.default_rng(number).normal(size=labels.size)
        return scores.astype(np.float32), {"auroc": 0.9 - 0.1 * far, "loss": far, "epochs": 5}

    def write_best(self, number: int, settings: TrainSettings, folder: Path) -> None:
        folder.mkdir()
        (folder / "run.json").write_text(json.dumps({"number": number, "lr": settings.lr}), "utf-8")

    def discard(self, number: int) -> None:
        """Nothing is left."""


def tissue_labels() -> Any:
    from sentinode.fit.parts import choose_parts

    store, rows = choose_parts(tissue(), None, TrainSettings(split="random")).valid
    return store.rows["label"].to_numpy()[rows].astype(float)


@pytest.fixture
def formula(monkeypatch: pytest.MonkeyPatch) -> Formula:
    made = Formula()
    monkeypatch.setattr("sentinode.flows.tune.Trainings", lambda *_: made)
    return made


def table(study: Path) -> pd.DataFrame:
    return pd.read_csv(study / "trials.csv").drop(columns="seconds")


def test_a_grid_of_trainings_holds_what_each_would_be_alone(tmp_path: Path) -> None:
    study = tune(tissue(), out=tmp_path / "study", grid={"lr": [1e-3, 1e-2]}, **FAST)
    assert {path.name for path in (tmp_path / "study").iterdir()} == {
        *("best", "trials", "trials.csv", "search.svg", "search.png", "study.json"),
    }
    alone = [train(tissue(), out=tmp_path / str(lr), lr=lr, **FAST).record["valid"]["auroc"] for lr in (1e-3, 1e-2)]
    assert [trial.auroc for trial in study.trials] == alone
    best = load(tmp_path / "study" / "best")
    assert best.record["valid"]["auroc"] == max(alone) == study.record["best"]["auroc"]
    valid = pd.read_parquet(tmp_path / "study" / "best" / "valid.parquet")
    kept = np.load(tmp_path / "study" / "trials" / f"{study.record['best']['number']:04d}.npy")
    assert roc_auc_score(valid["label"], kept) == pytest.approx(max(alone), abs=1e-9)
    assert len(best.predict_proba(tissue().tiles[:3])) == 3


def test_a_killed_grid_goes_on_to_the_same_table(tmp_path: Path, formula: Formula) -> None:
    whole = tune(tissue(), out=tmp_path / "whole", grid=GRID, **FAST)
    formula.ran.clear()
    formula.dies_at = 2
    with pytest.raises(KeyboardInterrupt):
        tune(tissue(), out=tmp_path / "killed", grid=GRID, **FAST)
    assert not (tmp_path / "killed" / "study.json").exists()
    formula.dies_at = -1
    resumed = tune(tissue(), out=tmp_path / "killed", grid=GRID, resume=True, **FAST)
    assert formula.ran == [0, 1, 2, 2, 3]
    pd.testing.assert_frame_equal(table(tmp_path / "whole"), table(tmp_path / "killed"), check_exact=True)
    assert resumed.record["optimism"] == whole.record["optimism"]
    assert resumed.record["best"]["options"] == {"lr": 1e-3, "batch": 8}


def test_killed_trials_of_a_sampler_are_run_again_to_the_same_table(tmp_path: Path, formula: Formula) -> None:
    tune(tissue(), out=tmp_path / "whole", trials=14, **FAST)
    for number in (0, 9):
        formula.dies_at = number
        with pytest.raises(KeyboardInterrupt):
            tune(tissue(), out=tmp_path / "killed", trials=14, resume=number > 0, **FAST)
    formula.dies_at = -1
    study = tune(tissue(), out=tmp_path / "killed", trials=14, resume=True, **FAST)
    pd.testing.assert_frame_equal(table(tmp_path / "whole"), table(tmp_path / "killed"), check_exact=True)
    assert [trial.number for trial in study.trials] == list(range(14))
    recipe = {name: study.trials[0].options[name] for name in ("lr", "batch")}
    assert recipe == {name: RECIPES["scratch"][name] for name in recipe}  # the recipe itself is the first
    assert 0 < study.record["ended"]["pruned"] < 14
    assert study.record["ended"]["done"] + study.record["ended"]["pruned"] == 14


def test_more_trials_may_be_asked_of_a_finished_study(tmp_path: Path, formula: Formula) -> None:
    tune(tissue(), out=tmp_path / "study", trials=2, **FAST)
    assert len(tune(tissue(), out=tmp_path / "study", trials=4, resume=True, **FAST).trials) == 4
    assert formula.ran == [0, 1, 2, 3]
    assert len(tune(tissue(), out=tmp_path / "study", trials=3, resume=True, **FAST).trials) == 4
    assert formula.ran == [0, 1, 2, 3]


def test_a_database_holds_a_study_and_its_trials_are_known_elsewhere(tmp_path: Path, formula: Formula) -> None:
    options = FAST | {"storage": f"sqlite:///{(tmp_path / 'study.db').as_posix()}", "trials": 3}
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    tune(tissue(), out=tmp_path / "one" / "study", **options)
    study = tune(tissue(), out=tmp_path / "two" / "study", **options)
    assert len(study.trials) == 3
    assert study.record["best"]["auroc"] == max(trial.auroc or 0 for trial in study.trials)
    assert (tmp_path / "two" / "study" / "best" / "run.json").exists()
    with pytest.raises(MachineProblem, match=r"expected a database at 'nowhere://x'; found .*; mend --storage"):
        tune(tissue(), out=tmp_path / "three", **options | {"storage": "nowhere://x"})


def test_a_trial_that_another_process_holds_is_left_to_it(tmp_path: Path, formula: Formula) -> None:
    held = tmp_path / "study" / "trials" / "0001.lock"
    held.parent.mkdir(parents=True)
    script = "import sys, time\nfrom pathlib import Path\nfrom sentinode.fit.trials import claimed\n"
    script += "with claimed(Path(sys.argv[1])) as mine:\n    print(mine, flush=True)\n    time.sleep(60)\n"
    with subprocess.Popen([sys.executable, "-c", script, str(held)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == "True"
        (tmp_path / "study" / "trials").rename(tmp_path / "aside")
        (tmp_path / "study").rmdir()
        formula.dies_at = 0
        with pytest.raises(KeyboardInterrupt):
            tune(tissue(), out=tmp_path / "study", grid=GRID, **FAST)
        (tmp_path / "aside" / "0001.lock").rename(held)
        formula.dies_at = -1
        part = tune(tissue(), out=tmp_path / "study", grid=GRID, resume=True, **FAST)
        assert [trial.number for trial in part.trials] == [0, 2, 3]
        assert "other processes are still at work" in part.lines()[-1]
        other.kill()
    deadline = time.monotonic() + 20
    while not part.record and time.monotonic() < deadline:
        part = tune(tissue(), out=tmp_path / "study", grid=GRID, resume=True, **FAST)
    assert [trial.number for trial in part.trials] == [0, 1, 2, 3]
    assert not list((tmp_path / "study" / "trials").glob("*.lock"))


def test_a_lock_is_free_again_when_let_go(tmp_path: Path) -> None:
    with claimed(tmp_path / "a.lock") as first, claimed(tmp_path / "a.lock") as second:
        assert (first, second) == (True, False)
    with claimed(tmp_path / "a.lock") as again:
        assert again


def test_trials_that_fail_are_told_and_the_others_count(tmp_path: Path, formula: Formula) -> None:
    study = tune(tissue(), out=tmp_path / "study", grid={"lr": [1e-3, 5.0]}, **FAST)
    assert [trial.state for trial in study.trials] == ["done", "failed"]
    assert "a training that stays finite" in table(tmp_path / "study")["note"][1]
    with pytest.raises(RunProblem, match=r"a trial that ends well; found none of 2: .*; change what all"):
        tune(tissue(), out=tmp_path / "bad", grid={"lr": [5.0, 6.0]}, **FAST)


def test_the_terminals_table_is_bounded(tmp_path: Path, formula: Formula) -> None:
    study = tune(tissue(), out=tmp_path / "study", grid={"lr": [i / 1000 for i in range(1, 26)]}, **FAST)
    lines = study.lines()
    assert len(lines) < 30
    assert "5 more in trials.csv" in "\n".join(lines)
    assert lines[1].split()[1] == "0.003"
    assert max(map(len, lines[:20])) < 100
    assert dataclasses.asdict(study.trials[0])["options"] == {"lr": 0.001}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"grid": {"lr": [1e-3, 2e-2], "batch": [8, 16]}},
            r"search that .*study' was started with; found lr .*in the grid; resume",
        ),
        ({"grid": GRID, "epochs": 3}, r"found epochs '3', not '2'; resume with the same command"),
        ({"trials": 4}, r"found lr 'absent', not .* in the grid"),
    ],
)
def test_another_study_is_refused(tmp_path: Path, formula: Formula, options: dict[str, Any], message: str) -> None:
    tune(tissue(), out=tmp_path / "study", grid=GRID, **FAST)
    with pytest.raises(UsageProblem, match=message):
        tune(tissue(), out=tmp_path / "study", resume=True, **FAST | options)
    with pytest.raises(UsageProblem, match=r"a new folder .* found a finished one; .*--overwrite"):
        tune(tissue(), out=tmp_path / "study", grid=GRID, **FAST)
    other = store_of(tissue().tiles[::-1], tissue().rows["label"].to_numpy()[::-1])
    with pytest.raises(UsageProblem, match=r"found other tiles"):
        tune(other, out=tmp_path / "study", grid=GRID, resume=True, **FAST)
    assert formula.ran == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"expected --grid or --trials; found neither; write"),
        ({"grid": ["lr=1"], "trials": 3}, r"--grid or --trials; found both"),
        ({"trials": 0}, r"trials of at least 1; found 0; change --trials"),
        ({"grid": ["lr=1"], "storage": "sqlite://"}, r"--storage for --trials; found a grid"),
        ({"grid": ["lr=-1"]}, r"lr between 0 and 100; found -1"),
        ({"grid": ["seed=1,2"]}, r"found a grid over seed"),
        ({"trials": 3, "epohcs": 2}, r"found 'epohcs'; did you mean epochs"),
    ],
)
def test_what_cannot_be_searched_leaves_no_folder(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageProblem, match=message):
        tune(tissue(), out=tmp_path / "study", **options)
    assert list(tmp_path.iterdir()) == []


def test_optuna_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MachineProblem, match=r"expected optuna.*; found no such package; pip install 'sentinode\[search\]'"):
        tune(tissue(), out=tmp_path / "study", trials=3)
    assert list(tmp_path.iterdir()) == []
