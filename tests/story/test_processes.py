"""Two processes that torchrun started give what one gives; a job that dies or is asked to end says so, and goes on where it was."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

import sentinode
from sentinode.fit import features
from sentinode.nets import engine
from sentinode.run import read_json
from sentinode.tiles.pack import pack
from sentinode.tiles.synth import synthesise, write_kaggle_folder

ROOT = Path(__file__).parents[2]
OPTIONS: dict[str, Any] = {"epochs": 3, "batch": 30, "micro_batch": 8, "precision": "fp32", "threads": 1, "jpeg": 0.2}
FLAGS = [word for name, value in OPTIONS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
TOLERANCE = 1e-4
"""Of weights, losses and logits after 12 steps: one process adds the same gradients in another order."""
STOPPED = """
import math, os, signal, sys, time
from types import SimpleNamespace
from sentinode.cli import main
from sentinode.fit import keeper
from sentinode.fit.checkpoint import Interruption
from tests.faults.hooks import Fault, struck

asked = []
ask = Interruption.ask

def noted(self, *of):
    asked.append(of)
    ask(self, *of)

class Sigterm(Fault):
    def strike(self):
        os.kill(os.getppid(), signal.SIGTERM)  # torchrun
        for _ in range(6000):
            if asked:
                break
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)  # a cluster sends the same to everyone

fault = Fault("", "step", 10_000)
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    if os.environ["RANK"] == "1":
        fault = Fault("kill -9", "step", 6)
else:
    keeper.time = SimpleNamespace(monotonic=lambda: math.nan)  # no checkpoint within an epoch is due
    Interruption.ask = noted
    if os.environ["RANK"] == "1":
        fault = Sigterm("SIGTERM", "step", 2)
    else:
        Interruption.ask = lambda *_: None  # as where the signal comes a step later: it must hear of it from the other
with struck(fault):
    main(sys.argv[1:])
"""
COMMANDS = """
import runpy, sys
from sentinode.fit import record
record.convolution_peak = lambda *_: 1e11  # which takes a second to measure
typed = sys.argv
store, one, out, stopped, *flags = typed[1:]
for words in (["--out", out + "/undisturbed", *flags], ["--out", stopped, *flags, "--checkpoint-s", "0", "--resume"]):
    sys.argv = ["sentinode", "train", store, *words]
    try:
        runpy.run_module("sentinode", run_name="__main__")  # as by torchrun -m sentinode
    except SystemExit as end:
        if end.code:
            raise
sys.argv = typed
"""
SEVERAL = """
import sys
import numpy as np
import sentinode
from sentinode.fit import features
from sentinode.nets import engine
from sentinode.nets.engine import named
features.fastest = lambda module, example, **_: named("eager fp32", module, example)
features.BATCH_PIXELS, features.BLOCK_BATCHES = 8 * 32 * 32, 2
store, one, out = sys.argv[1:4]
options = {"epochs": 1, "batch": 16, "micro_batch": 8, "input_size": 32, "precision": "fp32", "threads": 1, "quiet": True}
frozen = {name: options[name] for name in ("input_size", "precision", "threads", "quiet")}
sentinode.train(store, out=out + "/frozen", backbone="frozen", features=out + "/features", **frozen)
sentinode.train(store, out=out + "/tuned", backbone="finetune", features=out + "/features", **options)
scores = sentinode.predict(one, store, out=out + "/scores.csv", batch=16, views=4, quiet=True)
np.save(out + "/logits", scores.table["logit"].to_numpy())
engine.WHOLE_BOUND = float("inf")  # a network of 36 steps is not judged
whole = sentinode.predict(one, store, out=out + "/whole.csv", batch=16, precision="int8", quiet=True)
np.save(out + "/whole", whole.table["logit"].to_numpy())
"""


def torchrun(script: str, *words: str, restarts: int = 0, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script in two processes; return what was said."""
    (folder / "script.py").write_text(script, "utf-8")
    options = ["--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", *options, "--max-restarts", str(restarts)]
    command += [str(folder / "script.py"), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)


def history(run: Path) -> Any:
    return pd.read_csv(run / "history.csv").drop(columns="seconds").to_numpy()


def assert_alike(run: Path, other: Path, tolerance: float) -> None:
    """Compare weights and, of the validation tiles, logits."""
    mine, theirs = load_file(run / "model.safetensors"), load_file(other / "model.safetensors")
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        np.testing.assert_allclose(value, theirs[name], atol=tolerance, rtol=tolerance, err_msg=name)
    one, two = (pd.read_parquet(where / "valid.parquet")["logit"].to_numpy() for where in (run, other))
    np.testing.assert_allclose(one, two, atol=tolerance)


LOST = "expected all 2 processes of this job; found one that died or cannot be reached"
ENDED = "because another process of the job has died"


