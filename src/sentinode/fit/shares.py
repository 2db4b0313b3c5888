"""One optimiser step divided between processes: each computes some of its micro-batches, and the sums are those of one process.

Process r of W takes the micro-batches r, r + W, ... of every step. Chance goes on as if it had computed the others, too; gradients
and losses are added up by one all-reduce. Running statistics of batch norms are linear in what the micro-batches bring, s becoming
(1 - m) s + m b for each: so the first process alone begins with what was there, each lets its own fade by (1 - m) for a micro-batch
that another computes, and their sum is what one process has after all of them.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from sentinode.fit.augment import Augmentation, augmented
from sentinode.fit.sound import Statistics, learning
from sentinode.machine.ranks import ALONE, Ranks
from sentinode.nets.forward import arithmetic

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Drop:
    """One call of dropout in a network: values a tile, of what type, and the share dropped."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    p: float


class Watched(TorchFunctionMode):
    """Notes the calls of dropout that draw."""

    def __init__(self) -> None:
        super().__init__()
        self.drops: list[Drop] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func`."""
        kwargs = kwargs or {}
        if func is functional.dropout:
            self.note(*args, **kwargs)
        return func(*args, **kwargs)

    def note(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> None:
        """Keep what there is to know of a call."""
        del inplace
        if training and p:
            self.drops.append(Drop(tuple(x.shape[1:]), x.dtype, p))


@dataclass(frozen=True)
class Share:
    """A process's part of a step on `n` tiles in all; `drops` is where the network draws."""

    n: int
    ranks: Ranks = ALONE
    drops: tuple[Drop, ...] = ()

    def sizes(self, micro_batch: int) -> Iterator[tuple[int, bool]]:
        """Yield the tiles of each micro-batch of the step, and whether this process computes it."""
        for number, first in enumerate(range(0, self.n, micro_batch)):
            yield min(micro_batch, self.n - first), number % self.ranks.world == self.ranks.rank

    def pass_over(self, k: int, device: torch.device, changes: Augmentation, chance: torch.Generator) -> None:
        """Draw all that a micro-batch of `k` tiles would draw: augmentation by tiny tiles, dropout by its masks."""
        grey = torch.ones(3)
        augmented(torch.zeros(k, 8, 8, 3, dtype=torch.uint8), grey, grey, changes, chance)
        for drop in self.drops:
            torch.dropout(torch.ones(k, *drop.shape, dtype=drop.dtype, device=device), drop.p, train=True)

    @torch.no_grad()
    def add_up(self, optimizer: torch.optim.Optimizer, loss_sum: Tensor, norms: "Norms") -> Tensor:
        """Put the sums over all processes into the gradients and the norms' statistics; return that of the losses.

        A parameter without a gradient, as all are where a process has no micro-batch, counts as zeros.
        """
        if self.ranks.world == 1:
            return loss_sum
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        parts = [*(p.grad for p in parameters), *norms.buffers(), norms.weights.to(loss_sum), loss_sum]
        whole = self.ranks.summed(torch.cat([part.reshape(-1) for part in parts]))
        pieces = torch.split(whole, [part.numel() for part in parts])
        for part, piece in zip(parts, pieces, strict=True):
            part.copy_(piece.view(part.shape))
        norms.close(parts[-2])
        return loss_sum


def positions_of(ranks: Ranks, whole: Positions, micro_batch: int) -> Positions:
    """Return those of a step's positions whose micro-batches this process computes."""
    if ranks.world == 1:
        return whole
    parts = [whole[first : first + micro_batch] for first in range(0, len(whole), micro_batch)]
    return np.concatenate([whole[:0], *parts[ranks.rank :: ranks.world]])


@torch.no_grad()
def drops_of(model: nn.Module, px: int, device: str, precision: str) -> tuple[Drop, ...]:
    """Return where `model`, in training, draws for dropout; a copy of it is shown two tiles of edge `px`. Call before a step's seeds."""
    with arithmetic(device, precision), Watched() as watched:
        copy.deepcopy(model)(torch.zeros(2, 3, px, px, device=device).contiguous(memory_format=torch.channels_last))
    return tuple(watched.drops)


@dataclass
class Norms:
    """The batch norms that learn, in one step of one process among several; `weights` [norms] is what its statistics add up to.

    All processes' weights sum to 1, but where memory was too small and a micro-batch came in more parts in one than in another.
    """

    ranks: Ranks
    norms: list[_BatchNorm] = field(default_factory=list)
    weights: Tensor = field(default_factory=lambda: torch.zeros(0))

    @classmethod
    @torch.no_grad()
    def begun(cls, ranks: Ranks, model: nn.Module, before: Statistics) -> "Norms":
        """Return the norms of `model` as a step begins, or begins again: with what was there `before` in the first process."""
        if ranks.world == 1:
            return cls(ranks)
        norms = learning(model)
        for buffer, held in before:
            buffer.copy_(held if ranks.first or not held.is_floating_point() else torch.zeros_like(held))
        return cls(ranks, norms, torch.full((len(norms),), float(ranks.first), dtype=torch.float64))

    def buffers(self) -> list[Tensor]:
        """Return the means and variances."""
        return [buffer for norm in self.norms for buffer in norm.buffers(recurse=False) if buffer.is_floating_point()]

    @torch.no_grad()
    def fade(self) -> None:
        """Let the statistics fade as they would for a micro-batch that another process computes."""
        for at, norm in enumerate(self.norms):
            kept = 1 - float(norm.momentum or 0.0)
            self.weights[at] *= kept
            for buffer in norm.buffers(recurse=False):
                buffer.copy_(buffer * kept if buffer.is_floating_point() else buffer + 1)

    def seen(self, parts: int) -> None:
        """Note that a micro-batch has gone through the network in so many parts."""
        for at, norm in enumerate(self.norms):
            self.weights[at] = 1 - (1 - self.weights[at]) * (1 - float(norm.momentum or 0.0)) ** parts

    def close(self, weights: Tensor) -> None:
        """Make means of the sums over all processes, whose weights sum to `weights` [norms]."""
        for norm, weight in zip(self.norms, weights, strict=True):
            for buffer in norm.buffers(recurse=False):
                if buffer.is_floating_point():
                    buffer.div_(weight)
