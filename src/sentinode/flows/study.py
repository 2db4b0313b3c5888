"""The reference study's table with ours beside it, row by row."""

from collections.abc import Sequence
from typing import Any

from sentinode.flows.mistakes import STUDYS
from sentinode.flows.rungs import SAMPLED, Climbed, Part
from sentinode.flows.verdicts import figure_on

STUDY = (
    ("simple CNN, dense head, Kaggle's 220,025", 0.9365, "simple-cnn"),
    ("simple CNN, dense head, 5 % of Kaggle's", 0.9300, SAMPLED),
    ("frozen ResNet50, dense head, 5 % of Kaggle's", 0.7237, "frozen"),
)
"""What the study trained (network, head, tiles of Kaggle's 220,025), its AUC on its validation tiles, and our run beside it."""


def study_rows(
    climbed: Sequence[Climbed], judged: Sequence[Part], resamples: int, seed: int, mistakes: dict[str, Any] | None
) -> list[dict[str, Any]]:
    """Return the study's rows that have a run of ours beside them, with its AUROC on each part; the mistake made again last."""
    ours = {one.name: one for one in climbed}
    rows = [
        {"study": name, "auc": auc, "ours": words_of(ours[beside])}
        | {part.name: figure_on(part, ours[beside].logits[part.name], resamples, seed) for part in judged}
        for name, auc, beside in STUDY
        if beside in ours
    ]
    if mistakes:
        again = next(row for row in mistakes["rows"] if row["name"] == STUDYS)
        rows.append({"study": STUDY[-1][0], "auc": STUDY[-1][1], "ours": again_words(mistakes)} | again["dense"])
    return rows


def words_of(run: Climbed) -> str:
    """Name what was trained: network, head and tiles."""
    return f"{run.title}, {run.network} with {run.head}, {run.tiles:,} tiles"


def again_words(mistakes: dict[str, Any]) -> str:
    """Name the study's mistake, made again."""
    return f"its scaling again, frozen {mistakes['network']} with its dense head, {mistakes['n_train']:,} tiles"