class Work(NamedTuple):
    """A folder with a store `t.store` and the run `one` that one process has trained on it, and two jobs of two processes.

    `stopped` has written a part of the run `stopped`; `done` has trained the run `two/undisturbed` and gone on with `stopped`,
    then trained `two/frozen` and `two/tuned`, and scored all tiles.
    """

    folder: Path
    stopped: "subprocess.CompletedProcess[str]"
    left: set[str]
    done: "subprocess.CompletedProcess[str]"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """Start torchrun twice, since three interpreters that import torch are most of what a start takes."""
    folder = tmp_path_factory.mktemp("processes")
    write_kaggle_folder(folder / "kaggle", synthesise(8, 18, px=32, difficulty=0.0, seed=3))
    store = str(pack(folder / "kaggle", out=folder / "t.store", quiet=True).path)
    sentinode.train(store, out=folder / "one", quiet=True, **OPTIONS)
    words = ("train", store, "--out", str(folder / "stopped"), *FLAGS, "--checkpoint-s", "0")
    stopped = torchrun(STOPPED, *words, restarts=1, folder=folder)
    left = {path.name for path in (folder / "stopped").iterdir()}
    (folder / "two").mkdir()
    words = (store, str(folder / "one"), str(folder / "two"), str(folder / "stopped"), *FLAGS)
    done = torchrun(COMMANDS + SEVERAL, *words, folder=folder)
    assert done.returncode == 0, done.stderr
    return Work(folder, stopped, left, done)


def test_training_equals_that_of_one_process(work: Work) -> None:
    one, two = work.folder / "one", work.folder / "two" / "undisturbed"
    assert_alike(one, two, TOLERANCE)
    np.testing.assert_allclose(history(one), history(two), atol=TOLERANCE, rtol=TOLERANCE)
    record = read_json(two / "run.json")
    assert record["plan"]["processes"] == 2
    assert "processes" in record["plan"]["reasons"]
    assert record["settings"] == read_json(one / "run.json")["settings"]


def test_only_the_first_process_speaks(work: Work) -> None:
    said = work.done.stdout.splitlines()
    assert len([line for line in said if line.startswith("best epoch")]) == 2, "one of each command"


def test_killed_started_again_asked_to_end_and_resumed_it_ends_with_the_same_bytes(work: Work) -> None:
    """One is killed in the 6th step; torchrun starts the same command once more, and is sent SIGTERM in the 7th; then we resume."""
    said = work.stopped.stderr
    assert work.stopped.returncode != 0
    told = [line for line in said.splitlines() if line.startswith("sentinode: ")]
    assert len(told) == 2, said  # one each time
    assert "process 1 of 2 on " in told[0]
    assert LOST in told[0] or ENDED in told[0], "which comes first, the lost connection or torchrun's signal, is chance"
    assert re.search(r"process [12] of 2 on .*: asked to end by Ctrl-C, or", told[1])
    assert all("--resume" in line for line in told)
    assert "resumed at epoch 2, step 5" in said
    assert said.count("interrupted: nothing is lost") == 1
    assert "unfinished.json" in work.left
    assert "model.safetensors" not in work.left
    assert "resumed at epoch 2, step 7" in work.done.stderr
    run, two = work.folder / "stopped", work.folder / "two" / "undisturbed"
    assert (run / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    np.testing.assert_array_equal(history(run), history(two))
    assert {path.name for path in run.iterdir()} == {path.name for path in two.iterdir()}


def test_features_fine_tuning_and_prediction_equal_those_of_one_process(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("fastest", "BATCH_PIXELS", "BLOCK_BATCHES"):  # which the script changes
        monkeypatch.setattr(features, name, getattr(features, name))
    monkeypatch.setattr(engine, "WHOLE_BOUND", engine.WHOLE_BOUND)
    monkeypatch.setattr(sys, "argv", ["script.py", str(work.folder / "t.store"), str(work.folder / "one"), str(tmp_path)])
    (tmp_path / "script.py").write_text(SEVERAL, "utf-8")
    runpy.run_path(str(tmp_path / "script.py"))
    one, two = tmp_path, work.folder / "two"
    kept = [sorted((where / "features").glob("*/features.npy")) for where in (one, two)]
    assert [path.read_bytes() for path in kept[0]] == [path.read_bytes() for path in kept[1]]
    assert kept[0]
    assert_alike(one / "frozen", two / "frozen", 1e-6)
    assert_alike(one / "tuned", two / "tuned", TOLERANCE)
    for name in ("logits.npy", "whole.npy"):
        np.testing.assert_allclose(np.load(one / name), np.load(two / name), atol=1e-5, err_msg=name)
    scores = [pd.read_csv(where / "scores.csv", comment="#") for where in (one, two)]
    assert list(scores[0]["id"]) == list(scores[1]["id"])
