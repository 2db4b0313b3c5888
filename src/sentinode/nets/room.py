"""Work that goes on with fewer tiles at a time where memory is too small for them: half as many, down to one."""

import ctypes
import gc
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from sentinode.machine.memory import out_of_memory

Result = TypeVar("Result")


def with_room(work: Callable[[int], Result], at_once: int) -> tuple[Result, int]:
    """Return `work(k)` and k: `at_once`, or where memory is too small for it the first of its halves that is not.

    Parameters
    ----------
    work
        Called with a number of tiles, at least 1; called again from its beginning, so it must leave nothing behind when it fails.
    at_once
        The number to begin with.

    Raises
    ------
    MemoryError, RuntimeError, ValueError, OSError
        What a library says where memory is too small for a single tile; `memory_problems` turns it into one line.
    """
    while True:
        try:
            return work(at_once), at_once
        except (MemoryError, RuntimeError, ValueError, OSError) as error:
            if at_once <= 1 or not out_of_memory(error):
                raise
        # Here and not above: as long as the error is handled, its traceback holds what the failed attempt had made.
        at_once //= 2
        free_caches()


def free_caches() -> None:
    """Give back what nobody holds any more: cycles of Python's, torch's blocks on the GPU, glibc's on the CPU."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
    if sys.platform.startswith("linux"):
        library = ctypes.CDLL(None)
        if hasattr(library, "malloc_trim"):
            library.malloc_trim(0)


def fewer(before: int, now: int) -> str:
    """Return the sentence that says so."""
    return f"memory is too small for {before:,} tiles at a time: {now:,} from here on"


class SameDrop(TorchFunctionMode):
    """Dropout of some tiles of a micro-batch drops what it would in the whole: the mask of all `n` is drawn, and theirs cut out.

    `first` is the number of the first of the tiles in their micro-batch. The caller winds torch's generator back for each part.
    """

    def __init__(self, n: int, first: int) -> None:
        super().__init__()
        self.n, self.first = n, first

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func`, dropout in its own way."""
        kwargs = kwargs or {}
        if func is not functional.dropout:
            return func(*args, **kwargs)
        return self.dropped(*args, **kwargs)

    def dropped(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        """Return `x` [k, ...] with the share `p` of its values dropped and the others scaled up."""
        del inplace  # what is dropped in place may be needed again
        if not training or not p:
            return x
        mask = torch.dropout(x.new_ones(self.n, *x.shape[1:]), p, train=True)
        return x * mask[self.first : self.first + len(x)]
