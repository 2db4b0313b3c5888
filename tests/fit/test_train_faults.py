"""Training among faults and odd wishes: what cannot go on says so in three parts, and nothing that was done is lost."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from sentinode.errors import MachineProblem, RunProblem, SplitProblem, UsageProblem
from sentinode.fit.checkpoint import Interruption, write_checkpoint
from sentinode.fit.train import train
from sentinode.tiles.arrays import store_of
from sentinode.tiles.pack import pack
from sentinode.tiles.store import Store
from sentinode.tiles.synth import synthesise, write_kaggle_folder

FAST: dict[str, Any] = {"epochs": 2, "precision": "fp32", "batch": 16, "quiet": True}
FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from sentinode.errors import MachineProblem
from sentinode.fit import record
from sentinode.fit.train import train
record.convolution_peak = lambda *_: 1e11  # which takes a second to measure
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
options = {"epochs": 2, "precision": "fp32", "batch": 16, "quiet": True}
try:
    train(sys.argv[1], out=Path(sys.argv[2]), **options)
except MachineProblem as problem:
    print(problem)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(len(train(sys.argv[1], out=Path(sys.argv[2]), resume=True, **options).record["warnings"]))
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def tissue_store(*, unknown: int = 0, seed: int = 3) -> Store:
    """Return 6 slides of 16 tiles; the label of each `unknown`-th is not known."""
    tissue = synthesise(6, 16, px=32, difficulty=0.0, seed=seed)
    labels = np.array(tissue.labels, np.int8)
    if unknown:
        labels[::unknown] = -1
    return store_of(tissue.tiles, labels, tissue.groups)


def packed(folder: Path, name: str, seed: int) -> Path:
    write_kaggle_folder(folder / name, synthesise(6, 16, px=32, difficulty=0.0, seed=seed))
    return pack(folder / name, out=folder / f"{name}.store", groups=str(folder / name / "slides.csv"), quiet=True).path


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("minutes", number) for number in (float("nan"), float("inf"), -1.0)),
        *((name, -1) for name in ("seed", "micro_batch", "threads", "patience", "batch")),
        *((name, number) for name in ("weight_decay", "checkpoint_s", "lr") for number in (-1.0, float("nan"))),
        *((name, number) for name in ("warmup", "dropout", "ema", "jpeg", "colour") for number in (-0.1, 9.0)),
    ],
)
def test_numbers_that_cannot_be_meant_are_told(tmp_path: Path, name: str, value: float) -> None:
    with pytest.raises(UsageProblem, match=rf"expected {name} .*; found {value}; change --{name.replace('_', '-')}"):
        train(tissue_store(), out=tmp_path / "run", **FAST | {name: value})
    assert not (tmp_path / "run").exists()


def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(tmp_path: Path) -> None:
    words = [sys.executable, "-c", FULL_DISK, str(packed(tmp_path, "tissue", 3)), str(tmp_path / "run")]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0].startswith("expected room to write")
    assert "found a full disk" in said[0]
    assert "--resume" in said[0]
    assert said[1:] == ["0"]
    whole = train(tmp_path / "tissue.store", out=tmp_path / "whole", **FAST).path / "model.safetensors"
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"model": "simple-cnn", "input_size": 2_000_000}, "asked for at once"),
        ({"model": "simple-cnn", "input_size": 2_000_000_000}, "more asked for than there is"),
        ({"backbone": "frozen", "model": "resnet18", "weights": "none", "input_size": 2_000_000}, "asked for at once"),
    ],
)
def test_a_size_that_no_memory_holds_is_told_and_nothing_is_written(tmp_path: Path, options: dict[str, Any], found: str) -> None:
    with pytest.raises(
        MachineProblem, match=rf"expected memory enough for the work; found .*{found}.*; use a smaller .*--input-size"
    ):
        train(tissue_store(), out=tmp_path / "run", quiet=True, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{}, {"backbone": "frozen", "input_size": 32}])
def test_memory_that_is_full_in_the_midst_of_training_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    def full(*_: object) -> None:
        torch.empty(1 << 50)

    monkeypatch.setattr("sentinode.fit.train.fit", full)
    monkeypatch.setattr("sentinode.fit.frozen.fitted_head", full)
    store = packed(tmp_path, "tissue", 3)
    with pytest.raises(MachineProblem, match=r"expected memory enough .* asked for at once .*GB free"):
        train(store, out=tmp_path / "run", **FAST | options)
    assert not (tmp_path / "run").exists()


def test_memory_that_is_full_after_a_checkpoint_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true, calls = write_checkpoint, []

    def full(*of: Any, **how: Any) -> None:
        true(*of, **how)
        calls.append(1)
        if len(calls) == 1:
            np.empty(1 << 50)

    monkeypatch.setattr("sentinode.fit.keeper.write_checkpoint", full)
    store = packed(tmp_path, "tissue", 3)
    with pytest.raises(MachineProblem, match=r"PiB asked for at once"):
        train(store, out=tmp_path / "run", **FAST)
    assert (tmp_path / "run" / "resume" / "state.safetensors").exists()
    assert train(store, out=tmp_path / "run", resume=True, **FAST).record["best_epoch"] in {1, 2}


@pytest.mark.parametrize(
    ("model", "px", "by", "message"),
    [
        ("p4m-cnn", 36, "tiles", r"expected tiles whose edge is a multiple of 8 for p4m-cnn; found 36 px; pack them"),
        ("p4m-cnn", 24, "option", r"p4m-cnn to see tiles at their own 32 px, since .*; found --input-size 24; leave .* --px 24"),
        (
            "simple-cnn",
            5,
            "tiles",
            r"expected tiles that are large enough for simple-cnn; found 5 px .*; give a larger --input-size",
        ),
        ("simple-cnn", 7, "option", r"expected input_size of 0 or at least 8; found 7; change --input-size"),
        ("auto", 1, "option", r"expected input_size of 0 or at least 8; found 1; change --input-size"),
    ],
)
def test_a_size_that_the_network_cannot_take_is_told_before_anything_is_written(
    tmp_path: Path, model: str, px: int, by: str, message: str
) -> None:
    edge, rng = px if by == "tiles" else 32, np.random.default_rng(0)
    tiles = rng.integers(0, 256, (32, edge, edge, 3), np.uint8)
    store = store_of(tiles, rng.permutation(np.arange(32) % 2).astype(np.int8), [str(i // 4) for i in range(32)])
    with pytest.raises(UsageProblem, match=message):
        train(store, out=tmp_path / "run", model=model, input_size=px if by == "option" else 0, **FAST)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_of_the_run_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", "utf-8")
    with pytest.raises(MachineProblem, match=r"expected a folder that can be written.*choose another --out"):
        train(tissue_store(), out=tmp_path / "file" / "run", **FAST)
    assert (tmp_path / "file").read_text("utf-8") == "mine"


def test_tiles_without_a_label_neither_train_nor_choose(tmp_path: Path) -> None:
    store = tissue_store(unknown=5)
    run = train(store, out=tmp_path / "run", **FAST)
    split = pd.read_parquet(tmp_path / "run" / "split.parquet")
    known = store.rows["label"].to_numpy() >= 0
    assert set(split.loc[~known, "part"]) == {"unused"}
    assert run.record["data"]["train"]["n"] + run.record["data"]["valid"]["n"] == known.sum()


def test_a_valid_store_chooses_and_all_of_the_first_trains(tmp_path: Path) -> None:
    first, other = packed(tmp_path, "first", 3), packed(tmp_path, "other", 4)
    wishes = {"optimizer": "sgd", "jpeg": 0.5, "resident": "no", "lr": 0.01}
    run = train(first, out=tmp_path / "run", valid=other, **FAST | wishes)
    assert (run.record["data"]["train"]["n"], run.record["data"]["valid"]["n"]) == (96, 96)
    assert run.record["data"]["train"]["store"] != run.record["data"]["valid"]["store"]
    assert run.record["plan"]["resident"] is False
    chose = pd.read_parquet(tmp_path / "run" / "valid.parquet")["id"]
    assert set(chose) == set(synthesise(6, 16, px=32, difficulty=0.0, seed=4).ids)
    again = train(first, out=tmp_path / "again", valid=other, **FAST | wishes | {"resident": "yes"})
    assert (again.path / "model.safetensors").read_bytes() == (run.path / "model.safetensors").read_bytes()


def test_a_store_cannot_choose_for_itself(tmp_path: Path) -> None:
    store = packed(tmp_path, "tissue", 3)
    with pytest.raises(SplitProblem, match=r"--valid store of other tiles.*every one of the 96.*leave --valid out"):
        train(store, out=tmp_path / "run", valid=store, **FAST)


def test_a_training_that_runs_away_is_told_and_not_chosen_from(tmp_path: Path) -> None:
    with pytest.raises(RunProblem, match=r"expected a training that stays finite; found \d+ of \d+ .*a lower --lr"):
        train(tissue_store(), out=tmp_path / "run", **FAST | {"lr": 99.0, "weight_decay": 1e30})
    assert not (tmp_path / "run" / "model.json").exists()


def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Path:
    """Leave a run that was interrupted after its first step."""
    with monkeypatch.context() as patch:
        patch.setattr(Interruption, "asked", True, raising=False)
        patch.setattr(Interruption, "__init__", lambda _self: None)
        with pytest.raises(KeyboardInterrupt):
            train(tissue_store(), out=tmp_path / "run", **FAST | options)
    return tmp_path / "run"


def test_what_differs_when_resuming_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = interrupted(tmp_path, monkeypatch)
    with pytest.raises(UsageProblem, match=r"found epochs '7', not '2'; lr '0.5', not '0.003'; resume with the same command"):
        train(tissue_store(), out=run, resume=True, **FAST | {"epochs": 7, "lr": 0.5})
    with pytest.raises(UsageProblem, match=r"found other tiles; resume with the same command"):
        train(tissue_store(seed=5), out=run, resume=True, **FAST)


def test_a_resumed_run_keeps_its_number_of_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        run = interrupted(tmp_path, monkeypatch)
        assert json.loads((run / "unfinished.json").read_text("utf-8"))["plan"]["threads"] == 2
        torch.set_num_threads(1)
        resumed = train(tissue_store(), out=run, resume=True, **FAST)
        assert torch.get_num_threads() == 2
        assert resumed.record["plan"]["threads"] == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("options", "total"), [({}, "160/160"), ({"minutes": 0.05}, "0/3")], ids=["epochs", "minutes"])
def test_on_a_terminal_there_is_a_bar_over_the_whole_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], total: str
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    run = train(tissue_store(), out=tmp_path / "run", **FAST | options | {"quiet": False})
    if not options:
        assert run.record["data"]["train"]["n"] == 80  # twice
    text = terminal.getvalue()
    assert "training" in text
    assert total in text
    assert "epoch 1" in text


def test_off_a_terminal_training_says_a_line_an_epoch_and_no_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tissue_store(), out=tmp_path / "run", **FAST | {"epochs": 4, "quiet": False})
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines[-4:]] == [f"epoch {number}/4" for number in range(1, 5)]
    assert not any(line.startswith(("epoch", "training")) for line in lines[:-4])
