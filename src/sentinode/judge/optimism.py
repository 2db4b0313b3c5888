"""How much better than honest the best of many trials looks on the tiles that chose it.

The best of N trials is the best on its validation tiles, partly by luck. Bootstrapping asks how much: slides are drawn with
replacement, the winner of the draw is looked up on the slides that were not drawn, and there it is set beside the overall winner.
What the overall winner is ahead is what it owes to having been chosen on those very tiles.

Each trial comes as it was at its best epoch, which the same tiles chose. That choice happened before and is not in the estimate: the
scores of other epochs are not kept. So the estimate is of the choice among trials alone, and says so wherever it is told.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sentinode.errors import UndefinedScore
from sentinode.judge.auroc import auroc
from sentinode.judge.bootstrap import DENSE_GROUPS, Resampler, percentile_interval, ranked, weights_in_chunks
from sentinode.judge.inputs import Array, Floats
from sentinode.judge.statement import TILES, Slides

RESAMPLES = 500
"""Draws: the mean over them is known to a twentieth of their spread."""
MOST_UNDEFINED = 0.2
"""Share of draws that may lack a class among the slides left out; beyond it the slides are too few for a statement."""
LEFT_OUT = "the choice of its best epoch, or of a penalty's strength, inside each trial on the same tiles"
"""What happened before trials are compared, and is no part of the estimate."""


@dataclass(frozen=True)
class Optimism:
    """The selection optimism of a study, in AUROC.

    `estimate` (with `low`, `high`: 95 % of the draws) is how much of `apparent`, the winner's AUROC on the tiles that chose it,
    is owed to the choice; `honest` = apparent - estimate, with the 95 % of the draws of what a winner reaches where it was not
    chosen. `trials` took part; `n` tiles of `n_groups` slides (0: not known). `leaves_out` is what the estimate does not hold.
    """

    estimate: float
    low: float
    high: float
    apparent: float
    honest: float
    honest_low: float
    honest_high: float
    method: str
    trials: int
    n: int
    n_groups: int
    leaves_out: str = LEFT_OUT

    def as_dict(self) -> dict[str, Any]:
        """Return all of it, for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return what it means, for a terminal."""
        left_out = f"left out: {self.leaves_out}; other tiles than these tell what 'best' is worth"
        if self.trials == 1:
            return ["one trial with scores: nothing was chosen among trials", left_out]
        return [
            f"the best of {self.trials} trials looks {self.estimate:.4f} better than it is ({self.low:.4f} to {self.high:.4f}): "
            f"AUROC {self.apparent:.4f} where it was chosen, about {self.honest:.4f} "
            f"({self.honest_low:.4f} to {self.honest_high:.4f}) on tiles like these that did not choose",
            f"by {self.method}",
            left_out,
        ]


def selection_optimism(labels: Array, scores: Array, slides: Slides, resamples: int = RESAMPLES, seed: int = 0) -> Optimism:
    """Return how much of the best trial's validation AUROC is owed to its being the best of many.

    The mean over draws of AUROC(overall winner) - AUROC(winner of the draw), both on the slides that the draw left out. The first
    term averages to the winner's own AUROC, the second to what choosing is worth elsewhere; on common tiles their noise cancels.
    (The plain difference between a winner's AUROC in the draw and out of it is too large by the square root of two where trials
    are equally good, since a resample carries the sample's noise and its own; seen in simulation.)

    Parameters
    ----------
    labels
        [m], 0 or 1, of the validation tiles.
    scores
        [trials, m], higher means positive.
    slides
        Of the same m tiles; where they are not usable, tiles are drawn, and `method` says so.
    resamples, seed
        Of the bootstrap.

    Raises
    ------
    UndefinedScore
        If there is no trial, a class is absent, a score is not finite, or the slides are too few.

    Source: Tsamardinos, Greasidou and Borboudakis 2018, Machine Learning 107:1895 (bootstrap bias corrected selection); the
    pairing with the overall winner on the tiles left out is ours.
    """
    scores = np.atleast_2d(np.asarray(scores))
    if not scores.size:
        raise UndefinedScore("validation scores of at least one trial", "none", "finish a trial first")
    labels = np.asarray(labels)
    apparent = np.array([auroc(labels, one) for one in scores])
    best = int(apparent.argmax())
    drawn, left_out = aurocs_in_and_out(labels, scores, slides, resamples, seed)
    chosen = left_out[drawn.argmax(axis=0), np.arange(drawn.shape[1])]
    ahead = left_out[best] - chosen
    estimate = float(ahead.mean())
    unit = f"{slides.n} slides" if slides.usable else f"tiles, {TILES}"
    return Optimism(
        estimate,
        *percentile_interval(ahead),
        float(apparent[best]),
        float(apparent[best]) - estimate,
        *percentile_interval(chosen),
        method=f"bootstrap of {unit} ({drawn.shape[1]} resamples)",
        trials=len(scores),
        n=labels.size,
        n_groups=slides.n,
    )


def aurocs_in_and_out(labels: Array, scores: Array, slides: Slides, resamples: int, seed: int) -> tuple[Floats, Floats]:
    """Return each trial's AUROC on the slides drawn and on those left out, float64 [trials, r] each; r at most `resamples`.

    Draws whose left out slides lack a class say nothing and are dropped.
    """
    codes, n_groups = slides.codes, slides.n
    if not slides.usable:
        # Independent tiles dealt into blocks at random resample as tiles do, and many tiles then cost what a few do.
        n_groups = min(labels.size, DENSE_GROUPS // 2)
        codes = (np.random.default_rng(seed).permutation(labels.size) % n_groups).astype(np.int64)
    first = Resampler(ranked(labels, scores[0], codes, n_groups))
    drawn = np.concatenate(list(weights_in_chunks(first.positives, first.negatives, resamples, seed)))
    out = (drawn == 0).astype(np.int32)
    both = (out @ first.positives > 0) & (out @ first.negatives > 0)
    if both.mean() < 1 - MOST_UNDEFINED:
        raise UndefinedScore(
            f"both classes among the slides left out, in at least {1 - MOST_UNDEFINED:.0%} of the draws",
            f"{int(both.sum()):,} of {both.size:,} draws of {n_groups} slides",
            "choose on more slides of each class",
        )
    inside, outside = [], []
    for one in scores:
        resampler = Resampler(ranked(labels, one, codes, n_groups))
        inside.append(resampler.auroc(drawn[both]))
        outside.append(resampler.auroc(out[both]))
    return np.stack(inside), np.stack(outside)
