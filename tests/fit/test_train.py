"""Training: the same seed gives the same bytes, killed or not; what was asked for is done; what cannot be is told."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from sentinode.errors import MachineProblem, RunProblem, SplitProblem, UsageProblem
from sentinode.fit.train import train
from sentinode.nets.trained import load
from sentinode.tiles.arrays import store_of
from sentinode.tiles.store import Store
from sentinode.tiles.synth import synthesise

FAST: dict[str, Any] = {"epochs": 2, "precision": "fp32", "batch": 16, "quiet": True}
SCRIPT = """
import sys
from pathlib import Path
from test_train import tissue_store
from sentinode.fit.train import train
train(tissue_store(), out=Path(sys.argv[1]), epochs=4, precision=sys.argv[2], batch=16, checkpoint_s=0.0, quiet=True)
"""


def tissue_store(*, groups: bool = True) -> Store:
    tissue = synthesise(6, 16, px=32, difficulty=0.0, seed=3)
    return store_of(tissue.tiles, tissue.labels, tissue.groups if groups else None)


def weights(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


def test_a_run_folder_holds_what_the_design_says(tmp_path: Path) -> None:
    train(tissue_store(), out=tmp_path / "run", **FAST)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        *("model.safetensors", "model.json", "run.json", "split.parquet", "history.csv", "floor.npz", "valid.parquet"),
    }
    record = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    assert record["settings"]["epochs"] == 2
    assert record["cost"]["tiles_per_s"] > 0
    assert 0 < record["cost"]["share_of_peak"] < 1.5
    assert record["versions"]["torch"]


def test_the_best_epoch_is_judged_as_scikit_learn_would(tmp_path: Path) -> None:
    train(tissue_store(), out=tmp_path / "run", **FAST | {"epochs": 5})
    history = pd.read_csv(tmp_path / "run" / "history.csv")
    record = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))
    valid = pd.read_parquet(tmp_path / "run" / "valid.parquet")
    assert record["best_epoch"] == history["epoch"].iloc[int(history["valid_auroc"].argmax())]
    assert roc_auc_score(valid["label"], valid["probability"]) == pytest.approx(history["valid_auroc"].max(), abs=1e-9)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    store = tissue_store()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(store, out=tmp_path / name, seed=seed, **FAST)
    assert weights(tmp_path / "a") == weights(tmp_path / "b") != weights(tmp_path / "c")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_killed_and_resumed_is_undisturbed_bit_for_bit(tmp_path: Path, precision: str) -> None:
    """Kill -9 in the middle of an epoch; the resumed run ends with the bytes of one that was left alone."""
    options = FAST | {"epochs": 4, "precision": precision, "checkpoint_s": 0.0}
    undisturbed = train(tissue_store(), out=tmp_path / "whole", **options)
    where = tmp_path / "killed"
    state = where / "resume" / "state.safetensors"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    with subprocess.Popen([sys.executable, "-c", SCRIPT, str(where), precision], env=environment) as child:
        wait_for(lambda: state.exists(), child)
        first = state.stat().st_mtime_ns
        wait_for(lambda: state.exists() and state.stat().st_mtime_ns != first, child)
        child.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
    assert not (where / "model.json").exists()
    resumed = train(tissue_store(), out=where, resume=True, **options)
    assert weights(where) == weights(tmp_path / "whole")
    np.testing.assert_array_equal(
        pd.read_csv(where / "history.csv")[["train_loss", "valid_auroc"]],
        pd.read_csv(tmp_path / "whole" / "history.csv")[["train_loss", "valid_auroc"]],
    )
    assert resumed.facts == undisturbed.facts
    assert not (where / "resume").exists()


def wait_for(happens: Any, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not happens():
        assert child.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_finished_run_is_opened_by_resume_and_kept_otherwise(tmp_path: Path) -> None:
    store = tissue_store()
    train(store, out=tmp_path / "run", **FAST)
    before = weights(tmp_path / "run")
    assert train(store, out=tmp_path / "run", resume=True, **FAST).facts == load(tmp_path / "run").facts
    with pytest.raises(UsageProblem, match=r"expected a new folder.*found a finished one.*--overwrite"):
        train(store, out=tmp_path / "run", **FAST)
    assert weights(tmp_path / "run") == before
    train(store, out=tmp_path / "run", overwrite=True, **FAST | {"seed": 9})
    assert weights(tmp_path / "run") != before


def test_resuming_with_other_settings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "unfinished.json").write_text('{"fingerprint": "other"}', "utf-8")
    with pytest.raises(UsageProblem, match=r"expected the settings and tiles.*found other tiles.*--overwrite"):
        train(tissue_store(), out=tmp_path / "run", resume=True, **FAST)
    with pytest.raises(UsageProblem, match=r"unfinished work.*--resume"):
        train(tissue_store(), out=tmp_path / "run", **FAST)


def test_a_garbled_checkpoint_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sentinode.fit.train.fit", stop)
    with pytest.raises(KeyboardInterrupt):
        train(tissue_store(), out=tmp_path / "run", **FAST)
    (tmp_path / "run" / "resume").mkdir()
    (tmp_path / "run" / "resume" / "state.safetensors").write_bytes(b"garbled")
    with pytest.raises(RunProblem, match=r"expected a readable checkpoint.*--overwrite"):
        train(tissue_store(), out=tmp_path / "run", resume=True, **FAST)


def test_minutes_stop_with_the_best_model(tmp_path: Path) -> None:
    """That it is in time is shown by a clock of our own, in test_loop: this machine may be busy."""
    run = train(tissue_store(), out=tmp_path / "run", **FAST | {"minutes": 0.1})
    assert run.record["stopped_by"] == "minutes"
    assert run.record["best_epoch"] >= 1


def test_patience_stops_when_nothing_gets_better(tmp_path: Path) -> None:
    run = train(tissue_store(), out=tmp_path / "run", **FAST | {"epochs": 50, "lr": 0.0, "ema": 0.0, "patience": 2})
    assert run.record["stopped_by"] == "patience"
    assert len(pd.read_csv(tmp_path / "run" / "history.csv")) < 50


def test_a_random_split_says_that_it_is_optimistic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(tissue_store(groups=False), out=tmp_path / "run", **FAST | {"quiet": False})
    assert run.record["data"]["split"] == "random"
    assert any("optimistic" in warning for warning in run.record["warnings"])
    assert "optimistic" in capsys.readouterr().err


def test_slides_are_kept_apart_where_they_are_known(tmp_path: Path) -> None:
    run = train(tissue_store(), out=tmp_path / "run", **FAST)
    split = pd.read_parquet(tmp_path / "run" / "split.parquet")
    sides = {part: set(split.loc[split["part"] == part, "group"]) for part in ("train", "valid")}
    assert run.record["data"]["split"] == "grouped"
    assert sides["train"]
    assert sides["valid"]
    assert not sides["train"] & sides["valid"]


def test_a_sample_trains_on_a_part(tmp_path: Path) -> None:
    whole = train(tissue_store(), out=tmp_path / "whole", **FAST).record["data"]
    half = train(tissue_store(), out=tmp_path / "half", **FAST | {"sample": "50%"}).record["data"]
    assert half["valid"]["n"] == whole["valid"]["n"]
    assert 0 <= half["train"]["n"] - whole["train"]["n"] / 2 <= 1  # each class rounds up


def test_balanced_classes_keep_the_true_prevalence(tmp_path: Path) -> None:
    store = tissue_store()
    run = train(store, out=tmp_path / "run", **FAST)
    split = pd.read_parquet(tmp_path / "run" / "split.parquet")
    share = store.rows.loc[(split["part"] == "train").to_numpy(), "label"].mean()
    assert run.facts.logit_shift == pytest.approx(np.log(share / (1 - share)))
    assert train(store, out=tmp_path / "plain", **FAST | {"balance": False}).facts.logit_shift == 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"modle": "x"}, UsageProblem, r"found 'modle'; did you mean model"),
        ({"model": "resnet"}, UsageProblem, r"a network of ours or of timm's.*found 'resnet'; did you mean resnet50"),
        ({"epochs": -1}, UsageProblem, r"epochs of at least 0"),
        ({"model": "p4m-cn"}, UsageProblem, r"found 'p4m-cn'; did you mean p4m-cnn"),
        (
            {"backbone": "frozen", "model": "p4m-cnn"},
            UsageProblem,
            r"a pretrained network for --backbone frozen; found 'p4m-cnn'",
        ),
        ({"lr": -1.0}, UsageProblem, r"lr between 0 and 100; found -1"),
        ({"minutes": 0.0}, UsageProblem, r"minutes above 0"),
        ({"sample": "lots"}, UsageProblem, r"a sample such as 5%"),
        ({"device": "cuda:7"}, MachineProblem, r"device cuda:7; found 0 GPUs"),
        ({"device": "abacus"}, MachineProblem, r"device auto, cpu.*found 'abacus'"),
    ],
)
def test_settings_that_cannot_be_meant_are_told(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        train(tissue_store(), out=tmp_path / "run", **FAST | options)


def test_one_class_alone_cannot_be_trained(tmp_path: Path) -> None:
    store = store_of(tissue_store().tiles, np.zeros(96, np.int8))
    with pytest.raises(SplitProblem, match=r"both classes"):
        train(store, out=tmp_path / "run", **FAST)
