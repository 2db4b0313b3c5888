"""The reference study's table with ours beside it, row by row."""

from collections.abc import Sequence
from typing import Any

from sentinode.flows.mistakes import STUDYS
from sentinode.flows.rungs import SAMPLED, Climbed, Part
from sentinode.flows.verdicts import figure_on

STUDY = (
    ("simple CNN, all tiles", 0.9365, "simple-cnn"),
    ("simple CNN, 5 % sample", 0.9300, SAMPLED),
    ("frozen ResNet50, new head, 5 % sample", 0.7237, "frozen"),
)
"""What the study reported of its validation tiles, and the run of ours that stands beside it."""


def study_rows(
    climbed: Sequence[Climbed], judged: Sequence[Part], resamples: int, seed: int, mistakes: dict[str, Any] | None
) -> list[dict[str, Any]]:
    """Return the study's rows that have a run of ours beside them, with its AUROC on each part; the mistake made again last."""
    ours = {one.name: one for one in climbed}
    rows = [
        {"study": name, "auc": auc, "ours": ours[beside].title}
        | {part.name: figure_on(part, ours[beside].logits[part.name], resamples, seed) for part in judged}
        for name, auc, beside in STUDY
        if beside in ours
    ]
    if mistakes:
        again = next(row for row in mistakes["rows"] if row["name"] == STUDYS)
        rows.append({"study": STUDY[-1][0], "auc": STUDY[-1][1], "ours": "its scaling, its head"} | again["dense"])
    return rows
