"""Predictions out of fold: each tile by a probe that saw neither it nor what belongs to it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from sentinode.tiles.units import Codes

Floats = npt.NDArray[np.float64]
Features = npt.NDArray[Any]
"""Any real numbers [n, d]."""
Probe = Callable[[Features, Codes, Features], Floats]
"""Takes training features [m, d], their labels [m] of 0 and 1, and other features [k, d]; gives probabilities [k] of class 1."""


def out_of_fold(features: Features, labels: Codes, folds: Codes, probe: Probe) -> Floats:
    """Return for each tile the probability by a probe that was fitted to the other folds, float64 [n].

    Rows are handed over in ascending order; a probe whose sums depend on the order of rows depends on it in its last digits.
    """
    found = np.full(len(labels), np.nan)
    for fold in np.unique(folds):
        inside = folds == fold
        found[inside] = probe(features[~inside], labels[~inside], features[inside])
    return found
