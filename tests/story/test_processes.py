"""Two processes that torchrun started give what one gives; one that dies is told, and the job goes on where it was."""

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

import sentinode
from sentinode.fit import features
from sentinode.run import read_json
from sentinode.tiles.pack import pack
from sentinode.tiles.synth import synthesise, write_kaggle_folder

ROOT = Path(__file__).parents[2]
OPTIONS: dict[str, Any] = {"epochs": 3, "batch": 30, "micro_batch": 8, "precision": "fp32", "threads": 1, "jpeg": 0.2}
FLAGS = [word for name, value in OPTIONS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
TOLERANCE = 1e-4
"""Of weights, losses and logits after 12 steps: one process adds the same gradients in another order."""
DYING = """
import os, sys
from sentinode.cli import main
from tests.faults.hooks import Fault, struck
nth = {"0": 6, "1": 4}[os.environ["TORCHELASTIC_RESTART_COUNT"]] if os.environ["RANK"] == "1" else 10_000
with struck(Fault("kill -9", "step", nth)):
    main(sys.argv[1:])
"""
SEVERAL = """
import sys
import numpy as np
import sentinode
from sentinode.fit import features
from sentinode.nets.engine import named
features.fastest = lambda module, example, **_: named("eager fp32", module, example)
features.BATCH_PIXELS, features.BLOCK_BATCHES = 8 * 32 * 32, 2
store, runs, out = sys.argv[1:]
options = {"epochs": 1, "batch": 16, "micro_batch": 8, "input_size": 32, "precision": "fp32", "threads": 1, "quiet": True}
frozen = {name: options[name] for name in ("input_size", "precision", "threads", "quiet")}
sentinode.train(store, out=out + "/frozen", backbone="frozen", features=out + "/features", **frozen)
sentinode.train(store, out=out + "/tuned", backbone="finetune", features=out + "/features", **options)
scores = sentinode.predict(runs, store, out=out + "/scores.csv", batch=16, views=4, quiet=True)
np.save(out + "/logits", scores.table["logit"].to_numpy())
"""


def torchrun(*words: str, script: str = "", restarts: int = 0, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of ours, or a script, in two processes; return what was said."""
    what = ["-m", "sentinode"]
    if script:
        (folder / "script.py").write_text(script, "utf-8")
        what = [str(folder / "script.py")]
    options = [
        "--nproc-per-node",
        "2",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "localhost:0",
        "--max-restarts",
        str(restarts),
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", *options, *what, *words]
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


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store, the run `one` that one process has trained on it, and `two` by two processes."""
    folder = tmp_path_factory.mktemp("processes")
    write_kaggle_folder(folder / "kaggle", synthesise(8, 18, px=32, difficulty=0.0, seed=3))
    pack(folder / "kaggle", out=folder / "t.store", quiet=True)
    sentinode.train(folder / "t.store", out=folder / "one", quiet=True, **OPTIONS)
    done = torchrun("train", str(folder / "t.store"), "--out", str(folder / "two"), *FLAGS, folder=folder)
    assert done.returncode == 0, done.stderr
    (folder / "said").write_text(done.stdout, "utf-8")
    return folder


def test_training_equals_that_of_one_process(work: Path) -> None:
    assert_alike(work / "one", work / "two", TOLERANCE)
    np.testing.assert_allclose(history(work / "one"), history(work / "two"), atol=TOLERANCE, rtol=TOLERANCE)
    record = read_json(work / "two" / "run.json")
    assert record["plan"]["processes"] == 2
    assert "processes" in record["plan"]["reasons"]
    assert record["settings"] == read_json(work / "one" / "run.json")["settings"]


def test_only_the_first_process_speaks(work: Path) -> None:
    said = (work / "said").read_text("utf-8").splitlines()
    assert len([line for line in said if line.startswith("best epoch")]) == 1


def test_a_worker_that_is_killed_is_told_and_the_job_goes_on_to_the_same_bytes(work: Path, tmp_path: Path) -> None:
    """One is killed in the 6th step, torchrun gives the same command once more, and one is killed again; then we resume."""
    words = ("train", str(work / "t.store"), "--out", str(tmp_path / "run"), *FLAGS, "--checkpoint-s", "0")
    died = torchrun(*words, script=DYING, restarts=1, folder=tmp_path)
    assert died.returncode != 0
    told = [line for line in died.stderr.splitlines() if line.startswith("sentinode: ")]
    assert len(told) == 2, died.stderr  # one each time
    for line in told:
        assert "process 1 of 2 on " in line
        assert LOST in line or ENDED in line, "which comes first, the lost connection or torchrun's signal, is chance"
        assert "--resume" in line
    assert "resumed at epoch 2, step 5" in died.stderr
    assert (tmp_path / "run" / "unfinished.json").exists()
    resumed = torchrun(*words, "--resume", folder=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed at epoch 3, step 8" in resumed.stderr
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (work / "two" / "model.safetensors").read_bytes()
    np.testing.assert_array_equal(history(tmp_path / "run"), history(work / "two"))


def test_features_fine_tuning_and_prediction_equal_those_of_one_process(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    done = torchrun(str(work / "t.store"), str(work / "one"), str(tmp_path / "two"), script=SEVERAL, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("fastest", "BATCH_PIXELS", "BLOCK_BATCHES"):  # which the script changes
        monkeypatch.setattr(features, name, getattr(features, name))
    monkeypatch.setattr(sys, "argv", ["script.py", str(work / "t.store"), str(work / "one"), str(tmp_path / "one")])
    runpy.run_path(str(tmp_path / "script.py"))
    kept = [sorted((tmp_path / name / "features").glob("*/features.npy")) for name in ("one", "two")]
    assert [path.read_bytes() for path in kept[0]] == [path.read_bytes() for path in kept[1]]
    assert kept[0]
    assert_alike(tmp_path / "one" / "frozen", tmp_path / "two" / "frozen", 1e-6)
    assert_alike(tmp_path / "one" / "tuned", tmp_path / "two" / "tuned", TOLERANCE)
    np.testing.assert_allclose(np.load(tmp_path / "one" / "logits.npy"), np.load(tmp_path / "two" / "logits.npy"), atol=1e-5)
    scores = [pd.read_csv(tmp_path / name / "scores.csv", comment="#") for name in ("one", "two")]
    assert list(scores[0]["id"]) == list(scores[1]["id"])
