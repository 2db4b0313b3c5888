"""Several models on the same tiles: every pair's difference, which of them are told apart, and who shares a rank.

What tells two apart is the p value of the paired clustered DeLong, corrected by Holm over all pairs. Intervals go by the slide
bootstrap, as everywhere. The bootstrap does not decide, since its percentiles are too narrow on few slides: two equally good models
were told apart at 5 % in 10 % of 500 simulated studies of 12 slides and in 6 to 8 % of those of 20; by clustered DeLong with Student's t
in 2.4 % of 1,000 studies of 20 slides and 5.1 % of those of 40 (`benchmarks/intervals.py` measures both).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from string import ascii_letters
from typing import Any

import numpy as np

from sentinode.errors import UndefinedScore
from sentinode.judge.auroc import LEVEL, auroc, tile_interval, z_value
from sentinode.judge.bootstrap import RESAMPLES, Resampler, percentile_interval, ranked, weights_in_chunks
from sentinode.judge.clusters import Pulls, clustered_interval, combined, difference_interval, pulls_of, two_sided_p
from sentinode.judge.inputs import Array, Floats, checked_pair, two_of_each
from sentinode.judge.planner import POWER, detectable, rarer_share, slides_needed, variance_a_slide
from sentinode.judge.statement import TILES, Figure, Interval, Slides, slide_method

Entrants = Mapping[str, Sequence[Array]]
"""Scores [n] by name: one column of a model, several of the runs of one recipe, whose AUROCs are averaged."""


@dataclass(frozen=True)
class Pair:
    """Two contestants: AUROC of `first` minus that of `second`, with its interval.

    `p` is two-sided, `p_holm` the same corrected over all pairs; they are `told_apart` where it is below 5 %. `needed` is the number
    of slides that would tell a difference like the one found apart with the planned power (None where it is 0 or slides are not
    known), `detectable` the smallest difference that these slides tell apart with it.
    """

    first: str
    second: str
    difference: Figure
    p: float
    p_holm: float
    needed: int | None
    detectable: float | None

    @property
    def told_apart(self) -> bool:
        """Whether the corrected p value is below 5 %."""
        return self.p_holm < 1 - LEVEL

    def as_dict(self) -> dict[str, Any]:
        """Return the pair, for JSON; what is not known is left out."""
        plan = {"slides_needed": self.needed, "detectable": self.detectable}
        return {
            "first": self.first,
            "second": self.second,
            "difference": self.difference.as_dict(),
            "p": self.p,
            "p_holm": self.p_holm,
            "told_apart": self.told_apart,
        } | {name: value for name, value in plan.items() if value is not None}


@dataclass(frozen=True)
class Contest:
    """Contestants by name, the highest AUROC first; all pairs; `ranks` gives each its letters: who shares one is not told apart."""

    figures: dict[str, Figure]
    pairs: tuple[Pair, ...]
    ranks: dict[str, str]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Sampled:
    """One contestant: its pulls by slides (None where they are not usable) and by tiles, and its resampled AUROCs."""

    by_tiles: Pulls
    by_slides: Pulls | None
    resampled: Floats | None


def contest(
    labels: Array, entrants: Entrants, slides: Slides, resamples: int = RESAMPLES, seed: int = 0, power: float = POWER
) -> Contest:
    """Compare all contestants with each other on the same tiles.

    Parameters
    ----------
    labels
        [n], 0 or 1.
    entrants
        Scores by name, [n] each.
    slides
        Of the same n tiles. Where they are not usable, or their resamples lack a class too often, all assumes independent tiles and
        says so.
    resamples, seed
        Of the slide bootstrap: the same draws for all, so that differences are paired.
    power
        That `needed` and `detectable` are planned for.

    Raises
    ------
    UndefinedScore
        If a class has fewer than two tiles or a score is not finite.

    Source: Obuchowski 1997 (p values), Holm 1979 (correction), Piepho 2004 (letters).
    """
    labels, _ = checked_pair(labels, np.zeros(np.shape(labels)))
    two_of_each(labels)
    try:
        sampled = {name: _sample(labels, columns, slides, resamples, seed) for name, columns in entrants.items()}
    except UndefinedScore as error:
        if not slides.usable:
            raise
        why = f"no interval over {slides.n} slides ({error.found}): every interval and p value {TILES}"
        slides = Slides(slides.codes, slides.n, False, (why,))
        sampled = {name: _sample(labels, columns, slides, resamples, seed) for name, columns in entrants.items()}
    ordered = sorted(sampled, key=lambda name: (-sampled[name].by_tiles.area, name))
    figures = {name: _figure(labels, entrants[name], sampled[name], slides) for name in ordered}
    drafts = [(one, other, _difference(sampled[one], sampled[other])) for one, other in combinations(ordered, 2)]
    values = [two_sided_p(_deciding(difference)) for _, _, difference in drafts]
    pairs = tuple(
        _pair(one, other, difference, (p, corrected), slides, power)
        for (one, other, difference), p, corrected in zip(drafts, values, holm(values), strict=True)
    )
    alike = [
        f"{pair.first} and {pair.second}"
        for pair in pairs
        if pair.difference.estimate and pair.difference.low == pair.difference.high
    ]
    flat = (f"no spread of the difference between {', '.join(alike)}: it cannot be told apart by these tiles",) if alike else ()
    still = [name for name, figure in figures.items() if figure.low == figure.high]
    stuck = (f"no spread among the resamples of {', '.join(still)}: that interval cannot show its uncertainty",) if still else ()
    return Contest(figures, pairs, rank_letters(ordered, pairs), (*slides.warnings, *stuck, *flat))


def _sample(labels: Array, columns: Sequence[Array], slides: Slides, resamples: int, seed: int) -> _Sampled:
    alone = Slides(np.arange(labels.size), labels.size, True, ())
    equal = [1 / len(columns)] * len(columns)
    by_tiles = combined([pulls_of(labels, column, alone) for column in columns], equal)
    if not slides.usable:
        return _Sampled(by_tiles, None, None)
    models = [Resampler(ranked(labels, column, slides.codes, slides.n)) for column in columns]
    chunks = weights_in_chunks(models[0].positives, models[0].negatives, resamples, seed)
    resampled = np.concatenate([np.mean([model.auroc(weights) for model in models], axis=0) for weights in chunks])
    return _Sampled(by_tiles, combined([pulls_of(labels, column, slides) for column in columns], equal), resampled)


def _difference(one: _Sampled, other: _Sampled) -> _Sampled:
    by_tiles = combined([one.by_tiles, other.by_tiles], (1, -1))
    if one.by_slides is None or other.by_slides is None or one.resampled is None or other.resampled is None:
        return _Sampled(by_tiles, None, None)
    return _Sampled(by_tiles, combined([one.by_slides, other.by_slides], (1, -1)), one.resampled - other.resampled)


def _deciding(sampled: _Sampled) -> Pulls:
    return sampled.by_tiles if sampled.by_slides is None else sampled.by_slides


def _figure(labels: Array, columns: Sequence[Array], found: _Sampled, slides: Slides) -> Figure:
    """Return the AUROC of a contestant, as `auroc_figure` does for one model."""
    if len(columns) == 1:
        low, high, how = tile_interval(labels, columns[0])
        estimate, beside = auroc(labels, columns[0]), Interval(low, high, f"{how}, {TILES}")
    else:
        plain = clustered_interval(found.by_tiles)
        estimate, beside = found.by_tiles.area, Interval(plain.low, plain.high, f"DeLong of the mean, {TILES}")
    clustered = None if found.by_slides is None else clustered_interval(found.by_slides)
    return _stated("auroc", estimate, found, slides, beside, clustered)


def _stated(name: str, estimate: float, found: _Sampled, slides: Slides, beside: Interval, clustered: Interval | None) -> Figure:
    n = found.by_tiles.positives.size
    if found.resampled is None or found.by_slides is None:
        return Figure(name, estimate, beside.low, beside.high, beside.method, n, slides.n)
    low, high = percentile_interval(found.resampled, found.by_slides.degrees)
    how = slide_method(found.resampled.size) if name == "auroc" else f"paired {slide_method(found.resampled.size)}"
    return Figure(name, estimate, low, high, how, n, slides.n, beside, clustered)


def _pair(one: str, other: str, found: _Sampled, p: tuple[float, float], slides: Slides, power: float) -> Pair:
    reach = z_value() * found.by_tiles.variance**0.5
    estimate = found.by_tiles.area
    beside = Interval(max(-1.0, estimate - reach), min(1.0, estimate + reach), f"paired DeLong, {TILES}")
    clustered = None if found.by_slides is None else difference_interval(found.by_slides)
    figure = _stated("auroc_difference", estimate, found, slides, beside, clustered)
    needed = least = None
    if found.by_slides is not None and found.by_slides.variance > 0:
        variance, share = variance_a_slide(found.by_slides), rarer_share(found.by_slides)
        needed = slides_needed(estimate, variance, power, share) if estimate else None
        least = detectable(variance, slides.n, power, share)
    return Pair(one, other, figure, *p, needed, least)


def holm(p: Sequence[float]) -> list[float]:
    """Return p values corrected for being several, in their order: the share of studies with any false claim stays below the level.

    Source: Holm 1979; checked by hand and by its laws.
    """
    order = np.argsort(p, kind="stable")
    corrected, highest = [0.0] * len(p), 0.0
    for place, at in enumerate(order.tolist()):
        highest = max(highest, min(1.0, (len(p) - place) * p[at]))
        corrected[at] = highest
    return corrected


def rank_letters(ordered: Sequence[str], pairs: Sequence[Pair]) -> dict[str, str]:
    """Return letters by name: two contestants share one if and only if they are not told apart; a is of the highest AUROC.

    Being told apart is not handed on: the first and the third may be, and the second not from either ("a", "ab", "b").

    Parameters
    ----------
    ordered
        Names, the highest AUROC first.
    pairs
        All of them.

    Source: insert and absorb, Piepho 2004, Journal of Computational and Graphical Statistics 13:456.
    """
    groups = [frozenset(ordered)]
    for pair in pairs:
        if pair.told_apart:
            split = [
                group - {leaver} for group in groups for leaver in (pair.first, pair.second) if {pair.first, pair.second} <= group
            ]
            whole = [group for group in groups if not {pair.first, pair.second} <= group]
            found = list(dict.fromkeys([*whole, *split]))
            groups = [group for group in found if not any(group < other for other in found)]
    groups.sort(key=lambda group: sorted(ordered.index(name) for name in group))
    return {name: "".join(letter(at) for at, group in enumerate(groups) if name in group) for name in ordered}


def letter(at: int) -> str:
    """Return a, b, ..., z, A, ..., Z, and then letters with marks: one character each, so that any number stays unambiguous."""
    return ascii_letters[at] if at < len(ascii_letters) else chr(0x100 + at - len(ascii_letters))
