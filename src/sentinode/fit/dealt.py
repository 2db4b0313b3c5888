"""Blocks of features dealt to the processes of a job: each computes some, the first collects them in their order.

What is missing, which form of the network computes it and what is written is the first process's matter; the others compute what
they are told to. A block is the same whoever computes it: its batches are those of one process.
"""

import functools
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from sentinode.machine.ranks import Ranks
from sentinode.nets.room import with_room

Values = npt.NDArray[np.float32]
Span = tuple[int, int]
Make = Callable[[Span, int], Values]
"""Computes the features [k, views, d] of the tiles of a span, so many at a time."""


def blocks(ranks: Ranks, make: Make, n: int, size: tuple[int, int, int], at_once: int) -> Iterator[tuple[Span, Values, int]]:
    """Yield, in the first process, each block of `n` tiles as (span, features, tiles at a time there was room for); in others nothing.

    Parameters
    ----------
    size
        Shape of a whole block: tiles, views, numbers a view.
    at_once
        Tiles at a time; the first process's counts, and becomes the least that was found to have room.
    """
    step = size[0]
    spans = [(first, min(first + step, n)) for first in range(0, n, step)]
    for start in range(0, len(spans), ranks.world):
        turn = spans[start : start + ranks.world]
        at_once = ranks.told(at_once)
        mine, room = np.empty((0, *size[1:]), np.float32), at_once
        if ranks.rank < len(turn):
            mine, room = with_room(functools.partial(make, turn[ranks.rank]), at_once)
        if not ranks.first:
            if ranks.rank < len(turn):
                ranks.give(np.array([room]))
                ranks.give(mine)
            continue
        for rank, span in enumerate(turn):
            if rank:
                room = int(ranks.take(np.zeros(1, np.int64), rank)[0])
                mine = ranks.take(np.empty((span[1] - span[0], *size[1:]), np.float32), rank)
            at_once = min(at_once, room)
            yield span, mine, at_once
