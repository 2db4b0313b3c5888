"""Memory that is too small for a step: the step is the same with fewer tiles at a time, it is said once, kept and resumed."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

from sentinode.errors import MachineProblem
from sentinode.fit.checkpoint import Interruption
from sentinode.fit.features import Extraction, extract
from sentinode.fit.loop import Progressing, take_step
from sentinode.fit.measure import new_state
from sentinode.fit.train import train
from sentinode.machine.plan import Plan
from sentinode.nets.simple_cnn import SimpleCNN
from sentinode.nets.transform import Preprocessing, Transform
from sentinode.settings import TrainSettings
from sentinode.tiles.arrays import store_of
from sentinode.tiles.store import Store
from sentinode.tiles.synth import synthesise

FAST: dict[str, Any] = {"epochs": 2, "precision": "fp32", "batch": 16, "split": "random"}
GREY = Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
PLAN = Plan("cpu", "fp32", 12, 1, True)
LIMIT = """
import resource, sys, torch
from pathlib import Path
from sentinode.fit.loop import take_step
from sentinode.fit.measure import new_state
from sentinode.machine.memory import field, set_allocator
from sentinode.machine.plan import Plan
from sentinode.nets.simple_cnn import SimpleCNN
from sentinode.nets.transform import Preprocessing, Transform
from sentinode.settings import TrainSettings
set_allocator()
torch.set_num_threads(1)
n, settings = 256, TrainSettings(batch=256, ema=0.0)
plan, transform = Plan("cpu", "fp32", n, 1, True), Transform(Preprocessing((0.5,) * 3, (0.25,) * 3), 96)
tiles, labels = torch.randint(0, 256, (n, 96, 96, 3), dtype=torch.uint8), (torch.arange(n) % 2).float()
state = new_state(SimpleCNN((32, 8, 8)), settings, plan)
take_step(state, (tiles[:4], labels[:4]), transform, settings, plan)
state.at_once = 0
limit = field(Path("/proc/self/status"), "VmSize:") * 1024 + (300 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
take_step(state, (tiles, labels), transform, settings, plan)
print(state.at_once, len(state.news), state.loss_sum / n)
"""

CONTAINER = (
    LIMIT.replace("field, set_allocator", "field, peak_bytes, refusing, set_allocator").split("limit = field")[0]
    + """
root = Path(sys.argv[1])
used = field(Path("/proc/self/status"), "VmRSS:") * 1024
(root / "proc/self").mkdir(parents=True)
(root / "sys/fs/cgroup").mkdir(parents=True)
(root / "proc/self/cgroup").write_text("0::/")
(root / "proc/meminfo").write_text("MemTotal: 99999999 kB\\nMemAvailable: 99999999 kB")
(root / "sys/fs/cgroup/memory.max").write_text(str(used + (300 << 20)))
(root / "sys/fs/cgroup/memory.current").write_text(str(used))
before = resource.getrlimit(resource.RLIMIT_DATA)
with refusing("cpu", root):
    take_step(state, (tiles, labels), transform, settings, plan)
assert resource.getrlimit(resource.RLIMIT_DATA) == before
print(state.at_once, len(state.news), state.loss_sum / n, peak_bytes() - used)
"""
)
"""The same in a container that has room for 300 MB more, where nothing but ourselves would refuse."""


class Limited(nn.Module):
    """A small network without batch statistics, with dropout, that takes at most `most` tiles at a time."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.first, self.drop, self.last, self.most = nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1), most

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB")
        logits: torch.Tensor = self.last(self.drop(torch.relu(self.first(x.mean((2, 3))))))
        return logits.squeeze(1)


def stepped(most: int, settings: TrainSettings) -> Progressing:
    """Return the state after three steps on the same tiles, all micro-batches of 12, at most `most` tiles through the network."""
    torch.manual_seed(0)
    state = new_state(Limited(most), settings, PLAN)
    tiles = torch.randint(0, 256, (30, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        take_step(state, (tiles, (torch.arange(30) % 3 == 0).float()), Transform(GREY, 16), settings, PLAN)
    return state


@pytest.mark.parametrize(("most", "at_once"), [(11, 6), (5, 3), (2, 1)])
def test_steps_are_the_same_with_fewer_tiles_at_a_time(most: int, at_once: int) -> None:
    """Every draw stays: views, colours, recompression and dropout's masks."""
    settings = TrainSettings(lr=0.1, optimizer="sgd", jpeg=0.5, colour=0.5)
    whole, small = stepped(99, settings), stepped(most, settings)
    assert (whole.at_once, whole.news) == (12, [])
    assert small.at_once == at_once
    assert small.news == [f"memory is too small for 12 tiles at a time: {at_once} from here on"]
    assert small.loss_sum == pytest.approx(whole.loss_sum, rel=1e-5)
    for ours, theirs in zip(small.average.state_dict().values(), whole.average.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_a_failed_attempt_leaves_no_gradients() -> None:
    """Memory that ends in the third part only: what the first two have left is not counted twice."""
    calls = []

    class Late(Limited):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(len(x))
            return super().forward(x) if len(calls) != 3 else super().forward(x.repeat(99, 1, 1, 1))

    settings = TrainSettings(lr=0.1, optimizer="sgd")
    expected = stepped(99, settings)
    torch.manual_seed(0)
    state = new_state(Late(99), settings, PLAN)
    tiles = torch.randint(0, 256, (30, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        take_step(state, (tiles, (torch.arange(30) % 3 == 0).float()), Transform(GREY, 16), settings, PLAN)
    assert calls[:6] == [12, 12, 6, 6, 6, 6]
    for ours, theirs in zip(state.model.parameters(), expected.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def tissue_store() -> Store:
    tissue = synthesise(6, 16, px=32, difficulty=0.0, seed=3)
    return store_of(tissue.tiles, np.array(tissue.labels, np.int8), tissue.groups)


def limit(monkeypatch: pytest.MonkeyPatch, most: int, *, validation: bool = False) -> None:
    """Let SimpleCNN take at most `most` tiles at a time, where it trains (or in validation, too)."""
    true = SimpleCNN.forward

    def forward(self: SimpleCNN, x: torch.Tensor) -> torch.Tensor:
        if len(x) > most and (self.training or validation):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")
        return true(self, x)

    monkeypatch.setattr(SimpleCNN, "forward", forward)


def model(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


def test_a_run_in_small_memory_says_so_once_and_its_record_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limit(monkeypatch, 5)
    run = train(tissue_store(), out=tmp_path / "run", **FAST)
    assert run.record["plan"]["micro_batch"] == 16
    assert run.record["plan"]["at_once"] == 4
    assert run.record["plan"]["reasons"]["at_once"] == "memory was too small for 16"
    assert re.findall("memory is too small.*", capsys.readouterr().err) == [
        "memory is too small for 16 tiles at a time: 4 from here on"
    ]


def test_a_resumed_run_keeps_to_what_memory_had_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as small:
        limit(small, 5)
        whole = train(tissue_store(), out=tmp_path / "whole", quiet=True, **FAST)
    with monkeypatch.context() as small:
        limit(small, 5)
        small.setattr(Interruption, "asked", True, raising=False)
        small.setattr(Interruption, "__init__", lambda _self: None)
        with pytest.raises(KeyboardInterrupt):
            train(tissue_store(), out=tmp_path / "run", quiet=True, **FAST)
    resumed = train(tissue_store(), out=tmp_path / "run", resume=True, quiet=True, **FAST)
    assert model(resumed.path) == model(whole.path)
    assert resumed.record["plan"]["at_once"] == 4


def test_validation_in_small_memory_changes_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(tissue_store(), out=tmp_path / "whole", quiet=True, micro_batch=4, **FAST)
    limit(monkeypatch, 5, validation=True)
    run = train(tissue_store(), out=tmp_path / "run", quiet=True, micro_batch=4, **FAST)
    assert model(run.path) == model(whole.path)
    assert run.record["valid"]["auroc"] == pytest.approx(whole.record["valid"]["auroc"], abs=1e-9)


def test_memory_too_small_for_one_tile_is_told_in_three_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, 0)
    with pytest.raises(MachineProblem) as caught:
        train(tissue_store(), out=tmp_path / "run", quiet=True, **FAST)
    assert caught.value.expected == "memory enough for the work"
    assert caught.value.found.startswith("99 bytes asked for at once")
    assert "--input-size" in caught.value.do
    assert not (tmp_path / "run").exists()


def test_tiles_that_memory_cannot_hold_are_read_from_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(tissue_store(), out=tmp_path / "whole", quiet=True, resident="yes", **FAST)

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("sentinode.fit.feed.read_rows", full)
    run = train(tissue_store(), out=tmp_path / "run", resident="yes", **FAST)
    assert model(run.path) == model(whole.path)
    assert len(re.findall("they are read from disk", capsys.readouterr().err)) == 1


class Pooled(nn.Module):
    """Features from mean colours; at most `most` tiles at a time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.dense = nn.Linear(3, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.dense(x.mean((2, 3)))
        return features


def test_features_in_small_memory_agree_and_later_ones_keep_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, how = tissue_store(), Extraction(GREY, {"network": "pooled"}, 4, "fp32")
    rows = np.arange(len(store))
    whole = extract(store, Pooled(), how, rows=rows, folder=tmp_path / "whole")
    true, asked, most = Pooled.forward, list[int](), [10]

    def forward(self: Pooled, x: torch.Tensor) -> torch.Tensor:
        asked.append(len(x))
        if len(x) > most[0]:
            raise MemoryError
        return true(self, x)

    monkeypatch.setattr(Pooled, "forward", forward)
    extract(store, Pooled(), how, rows=rows[:50], folder=tmp_path / "small")
    journal = next((tmp_path / "small").glob("*/journal.jsonl")).read_text("utf-8").splitlines()
    noted = [said for said in (json.loads(line[17:]) for line in journal) if "at_once" in said]
    assert [said["at_once"] for said in noted] == [max(k for k in asked if k <= 10)]
    del asked[:]
    most[0] = 1000
    found = extract(store, Pooled(), how, rows=rows, folder=tmp_path / "small")
    assert found.made == len(rows) - 50
    assert max(asked) <= 10
    np.testing.assert_allclose(found.values, whole.values, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the address space is limited by Linux's own means")
def test_a_real_limit_is_lived_with() -> None:
    """A step on 256 tiles needs about 1 GB; with 300 MB left, torch's own allocator fails and the step is taken all the same."""
    done = subprocess.run([sys.executable, "-c", LIMIT], capture_output=True, text=True, check=True)
    at_once, said, loss = done.stdout.split()
    assert 1 <= int(at_once) < 256
    assert int(said) == 1
    assert 0 < float(loss) < 10


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="control groups are Linux's")
def test_a_containers_limit_is_lived_with(tmp_path: Path) -> None:
    """The kernel refuses what the container has no room for, and so nothing is killed: memory stays within the 300 MB."""
    done = subprocess.run([sys.executable, "-c", CONTAINER, str(tmp_path)], capture_output=True, text=True, check=True)
    at_once, said, loss, more = done.stdout.split()
    assert 1 <= int(at_once) < 256
    assert int(said) == 1
    assert 0 < float(loss) < 10
    assert int(more) <= 300 << 20


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_optimisers_moments_are_there_before_the_first_step_and_change_none(optimizer: Literal["adamw", "sgd"]) -> None:
    """Beside torch's own optimiser, which makes its moments in the first step: three steps end with the same bits."""
    torch.manual_seed(0)
    mine, theirs = Limited(99), Limited(99)
    theirs.load_state_dict(mine.state_dict())
    settings = TrainSettings(lr=0.1, optimizer=optimizer, ema=0.0)
    ours = new_state(mine, settings, PLAN).optimizer
    assert all(value.any().item() is False for held in ours.state.values() for value in held.values())
    assert {len(held) for held in ours.state.values()} == {3 if optimizer == "adamw" else 1}
    assert not any(p.grad is not None for p in mine.parameters())
    groups = [group | {"params": []} for group in ours.state_dict()["param_groups"]]
    names = {id(p): name for name, p in mine.named_parameters()}
    for group, whole in zip(groups, ours.param_groups, strict=True):
        group["params"] = [dict(theirs.named_parameters())[names[id(p)]] for p in whole["params"]]
    plain = torch.optim.AdamW(groups) if optimizer == "adamw" else torch.optim.SGD(groups, momentum=0.9, nesterov=True)
    x = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        for network, steps in ((mine, ours), (theirs, plain)):
            steps.zero_grad()
            torch.manual_seed(2)
            network(x).square().sum().backward()
            steps.step()
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
