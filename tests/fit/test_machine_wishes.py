"""What is asked of the machine: a compiled network, TF32, tiles from disk; done and said, or told in three parts with nothing left."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sentinode.errors import MachineProblem, StoreProblem, UsageProblem
from sentinode.fit import loop
from sentinode.fit.rates import read_rate
from sentinode.fit.train import train
from sentinode.settings import TrainSettings, resolved
from sentinode.tiles.arrays import store_of
from sentinode.tiles.pack import pack
from sentinode.tiles.store import Store
from sentinode.tiles.synth import synthesise, write_kaggle_folder

FAST: dict[str, Any] = {"epochs": 1, "batch": 16, "quiet": True}


def tissue_store() -> Store:
    tissue = synthesise(6, 8, px=32, difficulty=0.0, seed=3)
    return store_of(tissue.tiles, np.array(tissue.labels, np.int8), tissue.groups)


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A compiler that leaves the network as it is, and what it was given."""
    given: list[Any] = []

    def compile_nothing(call: Any, **_: Any) -> Any:
        given.append(call)
        return call

    monkeypatch.setattr("torch.compile", compile_nothing)
    return given


def test_a_compiled_run_is_resumed_and_its_weights_have_the_same_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compilations: list[Any]
) -> None:
    plain = train(tissue_store(), out=tmp_path / "plain", precision="fp32", **FAST)
    assert (plain.record["plan"]["compile"], compilations) == (False, [])
    true, steps = loop.take_step, list[int]()

    def take_step(*args: Any) -> None:
        steps.append(1)
        if len(steps) == 2:
            raise StoreProblem("a disk", "none", "bring it back")
        true(*args)

    wishes = FAST | {"precision": "fp32", "compile": "yes"}
    with monkeypatch.context() as patch:
        patch.setattr("sentinode.fit.loop.take_step", take_step)
        with pytest.raises(StoreProblem, match="bring it back"):
            train(tissue_store(), out=tmp_path / "run", **wishes)
    assert len(compilations) == 1
    run = train(tissue_store(), out=tmp_path / "run", resume=True, **wishes)
    assert len(compilations) == 2
    assert run.record["plan"]["compile"] is True
    assert run.record["plan"]["reasons"]["compile"] == "asked for"
    assert (run.path / "model.safetensors").read_bytes() == (plain.path / "model.safetensors").read_bytes()


def test_a_compiler_that_fails_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class CompilerError(RuntimeError):
        __module__ = "torch._dynamo.exc"

    def compile_nothing(*_: Any, **__: Any) -> Any:
        def call(*_: Any, **__: Any) -> None:
            raise CompilerError("InvalidCxxCompiler")

        return call

    monkeypatch.setattr("torch.compile", compile_nothing)
    with pytest.raises(MachineProblem, match=r"torch.compile works.*InvalidCxxCompiler.*leave --compile out"):
        train(tissue_store(), out=tmp_path / "run", precision="fp32", compile="yes", **FAST)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("order", "wanted"), [("channels_last", torch.channels_last), ("contiguous", torch.contiguous_format)])
def test_weights_and_tiles_lie_in_the_order_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str, wanted: torch.memory_format
) -> None:
    true, seen = loop.take_step, list[torch.Tensor]()

    def take_step(state: loop.Progressing, *args: Any) -> None:
        weights = max((p for p in state.model.parameters() if p.ndim == 4), key=torch.numel)
        watch = state.model.register_forward_pre_hook(lambda _, given: seen.extend([given[0], weights.detach()]))
        true(state, *args)
        watch.remove()

    plain = train(tissue_store(), out=tmp_path / "plain", precision="fp32", **FAST)
    monkeypatch.setattr("sentinode.fit.loop.take_step", take_step)
    run = train(tissue_store(), out=tmp_path / "run", precision="fp32", memory_format=order, **FAST)
    assert seen
    assert all(values.is_contiguous(memory_format=wanted) for values in seen)
    assert run.record["plan"]["memory_format"] == order
    for name, values in plain.model.state_dict().items():
        assert torch.allclose(run.model.state_dict()[name], values, rtol=1e-3, atol=1e-4), name


def test_tf32_without_a_gpu_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(MachineProblem, match=r"expected a GPU that has TF32.*found a CPU; leave --precision out"):
        train(tissue_store(), out=tmp_path / "run", precision="tf32", device="cpu", **FAST)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("wish", [{"precision": "tf32"}, {"compile": "yes"}, {"memory_format": "contiguous"}])
def test_a_frozen_backbone_takes_no_such_wish(wish: dict[str, Any]) -> None:
    with pytest.raises(UsageProblem, match=rf"frozen backbone.*leave --{next(iter(wish)).replace('_', '-')} out"):
        resolved(TrainSettings(backbone="frozen", **wish))


def test_tiles_that_stay_on_disk_have_their_speed_told(tmp_path: Path, compilations: list[Any]) -> None:
    """And precision is timed on the network as it is: else a compiler would take its minute for each look."""
    write_kaggle_folder(tmp_path / "images", synthesise(6, 8, px=32, difficulty=0.0, seed=3))
    store = pack(tmp_path / "images", out=tmp_path / "tissue.store", quiet=True)
    plan = train(store, out=tmp_path / "run", resident="no", compile="yes", **FAST).record["plan"]
    why = plan["reasons"]["resident"]
    assert why.startswith("asked for; the disk")
    assert " tiles/s" in why
    assert plan["step_s"] > 0
    assert len(compilations) == 1


def test_reading_is_measured_where_the_tiles_lie(tmp_path: Path) -> None:
    assert read_rate(tissue_store(), np.arange(4))[0] == float("inf")
    write_kaggle_folder(tmp_path / "images", synthesise(2, 8, px=32, difficulty=0.0, seed=3))
    store = pack(tmp_path / "images", out=tmp_path / "tissue.store", quiet=True)
    rate, how = read_rate(store, np.arange(4), seconds=0.05)
    assert 0 < rate < float("inf")
    assert how.startswith("the disk")
    (store.path / "tiles.npy").rename(store.path / "elsewhere.npy")
    with pytest.raises(StoreProblem, match=r"to stay readable.*bring back the store"):
        read_rate(store, np.arange(4))
