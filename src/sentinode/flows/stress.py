"""`evaluate --stress`: how far a prediction moves over the eight views, whether it follows the centre, and what shifts cost."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sentinode.errors import UsageProblem
from sentinode.judge.auroc import auroc
from sentinode.judge.compare import auroc_difference, auroc_figure
from sentinode.judge.statement import Slides, slides_of
from sentinode.progress import Progress
from sentinode.scores import probability_of
from sentinode.settings import EvaluateSettings
from sentinode.tiles.shifts import CHANGES, centre_covered, rim_covered
from sentinode.tiles.split import sample_positions
from sentinode.tiles.store import Store

Floats = npt.NDArray[np.float64]
MOST_TILES = 2000
"""Tiles that are stressed at most, classes in proportion: each is predicted 21 times."""


def stress_of(runs: list[Path], store: Store, threshold: float, settings: EvaluateSettings, progress: Progress) -> dict[str, Any]:
    """Return what goes into judgement.json as `stress`; nothing where it is not asked for.

    Raises UsageProblem for scores without the model that made them.
    """
    if not settings.stress:
        return {}
    if not runs:
        raise UsageProblem(
            "a run for --stress", "a scores file, which cannot be asked again", "name the run, or leave --stress out"
        )
    from sentinode.infer.stress import logits_of, logits_of_views
    from sentinode.nets.trained import load

    rows = stressed_rows(store, settings.seed)
    models, tiles = [load(run) for run in runs], np.array(store.tiles[rows])
    labels = store.rows["label"].to_numpy(np.int64)[rows]
    slides = slides_of(store.rows["group"].astype(str).to_numpy(str)[rows])
    with progress.track("stress", (8 + 2 + len(CHANGES)) * len(rows)) as done:
        views = logits_of_views(models, tiles, done)
        made = []
        for change in (centre_covered, rim_covered, *(one.apply for one in CHANGES)):
            made.append(logits_of(models, tiles, change))
            done(len(rows))
    rim_only, centre_only, *shifted = made
    judged = (labels, slides, settings)
    return {
        "n": len(rows),
        "n_groups": slides.n,
        "dihedral": certificate(views, threshold),
        "geometry": geometry(views[:, 0], centre_only, rim_only, judged),
        "shifts": [
            {"name": one.name, "size": one.size} | beside(views[:, 0], logits, judged)
            for one, logits in zip(CHANGES, shifted, strict=True)
        ],
    }


def stressed_rows(store: Store, seed: int) -> npt.NDArray[np.int64]:
    """Return the labelled rows of a store, of more than MOST_TILES a sample by a seeded hash of the id."""
    labels = store.rows["label"].to_numpy()
    known = int((labels >= 0).sum())
    # One fewer a class than the share allows, since each class rounds up.
    share = Fraction(1) if known <= MOST_TILES else Fraction(MOST_TILES - 2, known)
    return sample_positions(store.rows["id"].astype(str).tolist(), labels, share, seed)


def certificate(views: Floats, threshold: float) -> dict[str, Any]:
    """Return how far the probability of a tile moves over its views, and the share of tiles that some view calls differently.

    `views` are logits float64 [n, 8]; of the span (highest less lowest probability): mean, 95th percentile, largest.
    """
    p = probability_of(views)
    span = p.max(axis=1) - p.min(axis=1)
    called = p >= threshold
    return {
        "mean_span": float(span.mean()),
        "span_95": float(np.quantile(span, 0.95)),
        "largest_span": float(span.max()),
        "called_both_ways": float((called.any(axis=1) & ~called.all(axis=1)).mean()),
    }


def beside(whole: Floats, changed: Floats, judged: tuple[npt.NDArray[np.int64], Slides, EvaluateSettings]) -> dict[str, Any]:
    """Return the AUROC of changed tiles and its paired difference to the tiles as they are."""
    labels, slides, settings = judged
    how = (slides, settings.resamples, settings.seed)
    return {
        "auroc": auroc_figure(labels, changed, *how).as_dict(),
        "difference": auroc_difference(labels, changed, whole, *how).as_dict(),
    }


def geometry(
    whole: Floats, centre_only: Floats, rim_only: Floats, judged: tuple[npt.NDArray[np.int64], Slides, EvaluateSettings]
) -> dict[str, Any]:
    """Return what is left of the AUROC where only the centre third, or only the rim, is seen, and which of both the model follows."""
    labels, slides, settings = judged
    ahead = auroc_difference(labels, centre_only, rim_only, slides, settings.resamples, settings.seed)
    follows = "the centre" if ahead.low > 0 else "the rim" if ahead.high < 0 else "neither surely more than the other"
    return {
        "whole": auroc(labels, whole),
        "centre_only": beside(whole, centre_only, judged),
        "rim_only": beside(whole, rim_only, judged),
        "centre_less_rim": ahead.as_dict(),
        "follows": follows,
    }
