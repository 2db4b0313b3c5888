"""What each rung is worth: its AUROC with an interval, the paired difference to the rung below, and a verdict by a stated rule."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sentinode.flows.rungs import VIEWS, Climbed, Part
from sentinode.judge.auroc import auroc
from sentinode.judge.compare import auroc_difference, auroc_figure
from sentinode.judge.statement import Figure

Floats = npt.NDArray[np.float64]

RULE = (
    "worth it: the paired 95 % interval of the difference to the rung below lies above 0; worse: below 0; otherwise no better. "
    "The ensemble is compared with the member that is best on valid."
)
"""How a verdict is reached."""


def figure_on(part: Part, logits: Floats, resamples: int, seed: int) -> dict[str, Any]:
    """Return the AUROC of logits [n] on a part with its interval, as JSON has it."""
    return auroc_figure(part.labels, logits, part.slides, resamples, seed).as_dict()


def rows_of(rungs: Sequence[Climbed], judged: Sequence[Part], resamples: int, seed: int) -> list[dict[str, Any]]:
    """Return one row a rung, from the lowest; the last of `judged` decides the verdicts."""
    rows = []
    for at, rung in enumerate(rungs):
        row: dict[str, Any] = {
            "name": rung.name,
            "title": rung.title,
            "minutes": rung.minutes,
            "train_tiles_per_s": rung.train_rate,
            "predict_tiles_per_s": rung.predict_rate,
            "megabytes": rung.megabytes,
            "weights": rung.weights,
            "notes": list(rung.notes),
        }
        row |= {part.name: figure_on(part, rung.logits[part.name], resamples, seed) for part in judged}
        if at:
            row |= against(rung, below(rung, rungs[:at], judged[0]), judged[-1], resamples, seed)
        if rung.name == "ensemble":
            row["notes"].append(views_alone(below(rung, rungs[:at], judged[0]), judged[-1]))
        rows.append(row)
    return rows


def below(rung: Climbed, lower: Sequence[Climbed], valid: Part) -> Climbed:
    """Return what a rung is compared with: the one below; for the ensemble its best member, chosen on valid."""
    if rung.name != "ensemble":
        return lower[-1]
    return max((one for one in lower if one.views), key=lambda one: auroc(valid.labels, one.logits[valid.name]))


def against(rung: Climbed, other: Climbed, part: Part, resamples: int, seed: int) -> dict[str, Any]:
    """Return the paired difference to another rung on `part`, and the verdict in words."""
    difference = auroc_difference(part.labels, rung.logits[part.name], other.logits[part.name], part.slides, resamples, seed)
    verdict, cost = verdict_of(difference), cost_of(rung.minutes - other.minutes)
    return {
        "below": other.name,
        "below_title": other.title,
        "difference": difference.as_dict() | {"on": part.name},
        "verdict": verdict,
        "cost": cost,
    }


def verdict_of(difference: Figure) -> str:
    """Return the verdict that RULE gives for a paired difference."""
    if difference.low > 0:
        return "worth it"
    return "worse" if difference.high < 0 else "no better"


def cost_of(minutes: float) -> str:
    """Say how much longer, or shorter, a rung trains."""
    much = f"{abs(minutes):.1f} minutes" if abs(minutes) >= 1 else f"{60 * abs(minutes):.0f} s"
    return f"{much} of training {'more' if minutes >= 0 else 'less'}"


def views_alone(best: Climbed, part: Part) -> str:
    """Say what the best member reaches with the ensemble's views: what is left is the ensemble's own doing."""
    alone = auroc(part.labels, best.views[part.name])
    return f"{best.title} alone over {VIEWS} views: {alone:.4f} on {part.name}"
