"""The AUROC as a figure, and the paired difference of two models on the same tiles."""

import numpy as np

from sentinode.judge.auroc import auroc, placements, tile_interval, z_value
from sentinode.judge.bootstrap import RESAMPLES, Resampler, percentile_interval, ranked, weights_in_chunks
from sentinode.judge.clusters import clustered_interval, combined, difference_interval, pulls_of
from sentinode.judge.inputs import Array, checked_pair, two_of_each
from sentinode.judge.statement import TILES, Figure, Interval, Slides, slide_method


def auroc_figure(labels: Array, scores: Array, slides: Slides, resamples: int = RESAMPLES, seed: int = 0) -> Figure:
    """Return the AUROC with its interval: over slides where they are usable, with both DeLong's beside it; otherwise DeLong's.

    Parameters
    ----------
    labels
        [n], 0 or 1.
    scores
        [n], higher means positive.
    slides
        Of the same n tiles.
    resamples, seed
        Of the slide bootstrap.

    Raises
    ------
    UndefinedScore
        If a class is absent, a score is not finite, or too many resamples of slides lack a class.
    """
    labels, scores = checked_pair(labels, scores)
    low, high, how = tile_interval(labels, scores)
    beside = Interval(low, high, f"{how}, {TILES}")
    if not slides.usable:
        return Figure("auroc", auroc(labels, scores), low, high, beside.method, labels.size, slides.n)
    model = Resampler(ranked(labels, scores, slides.codes, slides.n))
    chunks = weights_in_chunks(model.positives, model.negatives, resamples, seed)
    resampled = np.concatenate([model.auroc(weights) for weights in chunks])
    pulls = pulls_of(labels, scores, slides)
    low, high = percentile_interval(resampled, pulls.degrees)
    clustered = clustered_interval(pulls)
    return Figure("auroc", auroc(labels, scores), low, high, slide_method(resamples), labels.size, slides.n, beside, clustered)


def auroc_difference(
    labels: Array, scores: Array, others: Array, slides: Slides, resamples: int = RESAMPLES, seed: int = 0
) -> Figure:
    """Return AUROC(scores) - AUROC(others) on the same tiles, with a paired interval: the same resamples for both.

    Over slides where they are usable, with paired DeLong, plain and clustered, beside it; otherwise paired DeLong.

    Parameters
    ----------
    labels
        [n], 0 or 1.
    scores, others
        [n] each, of the two models.
    slides
        Of the same n tiles.
    resamples, seed
        Of the slide bootstrap.

    Raises
    ------
    UndefinedScore
        If a class has fewer than two tiles, a score is not finite, or too many resamples of slides lack a class.

    Source: DeLong, DeLong and Clarke-Pearson 1988 (paired form); the slide bootstrap as in `bootstrap`.
    """
    labels, scores = checked_pair(labels, scores)
    labels, others = checked_pair(labels, others)
    two_of_each(labels)
    estimate = auroc(labels, scores) - auroc(labels, others)
    parts = [one - other for one, other in zip(placements(labels, scores), placements(labels, others), strict=True)]
    reach = z_value() * float(np.sqrt(sum(part.var(ddof=1) / part.size for part in parts)))
    beside = Interval(max(-1.0, estimate - reach), min(1.0, estimate + reach), f"paired DeLong, {TILES}")
    name = "auroc_difference"
    if not slides.usable:
        return Figure(name, estimate, beside.low, beside.high, beside.method, labels.size, slides.n)
    one, other = (Resampler(ranked(labels, s, slides.codes, slides.n)) for s in (scores, others))
    chunks = weights_in_chunks(one.positives, one.negatives, resamples, seed)
    resampled = np.concatenate([one.auroc(weights) - other.auroc(weights) for weights in chunks])
    pulls = combined([pulls_of(labels, given, slides) for given in (scores, others)], (1, -1))
    low, high = percentile_interval(resampled, pulls.degrees)
    how, clustered = f"paired {slide_method(resamples)}", difference_interval(pulls)
    return Figure(name, estimate, low, high, how, labels.size, slides.n, beside, clustered)
