"""The loop's parts against their definitions: accumulation, class weights, the schedule, the running mean."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

from sentinode.fit.feed import Feed
from sentinode.fit.loop import Judge, blend, class_weights, fit, follow_clock, out_of_time, schedule, step_seed, take_step
from sentinode.fit.measure import flop_per_tile, new_state
from sentinode.machine.plan import Plan
from sentinode.machine.ranks import Ranks
from sentinode.nets.p4m_cnn import P4MCNN
from sentinode.nets.simple_cnn import SimpleCNN
from sentinode.nets.transform import Preprocessing, Transform
from sentinode.settings import TrainSettings

GREY = Transform(Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)), 24)
PLAIN = TrainSettings(dihedral=False, colour=0.0, optimizer="sgd", ema=0.0, balance=False, lr=0.1, weight_decay=0.0)


class Linear(nn.Module):
    """One logit from the mean colour: no batch statistics, so that parts must sum to the whole exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(x.mean((2, 3)))
        return out.squeeze(1)


def batch(n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(0)
    tiles = torch.randint(0, 256, (n, 8, 8, 3), dtype=torch.uint8, generator=chance)
    return tiles, (torch.arange(n) % 3 == 0).float()


@pytest.mark.parametrize("micro", [1, 5, 12])
def test_micro_batches_sum_to_the_whole_batch(micro: int) -> None:
    torch.manual_seed(0)
    model = Linear()
    tiles, labels = batch()
    expected = copy.deepcopy(model)
    x = (tiles.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    nn.functional.binary_cross_entropy_with_logits(expected(x), labels).backward()  # type: ignore[no-untyped-call]
    state = new_state(model, PLAIN, Plan("cpu", "fp32", micro, 1, True))
    state.optimizer.param_groups[0]["lr"] = state.optimizer.param_groups[1]["lr"] = 0.1
    before = copy.deepcopy(model)
    take_step(state, (tiles, labels), GREY, PLAIN, Plan("cpu", "fp32", micro, 1, True))
    for new, old, wanted in zip(model.parameters(), before.parameters(), expected.parameters(), strict=True):
        assert wanted.grad is not None
        # Nesterov momentum 0.9 from rest moves by lr * 1.9 * gradient.
        torch.testing.assert_close(old - new, 0.1 * 1.9 * wanted.grad, atol=1e-6, rtol=1e-4)


@given(n_positive=st.integers(1, 50), n_negative=st.integers(1, 50))
def test_balanced_weights_give_both_classes_half_and_one_on_average(n_positive: int, n_negative: int) -> None:
    labels = torch.tensor([1.0] * n_positive + [0.0] * n_negative)
    weights = class_weights(labels, n_positive / len(labels))
    assert weights.mean().item() == pytest.approx(1, rel=1e-5)
    assert weights[labels == 1].sum().item() == pytest.approx(weights[labels == 0].sum().item(), rel=1e-4)


def test_the_rate_rises_then_falls_along_torchs_cosine() -> None:
    settings = TrainSettings(epochs=10, lr=1.0, warmup=0.2, optimizer="sgd")
    state = new_state(Linear(), settings, Plan("cpu", "fp32", 4, 1, True))
    rates = []
    for state.step in range(100):
        schedule(state, settings, 10)
        rates.append(state.optimizer.param_groups[0]["lr"])
    assert rates[10] == pytest.approx(0.5)
    assert max(rates) == rates[20] == pytest.approx(1.0)
    reference = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(reference, 80)
    expected: list[float] = []
    for _ in range(80):
        expected.append(float(cosine.get_last_lr()[0]))
        reference.step()
        cosine.step()
    np.testing.assert_allclose(rates[20:], expected, atol=1e-9)


def test_with_minutes_the_rate_follows_the_clock() -> None:
    settings = TrainSettings(minutes=1.0, lr=1.0, warmup=0.5)
    state = new_state(Linear(), settings, Plan("cpu", "fp32", 4, 1, True))
    for seconds, expected in ((15.0, 0.5), (30.0, 1.0), (60.0, 0.0)):
        state.seconds = seconds
        schedule(state, settings, 10)
        assert state.optimizer.param_groups[0]["lr"] == pytest.approx(expected)


@pytest.mark.parametrize(("seconds", "stops"), [(53.0, False), (53.8, True)])
def test_the_clock_leaves_time_for_a_step_and_a_validation(seconds: float, stops: bool) -> None:
    """Of 60 s, 6 are for the validation and 0.3 for the step before it: 53.7."""
    settings = TrainSettings(minutes=1.0)
    state = new_state(Linear(), settings, Plan("cpu", "fp32", 4, 1, True))
    state.seconds, state.train_seconds, state.step, state.validation_s = seconds, 30.0, 100, 6.0
    assert out_of_time(state, settings) is stops
    assert not out_of_time(state, TrainSettings(epochs=1))


class FakeTime:
    """A clock that moves when a network computes: so much a tile in training, so much in validation."""

    def __init__(self, train: float, valid: float) -> None:
        self.now, self.train, self.valid = 1000.0, train, valid

    def perf_counter(self) -> float:
        return self.now

    process_time = perf_counter

    def watch(self, model: nn.Module) -> None:
        def move(module: nn.Module, inputs: tuple[torch.Tensor, ...], _: torch.Tensor) -> None:
            self.now += len(inputs[0]) * (self.train if module.training else self.valid)

        model.register_forward_hook(move)


@pytest.mark.parametrize(
    ("train_s", "valid_s", "minutes"),
    [
        *((0.004, 0.0005, minutes) for minutes in (0.5, 1.0)),  # up to 700 steps: what more of them show is the same
        *((0.01, 0.004, minutes) for minutes in (0.5, 1.0, 2.0)),
        *((0.05, 0.05, minutes) for minutes in (0.5, 1.0, 2.0, 5.0)),
        *((0.3, 0.02, minutes) for minutes in (0.5, 1.0, 2.0, 5.0)),
    ],
)
def test_training_ends_before_its_time_and_not_long_before(
    monkeypatch: pytest.MonkeyPatch, train_s: float, valid_s: float, minutes: float
) -> None:
    """By a clock that only the network moves: the last validation is over by `until`, and by no more than two steps and another."""
    clock = FakeTime(train_s, valid_s)
    monkeypatch.setattr("sentinode.fit.loop.time", clock)
    settings = TrainSettings(minutes=minutes, batch=20, lr=0.1, dihedral=False, colour=0.0)
    plan = Plan("cpu", "fp32", 20, 1, True)
    model, n, chance = Linear(), 200, torch.Generator().manual_seed(0)
    clock.watch(model)
    tiles = torch.randint(0, 256, (n, 8, 8, 3), dtype=torch.uint8, generator=chance)
    feed = Feed(tiles, np.arange(n), (torch.arange(n) % 2).float())
    state = new_state(model, settings, plan)
    state.until, state.validation_s = 60 * minutes - 5, n * valid_s
    judge = Judge(feed, lambda _: (0.5, 0.5 + len(state.history) / 1e6))
    rates: list[float] = []
    fit(state, feed, judge, GREY, settings, plan, lambda state, _: rates.append(state.optimizer.param_groups[0]["lr"]))
    step, validation = 20 * train_s, n * valid_s
    spent = clock.now - 1000
    assert state.stopped_by == "minutes"
    assert state.seconds == pytest.approx(spent)
    if step + validation < state.until:  # else a step and a validation are taken all the same: there is no run without
        assert state.until - 2 * step - validation <= spent <= state.until
    assert state.history[-1]["seconds"] == pytest.approx(spent, abs=1e-3)
    assert rates[-1] < 0.1 * max(rates) or state.epoch < 3


def test_the_running_mean_converges_to_constant_weights() -> None:
    model = SimpleCNN((4, 4, 4), hidden=4)
    average = SimpleCNN((4, 4, 4), hidden=4)
    for step in range(2000):
        blend(average, model, 0.99, step)
    for ours, theirs in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@hypothesis_settings(max_examples=30)
@given(seed=st.integers(0, 2**40), step=st.integers(0, 10**6))
def test_step_seeds_are_seeds_and_differ(seed: int, step: int) -> None:
    assert 0 <= step_seed(seed, step) < 2**63
    assert step_seed(seed, step) != step_seed(seed, step + 1)


def test_the_arithmetic_of_a_tile_is_counted_by_hand() -> None:
    """Convolutions by the textbook: 2 * 9 * c_in * c_out * pixels, three times (forward, two gradients), twice for the first."""
    convolutions = [(3, 32, 96, 2), (32, 64, 48, 3), (64, 128, 24, 3)]
    by_hand = sum(times * 2 * 9 * a * b * px * px for a, b, px, times in convolutions)
    dense = 3 * 2 * (512 * 128 + 128)
    assert flop_per_tile(SimpleCNN(), 96) == pytest.approx(by_hand + dense, rel=1e-3)


def test_convolutions_in_groups_are_counted_by_hand_too() -> None:
    """Torch's own counter takes the gradients of a grouped convolution for those of a full one: 131 % of the machine's peak."""
    px, fields = 96, (6, 20, 28, 28)
    by_hand = 2 * 27 * 8 * fields[0] * px**2
    for a, b, edge in zip(fields, fields[1:], (48, 24, 12), strict=False):
        by_hand += 2 * edge**2 * (25 * 8 * a + 8 * a * 8 * b)
    assert flop_per_tile(P4MCNN(), px) == pytest.approx(3 * by_hand, rel=1e-2)


def test_all_processes_follow_the_clock_of_the_first() -> None:
    """Rates and the end are functions of the clock: with clocks of their own, two processes would train two networks."""
    said: list[list[object]] = []

    class First(Ranks):
        def told(self, value: Any) -> Any:
            said.append(value)
            return value

    class Second(Ranks):
        def told(self, value: Any) -> Any:
            assert len(value) == len(said[-1])
            return said[-1]

    settings = TrainSettings(minutes=1.0, lr=0.1)
    states = [new_state(Linear(), settings, Plan("cpu", "fp32", 20, 1, True)) for _ in range(2)]
    for state, number in zip(states, (1.0, 2.0), strict=True):
        state.seconds, state.before, state.until, state.validation_s = 20 * number, 3 * number, 50 / number, 2 * number
        state.stopped_by = "minutes" if number == 1 else ""
    follow_clock(states[0], First())
    follow_clock(states[1], Second(rank=1, world=2))
    for state in states:
        schedule(state, settings, steps_an_epoch=10)
    first, second = ([group["lr"] for group in state.optimizer.param_groups] for state in states)
    assert first == second
    assert states[1].stopped_by == "minutes"
    assert out_of_time(states[0], settings) == out_of_time(states[1], settings)
