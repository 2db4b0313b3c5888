"""Scores in, the judgement out: every figure with its interval, the floor beside it, and what the reader must know first."""

from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np

from sentinode.errors import UndefinedScore, shown
from sentinode.judge.bands import reliability_bands
from sentinode.judge.bootstrap import RESAMPLES
from sentinode.judge.calibrate import ReliabilityBin, ece_debiased, reliability
from sentinode.judge.clusters import Effective, effective_size
from sentinode.judge.figures import by_slides_or_tiles
from sentinode.judge.inputs import Array, Floats, checked_pair
from sentinode.judge.statement import Figure, Interval, Slides, slides_of
from sentinode.scores import Scores

FORMAT = 1
"""Version of judgement.json."""
PROTOCOLS = ("random tiles", "grouped", "other slides", "unknown")
"""How test tiles relate to training tiles: slides shared, slides of one store held out, slides of another store, not known."""


@dataclass(frozen=True)
class Judgement:
    """What a table of predictions is worth.

    `figures` by name; `floor` holds `auroc` of colour alone and `auroc_difference`, model minus floor (empty where no floor is
    known). `effective` says how many independent tiles and equally large slides the AUROC rests on (None where slides are not known
    or all scores are alike). `passport` counts test tiles and slides that were trained on; where there are any, `contaminated` holds
    and every figure is marked. `header` says which runs and which store were judged. `bands` are the intervals over slides of the
    reliability bins, in their order (None where there is none). `record` says of what and by what the judgement was made: store,
    runs, command, versions. `abstention` is what "don't know" is worth (empty where no tiles chose). `ece_debiased` stands beside
    the figure ece. `stress` is what changed tiles do (empty where it was not asked for).
    """

    figures: dict[str, Figure]
    floor: dict[str, Figure]
    threshold: float
    threshold_source: str
    n: int
    n_positive: int
    n_groups: int
    n_unlabelled: int
    reliability: tuple[ReliabilityBin, ...]
    warnings: tuple[str, ...]
    resamples: int
    seed: int
    protocol: str = "unknown"
    contaminated: bool = False
    passport: dict[str, Any] = field(default_factory=dict)
    effective: Effective | None = None
    header: dict[str, Any] = field(default_factory=dict)
    bands: tuple[Interval | None, ...] = ()
    record: dict[str, Any] = field(default_factory=dict)
    abstention: dict[str, Any] = field(default_factory=dict)
    ece_debiased: float | None = None
    stress: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return what judgement.json holds; no NaN by construction."""
        mark = {"contaminated": True} if self.contaminated else {}
        return {
            "format": FORMAT,
            "figures": {name: figure.as_dict() | mark for name, figure in self.figures.items()},
            "floor": {name: figure.as_dict() | mark for name, figure in self.floor.items()},
            "threshold": {"value": self.threshold, "source": self.threshold_source},
            "protocol": self.protocol,
            "contaminated": self.contaminated,
            "passport": self.passport,
            "warnings": list(self.warnings),
            "n": self.n,
            "n_positive": self.n_positive,
            "n_groups": self.n_groups,
            "n_unlabelled": self.n_unlabelled,
            **({"effective": self.effective.as_dict()} if self.effective else {}),
            "reliability": [
                asdict(one) | {"slides": None if band is None else asdict(band)}
                for one, band in zip_longest(self.reliability, self.bands)
            ],
            "resamples": self.resamples,
            "seed": self.seed,
            "scores": self.header,
            "record": self.record,
            "abstention": self.abstention,
            "stress": self.stress,
            "calibration": {"ece_debiased": self.ece_debiased},
        }

    def __repr__(self) -> str:
        """Return `lines` as one text: what a notebook shows."""
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """Return the judgement as plain text for a terminal: warnings first, then protocol, counts and one line a figure."""
        slides = f"{self.n_groups:,} slide{'s' if self.n_groups > 1 else ''}" if self.n_groups else "slides not known"
        lines = [f"warning: {text}" for text in self.warnings]
        lines.append(f"protocol: {self.protocol}; {self.n:,} tiles, {self.n_positive:,} positive, {slides}")
        if self.n_unlabelled:
            lines.append(f"{self.n_unlabelled:,} tiles without a label are left out")
        if self.effective:
            lines.append(self.effective.line())
        lines.append(f"threshold {self.threshold:.4g} ({self.threshold_source})")
        return lines + self._table()

    def _table(self) -> list[str]:
        mark = " (contaminated)" if self.contaminated else ""
        named = [(name + mark, one) for name, one in self.figures.items()]
        named += [(f"floor {name}{mark}", one) for name, one in self.floor.items()]
        rows = [("figure", "estimate", "95 % interval", "method")]
        for name, one in named:
            rows.append((name, f"{one.estimate:.4f}", f"{one.low:.4f} to {one.high:.4f}", one.method))
            rows += [
                ("", "", f"{beside.low:.4f} to {beside.high:.4f}", beside.method)
                for beside in (one.clustered, one.tiles)
                if beside
            ]
        first, second, third = (max(len(row[column]) for row in rows) for column in range(3))
        return [f"{name:<{first}}  {estimate:>{second}}  {interval:>{third}}  {how}" for name, estimate, interval, how in rows]


def effective_or_none(labels: Array, probability: Array, slides: Slides) -> Effective | None:
    """Return the effective sizes, or None where slides, or scores without spread, do not allow them: a remark, not a figure."""
    try:
        return effective_size(labels, probability, slides)
    except UndefinedScore:
        return None


def judge_scores(
    scores: Scores,
    threshold: float = 0.5,
    threshold_source: str = "0.5, not chosen on valid",
    floor: Floats | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Judgement:
    """Judge a table of predictions by its probabilities.

    Parameters
    ----------
    scores
        Rows with label -1 are left out and counted; row order does not matter.
    threshold
        Probability from which a tile is called positive; chosen elsewhere.
    threshold_source
        How it was chosen, for the reader.
    floor
        Probabilities by colour alone, [rows of scores], or None.
    resamples, seed
        Of the bootstrap; the same seed gives the same bytes.

    Returns
    -------
    Judgement
        Figures auroc, average_precision, accuracy, sensitivity, specificity, brier_loss, ece, and sensitivity_at_specificity_95
        and _90, whose threshold is that of the judged negatives. Intervals go by slides where every
        tile's slide is known, with those that assume independent tiles beside; else the latter alone, labelled.

    Raises
    ------
    UndefinedScore
        If nothing is labelled, a class is absent, the threshold is not in [0, 1], or tiles are too few for an interval.
    """
    if not 0 <= threshold <= 1:
        raise UndefinedScore("a threshold in [0, 1]", shown(threshold), "state it as a probability")
    labelled = scores.table["label"].to_numpy() >= 0
    if not labelled.any():
        raise UndefinedScore(
            "labelled tiles to judge on",
            f"{len(scores):,} tiles, none labelled",
            "name a test store with labels, or use 'predict'",
        )
    columns = {name: scores.table[name].to_numpy()[labelled] for name in ("label", "probability", "group")}
    beside = columns["probability"] if floor is None else np.asarray(floor)[labelled]
    # One order for all, so that sums come out the same to the last bit however the rows came.
    order = np.lexsort((beside, columns["group"].astype(str), columns["label"], columns["probability"]))
    labels, probability = checked_pair(columns["label"][order], columns["probability"][order], probability=True)
    slides = slides_of(columns["group"][order])
    trio = (labels, probability, None if floor is None else beside[order])
    figures, floors, warnings = by_slides_or_tiles(trio, threshold, slides, resamples, seed)
    flat = [name for name, figure in figures.items() if figure.low == figure.high]
    if flat:
        warnings = (*warnings, f"no spread among the resamples of {', '.join(flat)}: that interval cannot show its uncertainty")
    return Judgement(
        figures=figures,
        floor=floors,
        threshold=float(threshold),
        threshold_source=threshold_source,
        n=labels.size,
        n_positive=int(labels.sum()),
        n_groups=slides.n,
        n_unlabelled=int((~labelled).sum()),
        reliability=tuple(reliability(labels, probability)),
        ece_debiased=ece_debiased(labels, probability, slides.codes if slides.usable else None),
        bands=reliability_bands(labels, probability, slides, resamples, seed),
        warnings=warnings,
        effective=effective_or_none(labels, probability, slides),
        resamples=resamples,
        seed=seed,
        header=scores.header,
    )
