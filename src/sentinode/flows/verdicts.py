"""What each rung is worth: its AUROC with an interval, the paired difference to the rung below, and a verdict by a stated rule."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sentinode.flows.rungs import Climbed, Part
from sentinode.judge.compare import auroc_difference, auroc_figure
from sentinode.judge.statement import Figure

Floats = npt.NDArray[np.float64]

RULE = (
    "worth it: the paired 95 % interval of the difference to the rung below lies above 0; worse: below 0; otherwise no better. "
    "The ensemble is compared with the member that is best on valid, over the same views."
)
"""How a verdict is reached."""


def figure_on(part: Part, logits: Floats, resamples: int, seed: int) -> dict[str, Any]:
    """Return the AUROC of logits [n] on a part with its interval, as JSON has it."""
    return auroc_figure(part.labels, logits, part.slides, resamples, seed).as_dict()


def rows_of(rungs: Sequence[Climbed], judged: Sequence[Part], resamples: int, seed: int) -> list[dict[str, Any]]:
    """Return one row a rung, from the lowest; the last of `judged` decides the verdicts.

    Whom the ensemble is compared with, `members.against_best` says.
    """
    rows = []
    for at, rung in enumerate(rungs):
        row: dict[str, Any] = {
            "name": rung.name,
            "title": rung.title,
            "minutes": rung.minutes,
            "minutes_lack": rung.lack,
            "train_tiles_per_s": rung.train_rate,
            "predict_tiles_per_s": rung.predict_rate,
            "megabytes": rung.megabytes,
            "weights": rung.weights,
            "notes": list(rung.notes),
        }
        row |= {part.name: figure_on(part, rung.logits[part.name], resamples, seed) for part in judged}
        if at and rung.name != "ensemble":
            on, other = judged[-1], rungs[at - 1]
            row |= against(rung, other, other.logits[on.name], on, resamples, seed)
        rows.append(row)
    return rows


def against(rung: Climbed, other: Climbed, logits: Floats, part: Part, resamples: int, seed: int) -> dict[str, Any]:
    """Return the paired difference to another rung's `logits` [n] on `part`, and the verdict in words."""
    difference = auroc_difference(part.labels, rung.logits[part.name], logits, part.slides, resamples, seed)
    return {
        "below": other.name,
        "below_title": other.title,
        "difference": difference.as_dict() | {"on": part.name},
        "verdict": verdict_of(difference),
        "cost": cost_of(rung, other),
    }


def verdict_of(difference: Figure) -> str:
    """Return the verdict that RULE gives for a paired difference."""
    if difference.low > 0:
        return "worth it"
    return "worse" if difference.high < 0 else "no better"


def cost_of(rung: Climbed, other: Climbed) -> str:
    """Say how much longer, or shorter, a rung trains than another, and whether that is all that is known of it."""
    minutes = rung.minutes - other.minutes
    much = f"{abs(minutes):.1f} minutes" if abs(minutes) >= 1 else f"{60 * abs(minutes):.0f} s"
    known = ", as far as noted" if rung.lack or other.lack else ""
    return f"{much} of training {'more' if minutes >= 0 else 'less'}{known}"


def signed(difference: dict[str, Any]) -> str:
    """Return a difference and its interval with their signs."""
    return f"{difference['estimate']:+.4f} ({difference['low']:+.4f} to {difference['high']:+.4f})"
