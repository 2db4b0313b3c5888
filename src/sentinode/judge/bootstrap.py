"""Resampling whole slides: draw them with replacement, weigh each tile by how often its slide came, and read off the spread.

Tiles are sorted once. The AUROC of every resample is then a quadratic form in the slide weights, w' M w / (2 P N), where M counts
for each pair of slides how often a positive of the one beats a negative of the other: whole numbers, exact, ties included. So
2,000 resamples of 220,000 tiles cost a few passes over the tiles, not 2,000. The same weights serve every figure and every
model, which makes differences paired. A tile whose slide is unknown can be its own group; the caller then labels the result.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sentinode.errors import UndefinedScore
from sentinode.judge.auroc import LEVEL
from sentinode.judge.inputs import Array, Floats, Ints, checked_pair, effective_number

RESAMPLES = 2000
"""Default number of resamples: the ends of a 95 % interval then rest on 50 draws each."""
MOST_UNDEFINED = 0.01
"""Share of resamples without one of the classes up to which they are drawn anew; beyond it there is no interval."""
CHUNK = 1 << 22
"""Weights held at a time, as a number of cells; bounds the memory whatever the number of tiles."""
DENSE_GROUPS = 2048
"""Up to so many groups the pair counts are held as a matrix (32 MiB)."""

Weights = npt.NDArray[np.int32]
"""int32 [r, groups]: how often each group came in each of r resamples."""


@dataclass(frozen=True)
class Ranked:
    """Tiles in ascending order of score.

    `labels` and `codes` (group) are int64 [n]; `ends` are the positions of the last tile of each run of equal scores, int64 [k].
    """

    labels: Ints
    codes: Ints
    ends: Ints
    n_groups: int


def ranked(labels: Array, scores: Array, codes: Ints, n_groups: int) -> Ranked:
    """Sort tiles once for any number of resamples; ties in any order give the same figures.

    Raises
    ------
    UndefinedScore
        If a class is absent or a score is not finite.
    """
    labels, scores = checked_pair(labels, scores)
    order = np.argsort(scores, kind="stable")
    ascending = scores[order]
    ends = np.flatnonzero(np.append(ascending[1:] != ascending[:-1], True))
    return Ranked(labels[order], codes[order], ends, n_groups)


def weights_in_chunks(positives: Floats, negatives: Floats, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[Weights]:
    """Yield `resamples` rows of group weights in chunks of bounded size; each row sums to the number of groups.

    A draw that lacks one of the classes has no AUROC. It is drawn anew, so the interval is that of samples with both classes; if
    more than 1 % of all draws are such, the slides are too few and none is given. Same seed, same weights.

    Parameters
    ----------
    positives, negatives
        Tiles of each class in each group, [groups].
    resamples
        Rows wanted.
    seed
        Of NumPy's PCG64.

    Raises
    ------
    UndefinedScore
        If there are fewer than two groups, or more than 1 % of the draws lack a class.
    """
    n_groups = positives.size
    if n_groups < 2:
        raise UndefinedScore("at least two groups to resample", f"{n_groups}", "judge on tiles of several slides")
    rng = np.random.default_rng(seed)
    wanted, drawn, undefined = resamples, 0, 0
    has_positive, has_negative = np.flatnonzero(positives), np.flatnonzero(negatives)
    while wanted:
        rows = min(wanted, max(1, CHUNK // n_groups))
        weights = np.empty((rows, n_groups), np.int32)
        for row in weights:  # one at a time: the counts then stay in the cache
            row[:] = np.bincount(rng.integers(n_groups, size=n_groups, dtype=np.int32), minlength=n_groups)
        whole = weights[:, has_positive].any(axis=1) & weights[:, has_negative].any(axis=1)
        drawn += rows
        undefined += int(rows - whole.sum())
        if undefined > MOST_UNDEFINED * max(drawn, resamples):
            raise UndefinedScore(
                f"both classes in {1 - MOST_UNDEFINED:.0%} of the resamples of {n_groups:,} groups",
                f"{undefined:,} of {drawn:,} with one class only",
                "judge on more slides of each class",
            )
        wanted -= int(whole.sum())
        if whole.any():
            yield weights[whole]


def pair_counts(order: Ranked) -> Floats:
    """Return M, float64 [groups, groups]: twice the wins of the row's positives over the column's negatives.

    A tie counts one. Source: the Mann-Whitney count, split by pairs of clusters as in Obuchowski 1997.
    """
    run = np.repeat(np.arange(order.ends.size), np.diff(order.ends, prepend=-1))
    of_positives = order.labels == 1
    positive_run, positive_code = run[of_positives], order.codes[of_positives]
    negative_run, negative_code = run[~of_positives], order.codes[~of_positives]
    counts = np.zeros((order.n_groups, order.n_groups))
    by_group = np.argsort(negative_code, kind="stable")
    bounds = np.searchsorted(negative_code[by_group], np.arange(order.n_groups + 1))
    for group in range(order.n_groups):
        at = negative_run[by_group[bounds[group] : bounds[group + 1]]]
        if at.size:
            here = np.bincount(at, minlength=order.ends.size)
            doubled = 2 * np.cumsum(here) - here
            counts[:, group] = np.bincount(positive_code, weights=doubled[positive_run], minlength=order.n_groups)
    return counts


def class_counts(order: Ranked) -> tuple[Floats, Floats]:
    """Return positives and negatives in each group, float64 [groups] each."""
    positives = np.bincount(order.codes[order.labels == 1], minlength=order.n_groups)
    return positives.astype(np.float64), (np.bincount(order.codes, minlength=order.n_groups) - positives).astype(np.float64)


class Resampler:
    """Figures of one model that need its ranking, under any group weights; keeps what is shared between chunks."""

    def __init__(self, order: Ranked) -> None:
        self.order = order
        self.positives, self.negatives = class_counts(order)
        self._pairs = pair_counts(order) if order.n_groups <= DENSE_GROUPS else None

    @property
    def degrees(self) -> float:
        """Degrees of freedom of a spread over the groups: the effective number of groups of the rarer kind, less one, at least 1."""
        return max(1.0, min(effective_number(counts) for counts in (self.positives, self.negatives)) - 1)

    def auroc(self, weights: Weights) -> Floats:
        """Return the AUROC of each resample, float64 [r]; equal to that of the rows literally repeated."""
        w = weights.astype(np.float64)
        if self._pairs is not None:
            doubled = ((w @ self._pairs) * w).sum(axis=1)
        else:
            doubled = np.concatenate([self._doubled_wins(row) for row in weights])
        return np.asarray(doubled / (2 * (w @ self.positives) * (w @ self.negatives)))

    def _doubled_wins(self, row: npt.NDArray[np.int32]) -> Floats:
        tile = row[self.order.codes].astype(np.int64)
        hits = np.cumsum(tile * self.order.labels)[self.order.ends]
        alarms = np.cumsum(tile * (1 - self.order.labels))[self.order.ends]
        positive, negative = np.diff(hits, prepend=0), np.diff(alarms, prepend=0)
        return np.array([np.sum(positive * (2 * alarms - negative))], dtype=np.float64)

    def average_precision(self, weights: Weights) -> Floats:
        """Return the average precision of each resample, float64 [r]; equal to that of the rows literally repeated."""
        return np.array([self._precision(row) for row in weights])

    def _precision(self, row: npt.NDArray[np.int32]) -> float:
        codes, labels = self.order.codes[::-1], self.order.labels[::-1]
        starts = self.order.codes.size - 1 - self.order.ends[::-1]
        last = np.append(starts[1:], codes.size) - 1
        tile = row[codes]
        hits = np.cumsum(tile * labels)[last].astype(np.float64)
        seen = np.cumsum(tile)[last].astype(np.float64)
        step = np.diff(hits, prepend=0.0)
        moved = step > 0
        return float(np.sum(step[moved] * hits[moved] / seen[moved]) / hits[-1])

    def sensitivity_at(self, weights: Weights, specificities: Sequence[int]) -> Floats:
        """Return the sensitivity of each resample at each specificity (whole per cent), float64 [r, k], as of rows repeated.

        The threshold is that of the resample's own negatives. Only the tiles above it are looked at.
        """
        positive, negative = np.flatnonzero(self.order.labels == 1), np.flatnonzero(self.order.labels == 0)[::-1]
        codes, of_positives = self.order.codes[negative], self.order.codes[positive]
        end_of_run = self.order.ends[np.searchsorted(self.order.ends, negative)]
        reached = np.empty((len(weights), len(specificities)))
        for at, row in enumerate(weights):
            alarms = np.cumsum(row[codes], dtype=np.int64)
            for column, specificity in enumerate(specificities):
                # The first negative that is one too many: everything above its run of equal scores is called positive.
                first = np.searchsorted(100 * alarms, (100 - specificity) * alarms[-1], side="right")
                above = of_positives[np.searchsorted(positive, end_of_run[first], side="right") :]
                reached[at, column] = row[above].sum(dtype=np.int64) / (row @ self.positives)
        return reached


def tails(degrees: float) -> tuple[float, float]:
    """Return the shares of resamples below the ends of a 95 % interval: 2.5 % and 97.5 % for many groups, further out for few.

    Percentiles are too narrow on few groups: resampling divides by k where a variance divides by k - 1, and leaves no room for not
    knowing the spread. Both together are a factor of sqrt((degrees + 1) / degrees) and Student's t in place of the normal quantile.

    Source: Hesterberg 2015, The American Statistician 69:371, expanded percentiles; degrees as in `clusters.Pulls`.
    """
    from scipy.special import ndtr, stdtrit

    if not np.isfinite(degrees):
        return (1 - LEVEL) / 2, (1 + LEVEL) / 2
    low = float(ndtr(-((1 + 1 / degrees) ** 0.5) * stdtrit(degrees, 0.5 + LEVEL / 2)))
    return low, 1 - low


def percentile_interval(values: Floats, degrees: float = np.inf) -> tuple[float, float]:
    """Return the ends of the 95 % interval of a resampled figure: percentiles at the `tails` of the groups' degrees of freedom.

    Raises
    ------
    UndefinedScore
        If a resample has no value: nothing is averaged over a hole.

    Source: Efron and Tibshirani 1993, chapter 13; with clusters as units, Field and Welsh 2007.
    """
    if not np.isfinite(values).all():
        raise UndefinedScore(
            "a figure for every resample",
            f"{int((~np.isfinite(values)).sum()):,} without one",
            "judge on more slides of each class",
        )
    low, high = np.quantile(values, tails(degrees))
    return float(low), float(high)
