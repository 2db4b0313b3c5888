"""Steps that are not finite are not taken: all stays as it was, the rate falls, it is said, and three in a row end the training."""

import copy
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sentinode.errors import RunProblem
from sentinode.fit import loop, sound
from sentinode.fit.checkpoint import read_checkpoint, write_checkpoint
from sentinode.fit.loop import Progressing, schedule, take_step
from sentinode.fit.measure import new_state
from sentinode.fit.train import train
from sentinode.machine.plan import Plan
from sentinode.nets.simple_cnn import SimpleCNN
from sentinode.nets.transform import Preprocessing, Transform
from sentinode.settings import TrainSettings
from sentinode.tiles.arrays import store_of
from sentinode.tiles.store import Store
from sentinode.tiles.synth import synthesise

FAST: dict[str, Any] = {"epochs": 3, "precision": "fp32", "batch": 16, "split": "random"}
PLAN = Plan("cpu", "fp32", 8, 1, True)
GREY = Transform(Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)), 24)
KINDS = ["host", "device"]


def settings_of(**options: Any) -> TrainSettings:
    return TrainSettings(lr=0.01, ema=0.9, epochs=3, **options)


def fresh(kind: str, **options: Any) -> Progressing:
    """Return a new state; "device" has the fused optimiser that a GPU trains with, on the CPU."""
    torch.manual_seed(0)
    state = new_state(SimpleCNN((4, 4, 4), hidden=4), settings_of(**options), PLAN)
    if kind == "device":
        made = type(state.optimizer)
        extra: dict[str, Any] = {"momentum": 0.9, "nesterov": True} if made is torch.optim.SGD else {}
        groups = [{name: group[name] for name in ("params", "weight_decay", "scale")} for group in state.optimizer.param_groups]
        state.optimizer = made(groups, lr=0.01, fused=True, **extra)  # type: ignore[call-arg]
    return state


def step(state: Progressing, bad: float | None = None, number: int = 0, **options: Any) -> None:
    """Take a step on the same tiles; with `bad` the label of one of them is that, and so the loss."""
    chance = torch.Generator().manual_seed(number)
    tiles = torch.randint(0, 256, (16, 24, 24, 3), dtype=torch.uint8, generator=chance)
    labels = (torch.arange(16) % 2).float()
    if bad is not None:
        labels[3] = bad
    schedule(state, settings_of(**options), 10)
    take_step(state, (tiles, labels), GREY, settings_of(balance=False, **options), PLAN)


def all_of(state: Progressing) -> dict[str, Tensor]:
    """Return copies of weights, buffers, mean and moments."""
    found = {f"model.{k}": v for k, v in state.model.state_dict().items()}
    found |= {f"average.{k}": v for k, v in state.average.state_dict().items()}
    for number, moments in state.optimizer.state_dict()["state"].items():
        found |= {f"moments.{number}.{k}": torch.as_tensor(v) for k, v in moments.items()}
    return {k: v.clone() for k, v in found.items()}


def check_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_step_that_is_not_finite_changes_nothing(kind: str, optimizer: str, bad: float) -> None:
    state = fresh(kind, optimizer=optimizer)
    step(state, optimizer=optimizer)
    before = all_of(state)
    step(state, bad, 1, optimizer=optimizer)
    check_same(all_of(state), before)
    assert state.step == 2
    step(state, None, 2, optimizer=optimizer)
    assert not torch.equal(all_of(state)["model.head.weight"], before["model.head.weight"])
    sound.look(state)
    assert (state.skipped, state.in_a_row, state.rate_factor, state.stopped_by) == (1, 0, 0.5, "")
    assert state.tiles_seen == 32
    assert np.isfinite(state.loss_sum)


def test_gradients_that_are_not_finite_count_where_the_loss_is() -> None:
    state = fresh("host")
    step(state)
    before = all_of(state)
    weight = state.model.get_parameter("dense.weight")
    hook = weight.register_hook(lambda grad: grad * float("inf"))  # type: ignore[no-untyped-call]
    step(state, None, 1)
    hook.remove()
    check_same(all_of(state), before)
    assert state.skipped == 1
    assert state.news == ["step 2: loss or gradients not finite, so not taken; the learning rate goes on at 0.5 of its plan"]


