"""Intervals over slides: how fast beside a loop over scikit-learn, and whether they hold in simulated studies.

Inside the clock is all from labels, scores and slides to the AUROC and its 95 % interval: sorting, counting, drawing, 2,000 resamples of
216 slides with 220,000 tiles, ties included. The peer is the usual loop, a resample at a time: scikit-learn's roc_auc_score with the
tiles' weights, or on the rows literally repeated. A few resamples of it are timed and count for themselves: a tile of one resample is
one tile of the rates below, so that the ratio is that of whole intervals.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.clock import Measured, in_turn, ratio, spread
from benchmarks.records import Figure, Record, conditions, figure
from benchmarks.suite import clock_of, finish, parser
from sentinode.judge.auroc import auroc, tile_interval
from sentinode.judge.bootstrap import RESAMPLES, Resampler, percentile_interval, ranked, weights_in_chunks
from sentinode.judge.clusters import clustered_interval, combined, pulls_of, two_sided_p
from sentinode.judge.planner import rarer_share, slides_needed, variance_a_slide
from sentinode.judge.statement import Slides

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

TILES, SLIDES = 220_000, 216
"""Of Kaggle's training set: 220,025 tiles of about so many slides."""
VARIANTS = {
    "ours": "AUROC and 2,000 resamples of slides, ours",
    "weighted": "a loop over roc_auc_score with sample_weight",
    "repeated": "a loop over roc_auc_score on repeated rows",
}
SMALL = (20, 40)
"""Slides of the smaller studies: what the page's remark on few slides is about."""
SEES, SLIDE_SHIFT, OWN_SHIFT = 1.6, 0.8, 0.4
"""A simulated tile's score in standard deviations of its own noise: what the class adds, and how far slides shift all models' scores,
and each model's own."""
GAIN = 0.3
"""What the class adds more in the better of two models, where power is simulated."""


@dataclass(frozen=True)
class Study:
    """Labels [n], slides and the scores [n] of two models."""

    labels: Ints
    slides: Slides
    models: tuple[Floats, Floats]


def simulated(rng: np.random.Generator, n_slides: int, tiles: float = 25, gain: float = 0.0) -> Study:
    """Draw one study: slides of very unequal size, two fifths without a positive, that shift scores; scores to two digits, so tied.

    The two models are equally good where `gain` is 0.
    """
    sizes = np.maximum(2, rng.lognormal(np.log(tiles), 0.7, n_slides)).astype(np.int64)
    codes = np.repeat(np.arange(n_slides), sizes)
    share = np.where(rng.random(n_slides) < 0.6, rng.beta(1, 1.5, n_slides), 0.0)
    labels = (rng.random(codes.size) < share[codes]).astype(np.int64)
    if min(np.unique(codes[labels == label]).size for label in (0, 1)) < 5:
        return simulated(rng, n_slides, tiles, gain)
    shared = rng.normal(size=codes.size) / 2**0.5 + SLIDE_SHIFT * rng.normal(size=n_slides)[codes]
    models = []
    for sees in (SEES + gain, SEES):
        own = rng.normal(size=codes.size) / 2**0.5 + OWN_SHIFT * rng.normal(size=n_slides)[codes]
        models.append(np.round(sees * labels + shared + own, 2))
    return Study(labels, Slides(codes, n_slides, True, ()), (models[0], models[1]))


def true_auroc(gain: float = 0.0) -> float:
    """Return the AUROC of simulated models over slides without number: that of a positive and a negative of two slides."""
    return NormalDist().cdf((SEES + gain) / (2 * (1 + SLIDE_SHIFT**2 + OWN_SHIFT**2)) ** 0.5)


def large(tiles: int) -> Study:
    """Return one study of SLIDES slides and exactly `tiles` tiles."""
    drawn = simulated(np.random.default_rng(0), SLIDES, 1.5 * tiles / SLIDES)
    chosen = np.sort(np.random.default_rng(1).permutation(drawn.labels.size)[:tiles])
    slides = Slides(drawn.slides.codes[chosen], SLIDES, True, ())
    return Study(drawn.labels[chosen], slides, (drawn.models[0][chosen], drawn.models[1][chosen]))


