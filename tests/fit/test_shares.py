"""A step divided between processes is the step of one: gradients, chance, running statistics; also where memory is short in one."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sentinode.fit.loop import Progressing, take_step
from sentinode.fit.measure import new_state
from sentinode.fit.shares import Norms, Share, drops_of, positions_of
from sentinode.fit.sound import statistics
from sentinode.machine.plan import Plan
from sentinode.machine.ranks import Ranks
from sentinode.nets.simple_cnn import SimpleCNN
from sentinode.nets.transform import Preprocessing, Transform
from sentinode.settings import TrainSettings

GREY = Transform(Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)), 24)
PLAN = Plan("cpu", "fp32", 8, 1, True)
SETTINGS = TrainSettings(batch=30, lr=0.1, optimizer="sgd", weight_decay=0.0, jpeg=0.3, ema=0.5)


class Others(Ranks):
    """A process that meets the others' sums in a list: the last to come has them all."""

    sums: list[torch.Tensor]

    def summed(self, tensor: torch.Tensor) -> torch.Tensor:
        self.sums.append(tensor.clone())
        return tensor.copy_(torch.stack(self.sums).sum(0))


def others(rank: int, world: int, sums: list[torch.Tensor]) -> Ranks:
    made = Others(rank, world)
    object.__setattr__(made, "sums", sums)
    return made


def step_of(model: nn.Module, ranks: Ranks, n: int) -> Progressing:
    """Return the state after one step on `n` tiles, of which this process sees its own."""
    chance = torch.Generator().manual_seed(0)
    tiles = torch.randint(0, 256, (n, 24, 24, 3), dtype=torch.uint8, generator=chance)
    labels = (torch.arange(n) % 3 == 0).float()
    own = torch.from_numpy(positions_of(ranks, np.arange(n), PLAN.micro_batch))
    state = new_state(copy.deepcopy(model), SETTINGS, PLAN)
    drops = drops_of(state.model, 24, "cpu", "fp32")
    take_step(state, (tiles[own], labels[own]), GREY, SETTINGS, PLAN, Share(n, ranks, drops))
    return state


@pytest.mark.parametrize(("n", "world"), [(30, 2), (30, 3), (16, 3)])
def test_the_sums_of_all_processes_are_the_step_of_one(n: int, world: int) -> None:
    """The last case has a process without a micro-batch."""
    torch.manual_seed(0)
    model, sums = SimpleCNN((4, 4, 4), 8), list[torch.Tensor]()
    alone = step_of(model, Ranks(), n)
    last = [step_of(model, others(rank, world, sums), n) for rank in reversed(range(world))][-1]
    assert last.loss_sum == pytest.approx(alone.loss_sum, rel=1e-5)
    assert last.tiles_seen == alone.tiles_seen == n
    for (name, mine), theirs in zip(last.model.state_dict().items(), alone.model.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4, msg=name)
    assert last.model.state_dict()["blocks.0.norm.running_mean"].abs().max() > 1e-3


def test_without_the_draws_of_the_others_the_step_would_be_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Share, "pass_over", lambda *_: None)
    torch.manual_seed(0)
    model, sums = SimpleCNN((4, 4, 4), 8), list[torch.Tensor]()
    alone = step_of(model, Ranks(), 30)
    last = [step_of(model, others(rank, 2, sums), 30) for rank in (1, 0)][-1]
    assert abs(last.loss_sum - alone.loss_sum) > 1e-3


def test_statistics_of_one_process_that_takes_more_parts_still_weigh_one() -> None:
    """Where every micro-batch has the statistics that were there before, they stay, however it was cut."""
    model = SimpleCNN((4, 4, 4), 8)
    norm = model.blocks[0].norm
    assert isinstance(norm, nn.BatchNorm2d)
    held = norm.running_var
    assert held is not None
    parts: list[tuple[torch.Tensor, torch.Tensor]] = []
    for rank, cuts in ((0, 1), (1, 4)):
        held.fill_(2.0)
        norms = Norms.begun(Ranks(rank, 2), model, statistics(model))
        for number in range(3):
            if number % 2 != rank:
                norms.fade()
                continue
            for _ in range(cuts):
                held.mul_(0.9).add_(0.1 * 2.0)
            norms.seen(cuts)
        parts.append((held.clone(), norms.weights))
    held.copy_(parts[0][0] + parts[1][0])
    assert float(parts[0][1][0] + parts[1][1][0]) > 1.1
    norms.close(parts[0][1] + parts[1][1])
    torch.testing.assert_close(held, torch.full_like(held, 2.0))


def test_shares_cover_each_step_once() -> None:
    whole = np.random.default_rng(0).permutation(61)
    dealt: list[Any] = [positions_of(Ranks(rank, 3), whole, 8) for rank in range(3)]
    assert sorted(np.concatenate(dealt)) == list(range(61))
    assert [size for size, ours in Share(61, Ranks(1, 3)).sizes(8) if ours] == [8, 8, 5]
    assert len(dealt[1]) == 21
