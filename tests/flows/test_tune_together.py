"""Several processes, machines and studies: each trial is run once, one result is written, and no two studies share trials."""

import dataclasses
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sentinode.errors import MachineProblem, UsageProblem
from sentinode.fit.sampler import Sampled, open_storage, space_of, where_kept
from sentinode.flows.tune import tune
from sentinode.nets.trained import load
from sentinode.run import read_json
from sentinode.settings import TrainSettings, resolved
from sentinode.tiles.pack import pack
from sentinode.tiles.synth import synthesise, write_kaggle_folder
from tests.flows.test_tune import FAST, GRID, Formula, tissue

PROCESS = r"""
import json, sys, time
from pathlib import Path
from sentinode.fit import record
from sentinode.fit.trials import Trainings
from sentinode.flows.tune import tune

record.convolution_peak = lambda *_: 1e11  # which takes a second to measure
folder, name, searches = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
run = Trainings.run

def noted(self, number, settings, watch):
    with (folder / f"{kind}.ran").open("a") as file:
        file.write(f"{number} {name}\n")
    return run(self, number, settings, watch)

Trainings.run = noted
shared = {"epochs": 1, "precision": "fp32", "split": "random", "quiet": True, "resume": True}
for kind, search in searches.items():
    (folder / f"{kind}.{name}.ready").touch()
    while len(list(folder.glob(f"{kind}.*.ready"))) < 2:
        time.sleep(0.01)
    study = tune(folder / "s.store", out=folder / kind, **shared, **search)
    print(kind, len(study.trials), bool(study.record))
"""


@pytest.fixture
def formula(monkeypatch: pytest.MonkeyPatch) -> Formula:
    made = Formula()
    monkeypatch.setattr("sentinode.flows.tune.Trainings", lambda *_: made)
    return made


SEARCHES: dict[str, dict[str, Any]] = {
    "drawn": {"trials": 6},
    "grid": {"grid": {"lr": [1e-3, 2e-3, 3e-3], "batch": [16, 32]}},
}


def test_two_processes_on_one_study_run_each_trial_once(tmp_path: Path) -> None:
    """The same two processes meet on two studies: starting them takes longer than the studies."""
    write_kaggle_folder(tmp_path / "kaggle", synthesise(6, 16, px=24, seed=3))
    pack(tmp_path / "kaggle", out=tmp_path / "s.store", quiet=True)
    words = [[sys.executable, "-c", PROCESS, str(tmp_path), name, json.dumps(SEARCHES)] for name in ("one", "two")]
    both = [subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for line in words]
    told = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    for kind in SEARCHES:
        assert f"{kind} 6 True" in {line for out, _ in told for line in out.splitlines()}
        check_study(tmp_path / kind, tmp_path / f"{kind}.ran")


def check_study(study: Path, noted: Path) -> None:
    """Check that both processes ran trials, each of them once, and that one result of all is there."""
    ran = [line.split() for line in noted.read_text("utf-8").splitlines()]
    assert sorted(int(number) for number, _ in ran) == list(range(6))
    assert {name for _, name in ran} == {"one", "two"}
    table = pd.read_csv(study / "trials.csv")
    assert list(table["number"]) == list(range(6))
    drawn = table.drop(columns=["number", "state", "valid_auroc", "valid_loss", "epochs", "seconds", "note"])
    assert not drawn.duplicated().any()
    best = read_json(study / "study.json")["best"]
    assert load(study / "best").record["valid"]["auroc"] == best["auroc"] == table["valid_auroc"].max()
    left = {path.name for path in study.iterdir()} - {"journal.log"}
    assert left == {"best", "trials", "trials.csv", "search.svg", "search.png", "study.json"}


def test_two_that_end_together_write_one_result(tmp_path: Path, formula: Formula, monkeypatch: pytest.MonkeyPatch) -> None:
    write, wrote = formula.write_best, [0]
    others: list[threading.Thread] = []

    def slow(number: int, settings: TrainSettings, folder: Path) -> None:
        wrote[0] += 1
        if not others:
            join: dict[str, Any] = {"grid": GRID, "resume": True} | FAST
            others.append(threading.Thread(target=lambda: tune(tissue(), out=tmp_path / "study", **join)))
            others[0].start()
            time.sleep(0.5)
        write(number, settings, folder)

    monkeypatch.setattr(formula, "write_best", slow)
    study = tune(tissue(), out=tmp_path / "study", grid=GRID, **FAST)
    others[0].join()
    assert wrote == [1]
    assert read_json(tmp_path / "study" / "study.json") == study.record
    assert (tmp_path / "study" / "best" / "run.json").exists()
    assert not (tmp_path / "study" / "unfinished.json").exists()


