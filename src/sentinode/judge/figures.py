"""Every figure of a judgement with its intervals, over slides and over tiles, from one set of resamples each."""

import numpy as np

from sentinode.errors import UndefinedScore
from sentinode.judge.auroc import average_precision
from sentinode.judge.bootstrap import Resampler, percentile_interval, ranked, weights_in_chunks
from sentinode.judge.calibrate import BINS, brier_loss, ece, mass_bins
from sentinode.judge.compare import auroc_difference, auroc_figure
from sentinode.judge.inputs import Array, Floats, Ints
from sentinode.judge.statement import TILES, Figure, Interval, Slides, slide_method
from sentinode.judge.threshold import accuracy, sensitivity, sensitivity_at, specificity, wilson_interval

SPECIFICITIES = (95, 90)
"""Per cent at which the sensitivity is a figure: few false alarms, as a screen over whole slides needs."""

Columns = tuple[Ints, Floats, Floats | None]
"""Labels, probabilities, and the floor's probabilities where there is one: [n] each, in one order."""


def by_slides_or_tiles(
    columns: Columns, cut: float, slides: Slides, resamples: int, seed: int
) -> tuple[dict[str, Figure], dict[str, Figure], tuple[str, ...]]:
    """Return the figures, the floor's and warnings; by slides, or where their resamples lack a class too often, by tiles."""
    try:
        return *_all_figures(columns, cut, slides, resamples, seed), slides.warnings
    except UndefinedScore as error:
        if not slides.usable:
            raise
        why = f"no interval over {slides.n} slides ({error.found}): every interval {TILES}"
    by_tiles = Slides(slides.codes, slides.n, False, (why,))
    return *_all_figures(columns, cut, by_tiles, resamples, seed), by_tiles.warnings


def _all_figures(
    columns: Columns, cut: float, slides: Slides, resamples: int, seed: int
) -> tuple[dict[str, Figure], dict[str, Figure]]:
    labels, probability, floor = columns
    by_tiles = _tile_intervals(labels, probability, cut, resamples, seed)
    by_slides = {}
    if slides.usable:
        by_slides = _bootstrap_intervals(labels, probability, cut, (slides.codes, slides.n), resamples, seed)
        by_slides = {name: Interval(i.low, i.high, i.method.format(slide_method(resamples))) for name, i in by_slides.items()}
    figures = {"auroc": auroc_figure(labels, probability, slides, resamples, seed)}
    for name, (estimate, about) in _estimates(labels, probability, cut).items():
        main = by_slides.get(name, by_tiles[name])
        beside = by_tiles[name] if slides.usable else None
        n, n_groups = int(about.sum()), len(np.unique(slides.codes[about])) if slides.n else 0
        n_groups = min(n_groups, slides.n)
        figures[name] = Figure(name, estimate, main.low, main.high, main.method, n, n_groups, beside)
    if floor is None:
        return figures, {}
    floors = (
        auroc_figure(labels, floor, slides, resamples, seed),
        auroc_difference(labels, probability, floor, slides, resamples, seed),
    )
    return figures, {figure.name: figure for figure in floors}


def _estimates(labels: Ints, probability: Floats, cut: float) -> dict[str, tuple[float, Array]]:
    """Return every figure but the AUROC, and which tiles it is about."""
    everyone = np.ones(labels.size, bool)
    return {
        "average_precision": (average_precision(labels, probability), everyone),
        "accuracy": (accuracy(labels, probability, cut), everyone),
        "sensitivity": (sensitivity(labels, probability, cut), labels == 1),
        "specificity": (specificity(labels, probability, cut), labels == 0),
        "brier_loss": (brier_loss(labels, probability), everyone),
        "ece": (ece(labels, probability), everyone),
    } | {f"sensitivity_at_specificity_{s}": (sensitivity_at(labels, probability, s), everyone) for s in SPECIFICITIES}


def _tile_intervals(labels: Ints, probability: Floats, cut: float, resamples: int, seed: int) -> dict[str, Interval]:
    units = (np.arange(labels.size), labels.size)
    method = f"tile bootstrap ({resamples} resamples), {TILES}"
    found = _bootstrap_intervals(labels, probability, cut, units, resamples, seed)
    intervals = {name: Interval(i.low, i.high, i.method.format(method)) for name, i in found.items()}
    right = (probability >= cut) == (labels == 1)
    for name, of in (("accuracy", labels >= 0), ("sensitivity", labels == 1), ("specificity", labels == 0)):
        intervals[name] = Interval(*wilson_interval(int(right[of].sum()), int(of.sum())), f"Wilson, {TILES}")
    return intervals


def _bootstrap_intervals(
    labels: Ints, probability: Floats, cut: float, units: tuple[Ints, int], resamples: int, seed: int
) -> dict[str, Interval]:
    """Return intervals of all figures but the AUROC over resampled units (codes, how many); `{}` awaits the method's name.

    Every figure here but average precision and the sensitivity at a fixed specificity is made of sums over tiles, so a resample
    needs the sums of each unit only. Bins of the calibration error stay those of the whole sample. That error is biased upwards, and
    more so in resamples, hence its basic interval (mirrored at the estimate, then widened to hold it and cut at 0).
    """
    codes, n_units = units
    model = Resampler(ranked(labels, probability, codes, n_units))
    right = (probability >= cut) == (labels == 1)
    is_positive = labels == 1
    tile = [np.ones(labels.size), is_positive, ~is_positive, right, right & is_positive, right & ~is_positive]
    tile.append((probability - labels) ** 2)
    sums = np.stack([np.bincount(codes, weights=column, minlength=n_units) for column in tile], axis=1)
    bins = np.bincount(codes * BINS + mass_bins(probability), weights=probability - labels, minlength=n_units * BINS)
    rows: list[Floats] = []
    for weights in weights_in_chunks(model.positives, model.negatives, resamples, seed):
        w = weights.astype(np.float64)
        n, p, q, n_right, n_hits, n_passed, squares = (w @ sums).T
        gap = np.abs(w @ bins.reshape(n_units, BINS)).sum(axis=1) / n
        sums_only = (n_right / n, n_hits / p, n_passed / q, squares / n, gap)
        ranking = model.sensitivity_at(weights, SPECIFICITIES).T
        rows.append(np.stack([model.average_precision(weights), *sums_only, *ranking]))
    fixed = [f"sensitivity_at_specificity_{s}" for s in SPECIFICITIES]
    names = ("average_precision", "accuracy", "sensitivity", "specificity", "brier_loss", "ece", *fixed)
    values = dict(zip(names, np.concatenate(rows, axis=1), strict=True))
    intervals = {name: Interval(*percentile_interval(values[name], model.degrees), "{}") for name in names}
    estimate, raw = ece(labels, probability), intervals["ece"]
    low, high = max(0.0, min(estimate, 2 * estimate - raw.high)), max(estimate, 2 * estimate - raw.low)
    return intervals | {"ece": Interval(low, high, "basic {}")}
