"""Folds of whole units (tiles, sets of duplicates, slides, pseudo-groups), both classes in each."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from sentinode.errors import UndefinedScore
from sentinode.tiles.units import Codes, seeded_keys

FOLDS = 5
"""Folds, where there are as many units of each class."""


def folds_of(units: Codes, labels: Codes, ids: Sequence[str], what: str, seed: int = 0, k: int | None = None) -> Codes:
    """Return the fold of each tile, int64 [n]: units stay whole, classes are spread evenly, every fold has both.

    Units go one by one, the largest first, to the fold that is then most even; equals in an order that ids and seed decide. There
    are `k` folds, or without `k` five, or fewer where five would leave one without a class. The order of rows changes nothing.

    Parameters
    ----------
    units, labels
        [n]; labels 0 or 1.
    ids
        Unique, [n].
    what
        The units in words, for the message.
    seed
        Of the order.
    k
        Exactly so many folds.

    Raises
    ------
    UndefinedScore
        If not even two folds, or not all of `k`, have both classes.
    """
    table = pd.DataFrame({"unit": units, "positive": labels, "negative": 1 - labels, "id": list(ids)})
    found = table.groupby("unit").agg(positive=("positive", "sum"), negative=("negative", "sum"), id=("id", "min"))
    keys = seeded_keys(found["id"].tolist(), seed)
    counts = found[["negative", "positive"]].to_numpy(np.int64)
    order = sorted(range(len(found)), key=lambda at: (-int(counts[at].sum()), keys[at]))
    for folds in range(min(FOLDS, len(found)), 1, -1) if k is None else [k]:
        fold, held = spread(counts, order, folds)
        if (held > 0).all():
            return fold[np.searchsorted(found.index.to_numpy(), units)]
    raise UndefinedScore(
        f"{what} that make {k or 'two'} folds with both classes",
        f"{len(found):,} with {int(counts[:, 1].sum()):,} positive and {int(counts[:, 0].sum()):,} negative tiles",
        "pack more labelled tiles, of more slides",
    )


def spread(counts: Codes, order: list[int], k: int) -> tuple[Codes, npt.NDArray[np.float64]]:
    """Return the fold of each unit, and the share of each class that each fold holds, [k, 2]."""
    shares = (counts / np.maximum(counts.sum(axis=0), 1)).tolist()
    held, fold = [[0.0, 0.0] for _ in range(k)], np.zeros(len(counts), np.int64)
    for at in order:
        a, b = shares[at]
        # Least sum of squares afterwards: what a unit adds to its fold, 2 h s + s^2, of which s^2 is the same everywhere.
        into = min(range(k), key=lambda f: (held[f][0] * a + held[f][1] * b, held[f][0] + held[f][1], f))
        fold[at] = into
        held[into][0] += a
        held[into][1] += b
    return fold, np.array(held)
