"""When to say "don't know": sets of labels that hold the true one as often as stated, on tiles of slides that were never seen.

Split conformal prediction with slides as the unit that is exchangeable: the tiles that choose say how unlikely the true label of a tile
can look, each slide counting once however many tiles it has, and one slide more that is as bad as can be stands for the next one.
A set of one label is a call; both labels, or none, is "don't know".
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sentinode.errors import UndefinedScore, shown
from sentinode.judge.inputs import Array, checked_pair
from sentinode.judge.statement import TILES, slides_of
from sentinode.judge.threshold import wilson_interval

COVERAGE = 0.9
"""Share of sets that are to hold the true label."""
Called = npt.NDArray[np.int64]
"""int64 [n]: 1 or 0 where a label is called, -1 where it is not known."""


@dataclass(frozen=True)
class Cut:
    """How unlikely a label may be and still stay in a set: `value` in [0, 1], 1 keeps both labels of every tile.

    `coverage` is what was asked for, `n_units` counts the slides (or tiles, `unit` says which) that chose, `why` is empty or says why
    nothing can be called.
    """

    value: float
    coverage: float
    unit: str
    n_units: int
    why: str

    def as_dict(self) -> dict[str, Any]:
        """Return all of it, for JSON."""
        return asdict(self)


def conformal_cut(labels: Array, probability: Array, groups: Array, coverage: float = COVERAGE) -> Cut:
    """Return the cut that the tiles of valid ask for.

    Parameters
    ----------
    labels, probability
        [n], of tiles that choose.
    groups
        Their slides, "" unknown. Where not all are known, tiles are the units, and `unit` says what that assumes.
    coverage
        Share of sets, over slides and then over a slide's tiles, that hold the true label; in (0, 1).

    Raises
    ------
    UndefinedScore
        If a class is absent, a probability is not in [0, 1], or the coverage is not in (0, 1).

    Source: Lee, Barber and Willett 2023, Distribution-free inference with hierarchical data, equation 4 (a tile of slide k weighs
    1 / ((K + 1) n_k), the next slide 1 / (K + 1) at the worst score); with one tile a slide, Vovk's split conformal prediction.
    """
    labels, probability = checked_pair(labels, probability, probability=True)
    if not 0 < coverage < 1:
        raise UndefinedScore("a coverage in (0, 1)", shown(coverage), "ask for one, such as 0.9")
    slides = slides_of(groups)
    codes, n_units = (slides.codes, slides.n) if slides.usable else (np.arange(labels.size), labels.size)
    unit = "slides" if slides.usable else f"tiles, {TILES}"
    unlikely = np.where(labels == 1, 1 - probability, probability)
    weight = 1 / ((n_units + 1) * np.bincount(codes)[codes])
    order = np.argsort(unlikely, kind="stable")
    reached = np.cumsum(weight[order])
    enough = np.flatnonzero(reached >= coverage - 1e-12)
    if not enough.size:
        least = int(np.ceil(coverage / (1 - coverage) - 1e-9))
        why = f"{n_units} {unit} chose; a coverage of {coverage:g} takes {least}"
        return Cut(1.0, coverage, unit, n_units, why)
    return Cut(float(unlikely[order][enough[0]]), coverage, unit, n_units, "")


def called(probability: Array, cut: float) -> Called:
    """Return the label of each tile whose set holds one label; -1 where it holds both or none. [n] probabilities, in [0, 1]."""
    p = np.asarray(probability, np.float64)
    positive, negative = 1 - p <= cut, p <= cut
    return np.where(positive == negative, -1, np.where(positive, 1, 0)).astype(np.int64)


def abstention(labels: Array, probability: Array, cut: Cut) -> dict[str, Any]:
    """Return what the sets are worth on tiles that judge: coverage, share not called, and accuracy of what is called.

    Shares have Wilson intervals, which assume independent tiles and are labelled so.

    Raises
    ------
    UndefinedScore
        If a class is absent or a probability is not in [0, 1].
    """
    labels, probability = checked_pair(labels, probability, probability=True)
    unlikely = np.where(labels == 1, 1 - probability, probability)
    said = called(probability, cut.value)
    sure = said >= 0
    found: dict[str, Any] = {
        "cut": cut.as_dict(),
        "covered": share(unlikely <= cut.value),
        "not_called": share(~sure),
        "n": int(labels.size),
    }
    if sure.any():
        found["right_when_called"] = share(said[sure] == labels[sure])
    return found


def share(of: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Return the share of tiles as a figure."""
    low, high = wilson_interval(int(of.sum()), of.size)
    return {"estimate": float(of.mean()), "low": low, "high": high, "method": f"Wilson, {TILES}", "n": int(of.size)}
