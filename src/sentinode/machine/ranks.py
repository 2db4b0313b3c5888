"""Several processes of one job, as `torchrun` starts them: who this one is, what they tell each other, and who speaks.

All that is ours of torch.distributed is here. Gradients are summed where they lie (NCCL between GPUs); what is agreed on goes through
main memory (gloo), as JSON, so that no GPU is waited for and nothing is read that could run. Without torchrun there is one process,
and every method gives back what it was given.
"""

import functools
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sentinode.errors import MachineProblem, RunProblem, UsageProblem
from sentinode.limits import usable_cores
from sentinode.machine.memory import out_of_memory

if TYPE_CHECKING:  # the command line asks who speaks before anything heavy is imported
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

MEET = timedelta(minutes=10)
"""How long the processes wait for each other at the start, and for torchrun's table of notes at any time."""
WAIT = timedelta(hours=6)
"""How long one waits for another that works alone, as the first does while it fits a head. One that died is known at once."""


@dataclass(frozen=True)
class Ranks:
    """A process among `world` of them: number `rank` of all, number `local` of the `local_world` on this machine.

    The first (rank 0) decides what a clock, a folder or a measurement decides, writes all files, and speaks.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    local_world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def told(self, value: Any) -> Any:
        """Return the first process's `value`, as JSON gives it back (a tuple is a list)."""
        if self.world == 1:
            return value
        import numpy as np
        import torch

        data = np.frombuffer(json.dumps(value if self.first else None).encode(), np.uint8).copy()
        size = torch.tensor([len(data)])
        self.spread(size)
        there = torch.from_numpy(data) if self.first else torch.empty(int(size), dtype=torch.uint8)
        self.spread(there)
        return json.loads(there.numpy().tobytes())

    def decided(self, decide: Callable[[], Any]) -> Any:
        """Return what `decide` gives in the first process, the only one that calls it."""
        return self.told(decide() if self.first else None)

    def spread(self, *tensors: Any) -> None:
        """Put the first process's tensors, on any device, into those of the others."""
        if self.world > 1:
            from torch import distributed

            with lost():
                for tensor in tensors:
                    distributed.broadcast(tensor.data, 0)

    def summed(self, tensor: Any) -> Any:
        """Return `tensor`, on any device, after the sum over all processes was put into it: the same bits in each."""
        if self.world > 1:
            from torch import distributed

            with lost():
                distributed.all_reduce(tensor)
        return tensor

    def total(self, number: float) -> float:
        """Return the sum of a number over all processes."""
        import torch

        return float(self.summed(torch.tensor([number], dtype=torch.float64))) if self.world > 1 else number

    def wait(self) -> None:
        """Go on when all have come here."""
        self.total(0.0)

    def check_same(self, what: str, value: str) -> None:
        """Raise RunProblem unless `value` is the same in all processes: they could not work on one job."""
        if self.total(float(self.told(value) != value)):
            do = "give them the same files and versions of Sentinode and its packages"
            raise RunProblem(f"the same {what} in all {self.world} processes", "others in some of them", do)

    def span(self, n: int, batch: int) -> tuple[int, int]:
        """Return this process's share of `n` tiles as (first, last + 1): whole batches, those that one process would have."""
        batches = -(-n // batch)
        first, last = (min(n, batch * (number * batches // self.world)) for number in (self.rank, self.rank + 1))
        return first, last

    def gathered(self, values: "Floats") -> "Floats":
        """Return float32 [n], the `values` of all processes one behind the other."""
        if self.world == 1:
            return values
        import numpy as np
        import torch
        from torch import distributed

        sizes = torch.zeros(self.world, dtype=torch.int64)
        sizes[self.rank] = len(values)
        mine = torch.zeros(max(1, int(self.summed(sizes).max())))
        mine[: len(values)] = torch.from_numpy(np.ascontiguousarray(values))
        parts = [torch.empty_like(mine) for _ in sizes]
        with lost():
            distributed.all_gather(parts, mine)
        return np.concatenate([part[:size].numpy() for part, size in zip(parts, sizes, strict=True)])

    def give(self, values: "npt.NDArray[Any]") -> None:
        """Send an array to the first process, which takes it by `take`."""
        import numpy as np
        import torch
        from torch import distributed

        with lost():
            distributed.send(torch.from_numpy(np.ascontiguousarray(values)), 0)

    def take(self, values: "npt.NDArray[Any]", rank: int) -> "npt.NDArray[Any]":
        """Return `values` after what process `rank` gives was written into them."""
        import torch
        from torch import distributed

        with lost():
            distributed.recv(torch.from_numpy(values), rank)
        return values


ALONE = Ranks()
"""The one process there is without torchrun."""


def started() -> Ranks:
    """Return what torchrun says of this process; `ALONE` where it was not started so. Nothing is joined yet."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return ALONE
    return Ranks(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")))


def attempt() -> int:
    """Return how often torchrun has run this command before, each time until a process of it died (`--max-restarts`)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@functools.cache
def notes() -> Any:
    """Return the table that all processes of the job read and write; torchrun keeps it over restarts, each of which has a part."""
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]
    from torch.distributed.rendezvous import rendezvous

    return PrefixStore(f"attempt {attempt()}", next(rendezvous("env://", timeout=MEET))[0])


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Be one of the processes that torchrun started; alone without it. `device` as the settings name it.

    The cores of a machine are divided between its processes, unless OMP_NUM_THREADS says otherwise; torchrun itself sets it to 1.
    Raises UsageProblem where the calling program has a process group of its own.
    """
    here = started()
    if here.world == 1:
        yield ALONE
        return
    import torch
    from torch import distributed

    if distributed.is_initialized():
        raise UsageProblem(
            "a program without a process group of its own", "one that has called init_process_group", "leave that to Sentinode"
        )
    if os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(max(1, usable_cores() // here.local_world))
    on_gpu = device != "cpu" and torch.cuda.is_available() and here.local < torch.cuda.device_count()
    if on_gpu:
        torch.cuda.set_device(here.local)
    group: dict[str, Any] = {"rank": here.rank, "world_size": here.world, "timeout": WAIT}
    with lost():
        job = notes().add(f"jobs of {here.rank}", 1)  # a program may train and then predict: each time a group of its own
        store = distributed.PrefixStore(f"job {job}", notes())  # type: ignore[attr-defined]
        distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", store=store, **group)
    yield here
    # After an error the process ends instead: leaving a group whose others may be gone can wait for them for ever.
    distributed.destroy_process_group()


@contextmanager
def lost() -> Iterator[None]:
    """Turn what torch.distributed says of a process that is gone into an error in three parts."""
    try:
        yield
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        here = started()
        raise MachineProblem(
            f"all {here.world} processes of this job",
            f"one that died or cannot be reached ({' '.join(str(error).split())[:160]})",
            "run the same command with --resume, where it has that: finished work is kept",
        ) from error


def speaker(*, of_error: bool = False) -> str | None:
    """Return what to put before a line that this process prints; None where it is not the one to print it.

    Results are the first process's to tell. Of errors the earliest is told, by whoever met it: those that come later follow from it.
    """
    here = started()
    if here.world == 1 or not of_error:
        return "" if here.first else None
    try:
        earliest = notes().add("told", 1) == 1
    except (RuntimeError, OSError, ValueError):  # torchrun itself is gone: better told twice than never
        earliest = True
    return f"process {here.rank + 1} of {here.world} on {socket.gethostname()}: " if earliest else None