def test_processes_that_draw_at_the_same_moment_draw_differently(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = resolved(TrainSettings())
    space, storage = space_of(settings, ()), open_storage(tmp_path, None)
    facts = {"settings": dataclasses.asdict(settings), "space": space}
    one, two = (Sampled(storage, "study", facts, space, settings) for _ in range(2))
    one.draw()
    ask, drawn = one.study.ask, []

    def asked(*words: Any) -> Any:
        drawn.append(two.draw()[1])
        return ask(*words)

    monkeypatch.setattr(one.study, "ask", asked)
    drawn.append(one.draw()[1])
    assert drawn[0].keys() == drawn[1].keys()
    assert not [name for name in ("lr", "weight_decay", "dropout", "colour") if drawn[0][name] == drawn[1][name]]


def test_studies_of_one_name_in_a_database_do_not_share_trials(tmp_path: Path, formula: Formula) -> None:
    url = f"sqlite:///{(tmp_path / 'study.db').as_posix()}"
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    tune(tissue(), out=tmp_path / "one" / "study", storage=url, trials=3, **FAST)
    with pytest.raises(
        UsageProblem, match=r"search that 'study' in 'sqlite:.*' was started with; found epochs '3', not '2'; run the"
    ):
        tune(tissue(), out=tmp_path / "two" / "study", storage=url, trials=3, **FAST | {"epochs": 3})
    assert not list((tmp_path / "two").iterdir())
    formula.ran.clear()
    other = tune(tissue(), out=tmp_path / "two" / "other", storage=url, trials=2, **FAST | {"epochs": 3})
    assert (formula.ran, len(other.trials)) == ([0, 1], 2)
    # What belongs to a machine does not part a study from itself.
    joined = tune(tissue(), out=tmp_path / "three" / "study", storage=url, trials=3, threads=1, **FAST)
    assert len(joined.trials) == 3
    again = tune(tissue(), out=tmp_path / "three" / "study", storage=url, trials=3, threads=1, resume=True, **FAST)
    assert [trial.number for trial in again.trials] == [0, 1, 2]
    formula.ran.clear()
    tune(tissue(), out=tmp_path / "one" / "study", storage=url, trials=3, overwrite=True, **FAST)
    assert formula.ran == [0, 1, 2]


def test_another_storage_than_the_study_began_with_is_told(
    tmp_path: Path, formula: Formula, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (f"sqlite:///{(tmp_path / name).as_posix()}" for name in ("a.db", "b.db"))
    tune(tissue(), out=tmp_path / "study", storage=first, trials=2, **FAST)
    for other in (second, None):
        with pytest.raises(
            UsageProblem, match=r"was started with; found --storage '.*', not 'sqlite:.*a\.db'; resume with the same"
        ):
            tune(tissue(), out=tmp_path / "study", storage=other, trials=3, resume=True, **FAST)
    monkeypatch.chdir(tmp_path)
    assert where_kept("sqlite:///a.db") == where_kept(first)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(UsageProblem, match=r"found --storage"):
        tune(tissue(), out=tmp_path / "study", storage="sqlite:///a.db", trials=3, resume=True, **FAST)
    assert formula.ran == [0, 1]


@pytest.mark.parametrize("url", ["nowhere://user:s3cret@host/db", "postgresql://user:s3cret@127.0.0.1:1/db?password=s3cret"])
def test_a_database_that_cannot_be_had_is_told_without_its_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(MachineProblem, match=r"expected a database at '\w+://user:\*\*\*@.*; found .*; mend --storage") as caught:
        tune(tissue(), out=tmp_path / "study", storage=url, trials=3)
    assert "s3cret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_password_is_in_no_file_of_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql+psycopg://user:s3cret@host/db"
    local = open_storage(tmp_path, f"sqlite:///{(tmp_path / 'local.db').as_posix()}")
    monkeypatch.setattr("sentinode.flows.tune.open_storage", lambda *_: local)
    monkeypatch.setattr("sys.argv", ["/bin/sentinode", "tune", "s.store", "--storage", url])
    study = tune(tissue(), out=tmp_path / "study", storage=url, trials=1, **FAST | {"epochs": 1})
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if b"s3cret" in path.read_bytes()]
    assert "user:***@host" in json.dumps(study.as_dict())
    assert load(tmp_path / "study" / "best").record["command"][-1] == "postgresql+psycopg://user:***@host/db"