@pytest.mark.parametrize("kind", KINDS)
def test_three_in_a_row_end_it_and_three_in_all_do_not(kind: str) -> None:
    nan = float("nan")
    scattered, together = fresh(kind), fresh(kind)
    for number, bad in enumerate([None, nan, None, nan, nan, None, nan, nan]):
        step(scattered, bad, number)
    for number, bad in enumerate([None, nan, nan, nan]):
        step(together, bad, number)
    for state in (scattered, together):
        sound.look(state)
    assert (scattered.stopped_by, scattered.skipped, scattered.rate_factor) == ("", 5, 0.5**5)
    assert together.stopped_by == sound.STOPPED
    step(scattered, nan, 9)
    sound.look(scattered)
    assert scattered.stopped_by == sound.STOPPED  # the two before the look count


def test_the_device_is_read_every_so_many_steps_only_and_what_it_sent_that_long_ago() -> None:
    """Then nobody waits: the tally has left the device while the next was counted."""
    state = fresh("device")
    for number in range(2 * sound.LOOK_EVERY - 1):
        step(state, float("nan") if number in {3, 7, 20} else None, number)
        assert (state.skipped, state.loss_sum, state.news) == (0, 0.0, [])
    step(state, None, 99)
    assert state.skipped == 2
    assert state.loss_sum > 0
    assert state.tiles_seen == 16 * (2 * sound.LOOK_EVERY - 2)
    assert state.news == [
        "2 of the steps up to 32: loss or gradients not finite, so not taken; the learning rate goes on at 0.25 of its plan"
    ]
    sound.look(state)
    assert state.skipped == 3
    assert state.tiles_seen == 16 * (2 * sound.LOOK_EVERY - 3)


def test_a_row_of_bad_steps_across_two_tallies_ends_it() -> None:
    state = fresh("device")
    for number in range(3 * sound.LOOK_EVERY):
        step(state, float("nan") if number in {14, 15, 16} else None, number)
        if number < 3 * sound.LOOK_EVERY - 1:
            assert not state.stopped_by
    assert state.stopped_by == sound.STOPPED
    assert state.skipped == 3


def test_what_is_on_its_way_is_in_the_checkpoint(tmp_path: Path) -> None:
    whole, nan = fresh("device"), float("nan")
    for number in range(sound.LOOK_EVERY + 3):
        step(whole, nan if number in {5, 17} else None, number)
    assert whole.sent is not None
    write_checkpoint(tmp_path / "state.safetensors", whole, "f")
    resumed = fresh("device")
    read_checkpoint(tmp_path / "state.safetensors", resumed, "f")
    for state in (whole, resumed):
        for number in range(sound.LOOK_EVERY + 3, 2 * sound.LOOK_EVERY + 2):
            step(state, None, number)
    check_same(all_of(resumed), all_of(whole))
    assert (resumed.skipped, resumed.rate_factor, resumed.news) == (1, 0.5, whole.news)


