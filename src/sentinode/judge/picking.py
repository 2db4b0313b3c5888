"""Which models are better together: members of an ensemble picked one after another on the tiles that choose, never on those that judge.

What counts is the log loss of the mean logit at its own best temperature. Not the log loss as it is: that prefers whoever tempers an
overconfident model, however badly it ranks (simulated with three good members of six: test AUROC 0.9833, against 0.9843 with the best
temperature). And not the AUROC: the same there, but where valid is nearly separated, as tiles of training slides are, it rests on
the few pairs that are still in the wrong order, and ties; the log loss counts how far apart all the others are.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sentinode.errors import UndefinedScore
from sentinode.judge.auroc import auroc
from sentinode.judge.inputs import Array, Floats, Ints, checked_pair
from sentinode.judge.recalibrate import best_scale

LEAST_GAIN = 1e-6
"""Log losses nearer to each other than this are tied. A member that gains no more is left out: fewer members are cheaper."""
CRITERION = "log loss of the mean logit at its best temperature"
"""What picks, in words."""


@dataclass(frozen=True)
class Standing:
    """What a candidate alone, or an ensemble up to and with `name`, gets on the tiles that choose: log loss (the criterion), AUROC."""

    name: str
    log_loss: float
    auroc: float

    def as_dict(self) -> dict[str, Any]:
        """Return all of it, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Picking:
    """Who was picked, in this order, and what the ensemble got with each (`steps`).

    `alone` has every candidate by itself, `refused` what the ensemble would have got with the best of those left out (None where
    all were picked), `same` the names of candidates that are another's double, and of whom.
    """

    steps: tuple[Standing, ...]
    alone: dict[str, Standing]
    refused: Standing | None
    same: dict[str, str]

    @property
    def picked(self) -> tuple[str, ...]:
        """Names, the best first."""
        return tuple(step.name for step in self.steps)


def pick_members(labels: Array, candidates: Mapping[str, Array]) -> Picking:
    """Return which candidates to average: the best alone, then whoever lowers the log loss most, until nobody lowers it.

    Equal weights, nobody twice. Ties (within LEAST_GAIN) go to the higher AUROC, then to the name, so that the order of the
    candidates cannot show; candidates with the same logits count once, under the first of their names.

    Parameters
    ----------
    labels
        [n], 0 or 1, of the tiles that choose.
    candidates
        Logits [n] by name.

    Raises
    ------
    UndefinedScore
        If there is no candidate, a class is absent or a logit is not finite.

    Source: Caruana et al. 2004, Ensemble selection from libraries of models (forward selection, here without replacement);
    checked against brute force.
    """
    if not candidates:
        raise UndefinedScore("at least one candidate for an ensemble", "none", "train a member first")
    left, same = dict[str, Floats](), dict[str, str]()
    for name in sorted(candidates):
        labels, logits = checked_pair(labels, candidates[name])
        double = next((other for other, values in left.items() if np.array_equal(values, logits)), None)
        if double is None:
            left[name] = logits
        else:
            same[name] = double
    alone = {name: standing(name, labels, logits) for name, logits in left.items()}
    steps, total = [best_of(list(alone.values()))], np.zeros(labels.size)
    while True:
        total = total + left.pop(steps[-1].name)
        if not left:
            return Picking(tuple(steps), alone, None, same)
        each = [standing(name, labels, (total + logits) / (len(steps) + 1)) for name, logits in left.items()]
        best = best_of(each)
        if best.log_loss >= steps[-1].log_loss - LEAST_GAIN:
            return Picking(tuple(steps), alone, best, same)
        steps.append(best)


def best_of(standings: list[Standing]) -> Standing:
    """Return the standing of the lowest log loss; of those that tie with it, the highest AUROC, then the first name."""
    lowest = min(one.log_loss for one in standings)
    tied = [one for one in standings if one.log_loss <= lowest + LEAST_GAIN]
    return min(tied, key=lambda one: (-one.auroc, one.name))


def standing(name: str, labels: Ints, logits: Floats) -> Standing:
    """Return what logits [n] get under `name`."""
    return Standing(name, tempered_log_loss(labels, logits), auroc(labels, logits))


def tempered_log_loss(labels: Array, logits: Array) -> float:
    """Return the mean log loss (natural logarithm) of logits divided by the temperature, 1/10 to 10, that makes it least.

    The loss is convex in 1/temperature, so the zero of its slope is found by halving.

    Parameters
    ----------
    labels
        [n], 0 or 1.
    logits
        [n], any finite real.

    Raises
    ------
    UndefinedScore
        If a class is absent or a logit is not finite.

    Source: Guo et al. 2017 (temperature scaling); checked against scipy's minimize_scalar.
    """
    labels, logits = checked_pair(labels, logits)
    scale = best_scale(labels, logits)
    return float(np.mean(np.logaddexp(0, -scale * np.where(labels == 1, logits, -logits))))
