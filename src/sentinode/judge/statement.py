"""A figure and its interval, and which tiles are units of chance: slides where all are known, otherwise tiles, labelled so."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sentinode.judge.inputs import Array, Ints, group_codes
from sentinode.tiles.units import true_slides

TILES = "assumes independent tiles"
"""Stands in the method of every interval that does not know about slides."""
FEW_SLIDES = 40
"""Below this many slides, percentile intervals over slides are coarse: they rest on too few units."""


@dataclass(frozen=True)
class Interval:
    """A 95 % interval and how it was made."""

    low: float
    high: float
    method: str


@dataclass(frozen=True)
class Figure:
    """One figure: the estimate on all tiles (never the mean of resamples) and its 95 % interval.

    `method` says how the interval was made; `n` counts the tiles the figure is about and `n_groups` their slides (0: not known).
    Where `method` goes by slides, `tiles` is the interval that assumes independent tiles, to stand beside it, and `clustered`,
    of an AUROC or a difference of two, the one by clustered DeLong: slides too, and no resamples.
    """

    name: str
    estimate: float
    low: float
    high: float
    method: str
    n: int
    n_groups: int
    tiles: Interval | None = None
    clustered: Interval | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the figure without its name, for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "name" and value is not None}


@dataclass(frozen=True)
class Slides:
    """The slides of a sample: `codes` int64 [n] in 0..n-1 of the sorted names. `warnings` say what is unknown or coarse.

    `usable` is False where an interval by slides cannot be given: a slide is unknown, or all tiles are from one.
    """

    codes: Ints
    n: int
    usable: bool
    warnings: tuple[str, ...]


def slides_of(groups: Array) -> Slides:
    """Look at the group names [n] ("" unknown) and say whether slides can be the unit of chance; none is ever guessed.

    A pseudo-group is an unknown slide.
    """
    groups = true_slides(groups)
    codes, n = group_codes(groups)
    n_unknown = int(np.sum(groups == ""))
    if n_unknown == codes.size:
        why = f"the slides of the tiles are not known: every interval {TILES} and is too narrow if they share slides"
        return Slides(codes, 0, False, (why,))
    if n_unknown:
        why = f"the slide of {n_unknown:,} of {codes.size:,} tiles is not known and is not guessed: every interval {TILES}"
        return Slides(codes, n - 1, False, (why,))
    if n < 2:
        why = f"all tiles are from one slide: nothing can be said about the next one, and every interval {TILES}"
        return Slides(codes, n, False, (why,))
    few = (f"only {n} slides: intervals over slides are coarse below about {FEW_SLIDES}",) if n < FEW_SLIDES else ()
    return Slides(codes, n, True, few)


def slide_method(resamples: int) -> str:
    """Return how an interval over slides is named."""
    return f"slide bootstrap ({resamples} resamples)"