def ours(study: Study) -> Callable[[], Measured]:
    """Return a function that times the AUROC with its slide bootstrap."""

    def work() -> Measured:
        start = time.perf_counter()
        area = auroc(study.labels, study.models[0])
        model = Resampler(ranked(study.labels, study.models[0], study.slides.codes, study.slides.n))
        chunks = weights_in_chunks(model.positives, model.negatives, RESAMPLES, 0)
        values = np.concatenate([model.auroc(weights) for weights in chunks])
        low, high = percentile_interval(values, model.degrees)
        seconds = time.perf_counter() - start
        return {
            "seconds": seconds,
            "n": study.labels.size * RESAMPLES,
            "auroc": [area, low, high],
            "values": values[:50].tolist(),
        }

    return work


def peer(study: Study, resamples: int, *, repeat: bool) -> Callable[[], Measured]:
    """Return a function that times the first `resamples` resamples of the same draws with scikit-learn."""
    from sklearn.metrics import roc_auc_score

    counted = Resampler(ranked(study.labels, study.models[0], study.slides.codes, study.slides.n))
    weights = next(weights_in_chunks(counted.positives, counted.negatives, RESAMPLES, 0))[:resamples]

    def work() -> Measured:
        start, values = time.perf_counter(), []
        for row in weights:
            of_tiles = row[study.slides.codes]
            if repeat:
                rows = np.repeat(np.arange(of_tiles.size), of_tiles)
                values.append(float(roc_auc_score(study.labels[rows], study.models[0][rows])))
            else:
                values.append(float(roc_auc_score(study.labels, study.models[0], sample_weight=of_tiles)))
        return {"seconds": time.perf_counter() - start, "n": study.labels.size * resamples, "values": values}

    return work


def outcome(study: Study, seed: int) -> Measured:
    """Return what one study's intervals and p value say: whether each holds the truth, and p of two equally good models."""
    truth, one = true_auroc(), study.models[0]
    pulls = [pulls_of(study.labels, scores, study.slides) for scores in study.models]
    models = [Resampler(ranked(study.labels, scores, study.slides.codes, study.slides.n)) for scores in study.models]
    drawn = np.concatenate(list(weights_in_chunks(models[0].positives, models[0].negatives, RESAMPLES, seed)))
    first, second = (model.auroc(drawn) for model in models)
    clustered, tiles = clustered_interval(pulls[0]), tile_interval(study.labels, one)[:2]
    plain, expanded = percentile_interval(first), percentile_interval(first, models[0].degrees)
    ends = {"bootstrap": expanded, "percentiles": plain, "clustered": (clustered.low, clustered.high), "tiles": tiles}
    low, high = percentile_interval(first - second, models[0].degrees)
    holds = {name: bool(low <= truth <= high) for name, (low, high) in ends.items()}
    return holds | {"p": two_sided_p(combined(pulls, (1, -1))), "bootstrap_rejects": bool(low > 0 or high < 0)}


def studies(n_slides: int, n: int) -> list[Measured]:
    """Return the outcomes of `n` simulated studies of `n_slides` slides."""
    found = []
    for number in range(n):
        found.append(outcome(simulated(np.random.default_rng([n_slides, number]), n_slides), number))
        if (number + 1) % 100 == 0:
            print(f"  {number + 1:,} of {n:,} studies of {n_slides} slides", flush=True)
    return found


def powered(n: int) -> tuple[int, list[Measured]]:
    """Return for how many slides is planned, and the p values of `n` studies of that size.

    The variance is a large pilot's, the difference the true one: a pilot's own would be off by its chance.
    """
    pilot = simulated(np.random.default_rng(5), 2000, gain=GAIN)
    pulls = combined([pulls_of(pilot.labels, scores, pilot.slides) for scores in pilot.models], (1, -1))
    planned = slides_needed(true_auroc(GAIN) - true_auroc(), variance_a_slide(pulls), 0.8, rarer_share(pulls))
    found = []
    for number in range(n):
        one = simulated(np.random.default_rng([6, number]), planned, gain=GAIN)
        found.append({"p": two_sided_p(combined([pulls_of(one.labels, scores, one.slides) for scores in one.models], (1, -1)))})
    return planned, found