def test_host_and_device_take_the_same_steps() -> None:
    host, device = fresh("host"), fresh("device")
    for number in range(6):
        for state in (host, device):
            step(state, float("inf") if number == 2 else None, number)
            sound.look(state)
    assert host.loss_sum == pytest.approx(device.loss_sum, rel=1e-5)
    for ours, theirs in zip(host.average.parameters(), device.average.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_counted_is_in_the_checkpoint(kind: str, tmp_path: Path) -> None:
    whole, nan = fresh(kind), float("nan")
    for number, bad in enumerate([None, nan]):
        step(whole, bad, number)
    write_checkpoint(tmp_path / "state.safetensors", whole, "f")
    resumed = fresh(kind)
    read_checkpoint(tmp_path / "state.safetensors", resumed, "f")
    for state in (whole, resumed):
        for number, bad in enumerate([nan, None], 2):
            step(state, bad, number)
        sound.look(state)
    check_same(all_of(resumed), all_of(whole))
    assert (resumed.skipped, resumed.rate_factor) == (2, 0.25)
    assert resumed.loss_sum == whole.loss_sum


def test_the_rate_is_lowered_by_what_was_skipped() -> None:
    state = fresh("host")
    state.step = 5
    schedule(state, settings_of(), 10)
    usual = [group["lr"] for group in state.optimizer.param_groups]
    state.rate_factor = 0.25
    schedule(state, settings_of(), 10)
    assert [group["lr"] for group in state.optimizer.param_groups] == [rate / 4 for rate in usual]


def tissue_store() -> Store:
    tissue = synthesise(6, 16, px=32, difficulty=0.0, seed=3)
    return store_of(tissue.tiles, np.array(tissue.labels, np.int8), tissue.groups)


def spoil(monkeypatch: pytest.MonkeyPatch, steps: Iterable[int]) -> None:
    """Let the losses of these steps, by number, be NaN."""
    true: Callable[..., Tensor] = loop.gradients
    chosen = set(steps)

    def gradients(state: Progressing, *of: Any) -> Tensor:
        loss = true(state, *of)
        return loss * float("nan") if state.step in chosen else loss

    monkeypatch.setattr(loop, "gradients", gradients)


def test_a_run_goes_on_after_a_bad_step_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(monkeypatch, [2])
    run = train(tissue_store(), out=tmp_path / "run", **FAST)
    assert (run.record["stopped_by"], run.record["cost"]["steps_skipped"]) == ("epochs", 1)
    assert len(re.findall("not finite", capsys.readouterr().err)) == 1


def test_three_in_a_row_keep_the_best_epoch_so_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(tissue_store(), out=tmp_path / "whole", quiet=True, **FAST)
    steps = -(-whole.record["data"]["train"]["n"] // 16)
    spoil(monkeypatch, range(steps, 1000))
    run = train(tissue_store(), out=tmp_path / "run", **FAST)
    assert run.record["stopped_by"] == sound.STOPPED
    assert run.record["cost"]["steps_skipped"] == 3
    assert "training stops: the best epoch so far" in capsys.readouterr().err
    history = np.loadtxt(run.path / "history.csv", delimiter=",", skiprows=1, usecols=(0, 4), ndmin=2)
    first = np.loadtxt(whole.path / "history.csv", delimiter=",", skiprows=1, usecols=(0, 4), ndmin=2)[0]
    assert history[0].tolist() == first.tolist()
    assert history[1, 1] == history[0, 1]  # nothing moved: the second line judges the same weights
    assert run.record["best_epoch"] == 1


def test_weights_that_are_spoilt_leave_the_last_good_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that a finite step has made infinite: the mean cannot be judged, and the epoch before is kept."""
    true = loop.blend

    def blend(average: Any, model: Any, decay: float, number: int, *more: Any) -> None:
        true(average, model, decay, number, *more)
        if number == 7:
            next(average.parameters()).data.fill_(float("inf"))

    monkeypatch.setattr(loop, "blend", blend)
    run = train(tissue_store(), out=tmp_path / "run", quiet=True, **FAST)
    assert run.record["stopped_by"] == sound.STOPPED
    assert run.record["best_epoch"] == run.record["cost"]["epochs"] == 1
    assert np.isfinite(run.logits(tissue_store().tiles)).all()


def test_a_run_that_never_was_finite_is_told_in_three_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, range(1000))
    with pytest.raises(RunProblem) as caught:
        train(tissue_store(), out=tmp_path / "run", quiet=True, **FAST)
    assert caught.value.expected == "a training whose loss is finite"
    assert "first 3 steps" in caught.value.found
    assert "a lower --lr" in caught.value.do
    assert not (tmp_path / "run").exists()


def test_statistics_are_those_of_norms_that_learn_them() -> None:
    model = SimpleCNN((4, 4, 4), hidden=4).train()
    assert len(sound.statistics(model)) == 9
    held = copy.deepcopy(model).eval()
    assert sound.statistics(held) == []
