"""The one forward pass: uint8 tiles in, logits out. Training's validation, prediction and the benchmarks all go through it."""

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sentinode.machine.memory import refusing
from sentinode.nets.room import fewer, with_room
from sentinode.nets.transform import Transform

Logits = npt.NDArray[np.float32]
"""float32 [n]."""
Call = Callable[[Tensor], Tensor]
"""Takes normalised float32 [k, 3, p, p], channels-last; gives float32 [k, d] or [k]."""
VIEWS = {1: (0,), 4: (0, 3, 5, 6), 8: tuple(range(8))}
"""Dihedral views by their number: the tile as it is; the four rotations; rotations and reflections."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Reduced arithmetic by its short name."""


def view(tiles: Tensor, number: int) -> Tensor:
    """Return dihedral view `number` (0 to 7) of tiles [n, h, w, c], h = w: bit 4 transposes, then 1 and 2 flip rows, columns."""
    if number & 4:
        # Whatever comes next reads it in order: a copy of bytes here is several times faster than a strided read of floats there.
        tiles = tiles.transpose(1, 2).contiguous()
    flips = [axis for bit, axis in ((1, 1), (2, 2)) if number & bit]
    return tiles.flip(flips) if flips else tiles


def placed(model: nn.Module, device: torch.device | str) -> nn.Module:
    """Return `model` on `device` with its convolutions in channels-last order, in which tiles arrive and cores are fastest."""
    return model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@contextmanager
def arithmetic(device: torch.device | str, precision: str) -> Iterator[None]:
    """Have the network compute in this precision, also inside another: autocast to bf16 or fp16, else fp32.

    A GPU multiplies fp32 as TF32, 10 bits instead of 23, where that is asked for and nowhere else: torch's own default for
    convolutions is to do so unasked. It tries which of its kernels is the fastest for each shape.
    """
    kind = torch.device(device).type
    cudnn, exact = torch.backends.cudnn, precision != "tf32"
    flags: list[tuple[Any, str, bool]] = [(torch.backends.cuda.matmul, "allow_tf32", not exact), (cudnn, "allow_tf32", not exact)]
    flags = [*flags, (cudnn, "benchmark", True)] if kind == "cuda" else []
    before = [getattr(where, name) for where, name, _ in flags]
    try:
        for where, name, value in flags:
            setattr(where, name, value)
        with torch.autocast(kind, DTYPES.get(precision), enabled=precision in DTYPES):
            yield
    finally:
        for (where, name, _), was in zip(flags, before, strict=True):
            setattr(where, name, was)


def sent(values: Tensor, device: torch.device | str) -> Tensor:
    """Return `values` on `device`; from a CPU to a GPU they are copied while the host goes on."""
    leaves = values.device.type == "cpu" and torch.device(device).type == "cuda"
    return values.pin_memory().to(device, non_blocking=True) if leaves else values.to(device)


@torch.inference_mode()
def logits(
    model: nn.Module | Call,
    parts: Iterable[Tensor],
    transform: Transform,
    *,
    views: int = 1,
    precision: str = "fp32",
    done: Callable[[int], object] = lambda _: None,
    say: Callable[[str], object] = lambda _: None,
) -> Logits:
    """Return the logit of each tile, the mean over its dihedral views.

    Parameters
    ----------
    model
        Takes what `transform` makes, gives logits [n]: a network, judged in evaluation mode and left in the mode it came in, or one
        of its forms (`nets/engine.py`), which has an arithmetic of its own.
    parts
        Batches of tiles, uint8 [k, px, px, 3], on any device; `slices` cuts an array or a memory map.
    transform
        The network's own; the tiles go to its device.
    views
        1, 4 or 8.
    precision
        "fp32", "bf16" or "fp16".
    done
        Called with the number of tiles just finished.
    say
        Told in a sentence where memory is too small for a batch, and half as many tiles at a time go on.
    """
    device = transform.mean.device
    kept, most = Kept(device), 1 << 30

    def of(part: Tensor, at_once: int) -> Tensor:
        """Return the logits of a batch, `at_once` tiles at a time."""
        made = []
        for some in torch.split(part, at_once):
            there = sent(some, device)
            passes = [model(transform(view(there, number))).float() for number in VIEWS[views]]
            made.append(torch.stack(passes).mean(0))
        return torch.cat(made)

    with arithmetic(device, precision), evaluation(model), leaving_cores(model), refusing(device.type):
        for part in parts:
            planned = min(most, len(part))
            made, at_once = with_room(functools.partial(of, part), planned)
            if at_once < planned:
                most = at_once
                say(fewer(planned, at_once))
            kept.add(made)
            done(len(part))
    return kept.all()


@contextmanager
def evaluation(model: nn.Module | Call) -> Iterator[None]:
    """Have a network in evaluation mode, and afterwards in the mode it was in."""
    if not isinstance(model, nn.Module):
        yield
        return
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def leaving_cores(model: nn.Module | Call) -> Iterator[None]:
    """Keep torch to one thread beside a form that has threads of its own, in which it is set by `own_threads`.

    Torch's other threads go on turning for milliseconds after each piece of work, in wait for the next, on cores that the form needs:
    views and normalising took 1 % of the time of ResNet18 in whole numbers and cost 12 % (2 cores, libgomp).
    """
    if not getattr(model, "own_threads", False):
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Kept:
    """Logits as they come, in blocks that are there before the batches.

    A small tensor kept from each batch would lie between the big ones that are freed, and the heap would grow with every batch:
    2 MB each, measured with glibc.
    """

    BLOCK = 65_536

    def __init__(self, device: torch.device) -> None:
        self.blocks = [torch.empty(self.BLOCK, device=device)]
        self.used = 0

    def add(self, logits: Tensor) -> None:
        """Keep float32 [k]."""
        while len(logits):
            if self.used == self.BLOCK:
                self.blocks.append(torch.empty_like(self.blocks[0]))
                self.used = 0
            part = logits[: self.BLOCK - self.used]
            self.blocks[-1][self.used : self.used + len(part)] = part
            self.used += len(part)
            logits = logits[len(part) :]

    def all(self) -> Logits:
        """Return all of them, float32 [n]."""
        return torch.cat([*self.blocks[:-1], self.blocks[-1][: self.used]]).cpu().numpy()


def slices(tiles: npt.NDArray[np.uint8], batch: int) -> Iterator[Tensor]:
    """Yield tiles uint8 [n, px, px, 3] in order as tensors of at most `batch` rows; a memory map is copied a slice at a time."""
    for start in range(0, len(tiles), batch):
        yield torch.from_numpy(np.array(tiles[start : start + batch]))