def share(found: list[Measured], name: str) -> float:
    """Return in how many per cent of the studies `name` holds; of p, below 5 %."""
    return 100 * float(np.mean([one["p"] < 0.05 if name == "p" else one[name] for one in found]))


def per_cent(value: float, n: int, **bar: Any) -> Figure:
    """Return a share of `n` studies as a figure, with its standard error."""
    error = 100 * (value / 100 * (1 - value / 100) / n) ** 0.5
    return Figure(value, f"{value:.1f} % (standard error {error:.1f})", " %", **bar)


def figures_of(raw: dict[str, list[Measured]], planned: int) -> dict[str, Figure]:
    """Return speed, agreement, coverage, false positives and power."""
    pairs = [(raw["ours"][0]["values"], raw[name][0]["values"]) for name in ("weighted", "repeated")]
    apart = max(abs(a - b) for mine, theirs in pairs for a, b in zip(mine, theirs, strict=False))
    found = {
        "speedup_weighted": figure(ratio(raw, "ours", "weighted"), "x", bar=50),
        "speedup_repeated": figure(ratio(raw, "ours", "repeated"), "x", bar=50),
        "seconds": figure(spread([one["seconds"] for one in raw["ours"]]), " s", digits=2),
        "largest_difference": Figure(apart, f"{apart:.1e}", "", 1e-12, higher_is_better=False),
    }
    for n_slides in (SLIDES, *SMALL):
        some, end = raw[f"studies_{n_slides}"], "" if n_slides == SLIDES else f"_{n_slides}_slides"
        off = abs(share(some, "bootstrap") - 95)
        bar: dict[str, Any] = {} if end else {"bar": 6, "higher_is_better": False}
        found |= {
            f"coverage_{name}{end}": per_cent(share(some, name), len(some))
            for name in ("bootstrap", "percentiles", "clustered", "tiles")
        }
        if not end:
            found["coverage_off_95"] = Figure(off, f"{off:.1f} %", " %", 2, higher_is_better=False)
        found[f"false_positives{end}"] = per_cent(share(some, "p"), len(some), **bar)
        found[f"false_positives_by_bootstrap{end}"] = per_cent(share(some, "bootstrap_rejects"), len(some))
    found["power_planned_80"] = per_cent(share(raw["powered"], "p"), len(raw["powered"]))
    return found | {"slides_planned": figure(float(planned), "", digits=0)}


def measure(options: argparse.Namespace) -> Record:
    """Time all sides in turn, then simulate."""
    tiles, n = (5_000, 4) if options.quick else (TILES, options.studies)
    resamples = 3 if options.quick else options.peer_resamples
    started = conditions(
        n=tiles, slides=SLIDES, resamples=RESAMPLES, peer_resamples=resamples, studies=n, true_auroc=true_auroc()
    )
    study = large(tiles)
    variants = {"ours": ours(study)} | {
        name: peer(study, resamples, repeat=name == "repeated") for name in ("weighted", "repeated")
    }
    raw = in_turn(variants, 1 if options.quick else options.repeats)
    raw |= {f"studies_{n_slides}": studies(n_slides, n) for n_slides in (SLIDES, *SMALL)}
    planned, raw["powered"] = powered(n)
    return Record(
        suite="intervals",
        clock=clock_of(__doc__ or ""),
        variants=VARIANTS,
        raw=raw,
        figures=figures_of(raw, planned),
        conditions=started,
        notes=[
            f"The loop over scikit-learn ran {resamples} resamples, not {RESAMPLES:,}; its rate is that of these.",
            f"{n:,} simulated studies of each size: about 30 tiles a slide, very unequal slides, two fifths without a positive tile.",
            "coverage_bootstrap is the headline interval of every judgement (expanded percentiles), coverage_percentiles the plain one.",
            "coverage_tiles is the interval that assumes independent tiles. Two equally good models give the false positives.",
        ],
    )


def main() -> None:
    options = parser(__doc__ or "", repeats=5, tiles=False)
    options.add_argument("--studies", type=int, default=1000, help="simulated studies of each size")
    options.add_argument("--peer-resamples", type=int, default=10, help="resamples of the loop that are timed")
    chosen = options.parse_args()
    finish(measure(chosen), chosen)


if __name__ == "__main__":
    main()
