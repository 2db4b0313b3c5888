"""The leak ladder: what one cheap probe reaches under splits that leak less and less, on the same tiles.

    random            tile by tile: copies, overlapping tiles and slides on both sides
    duplicate-aware   copies and overlapping tiles on one side
    grouped           whole slides on one side (where all are known)
    domain-out        whole pseudo-groups on one side: other stains

The gap between the first and the strictest is what a random split of these tiles promises and other slides do not keep.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sentinode.errors import UndefinedScore
from sentinode.judge.compare import auroc_difference, auroc_figure
from sentinode.judge.statement import Figure, slides_of
from sentinode.progress import Progress
from sentinode.qc.folds import Features, Floats, Probe, out_of_fold
from sentinode.tiles.folds import folds_of
from sentinode.tiles.units import Codes, joined_units, seeded_keys

RUNGS = ("random", "duplicate-aware", "grouped", "domain-out")
"""From the one that leaks most."""
UNITS = dict(zip(RUNGS, ("tiles", "sets of duplicates", "slides", "pseudo-groups (clusters of stain)"), strict=True))
"""What each keeps on one side, in words."""
MOST_TILES = 8000
"""Tiles the ladder is climbed with, whole sets of duplicates; more would take minutes and change the third digit."""


@dataclass(frozen=True)
class Kinship:
    """Which tiles belong together, for n tiles: unique `ids`, `groups` (slides, "" unknown), `domains`, and sets of duplicate rows."""

    ids: Sequence[str]
    groups: Sequence[str]
    domains: Sequence[str]
    same: Sequence[Codes] = ()

    def taken(self, rows: Codes) -> "Kinship":
        """Return the kinship of some rows, ascending."""
        place = {row: at for at, row in enumerate(rows.tolist())}
        kept = [np.array([place[int(row)] for row in some if int(row) in place], np.int64) for some in self.same]
        names = ([of[row] for row in rows.tolist()] for of in map(list, (self.ids, self.groups, self.domains)))
        ids, groups, domains = names
        return Kinship(ids, groups, domains, [some for some in kept if len(some) > 1])


@dataclass(frozen=True)
class LeakLadder:
    """AUROCs by name of split, in the order of `RUNGS`; `missing` says why a rung is not given.

    `strictest` names the last rung that is given, `gap` is AUROC(random) - AUROC(strictest), paired; None where random stands alone.
    """

    figures: dict[str, Figure]
    missing: dict[str, str]
    strictest: str
    gap: Figure | None
    n_tiles: int

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "figures": {name: figure.as_dict() for name, figure in self.figures.items()},
            "missing": self.missing,
            "strictest": self.strictest,
            "gap": None if self.gap is None else self.gap.as_dict(),
            "n_tiles": self.n_tiles,
        }


def ladder_rows(labels: Codes, kin: Kinship, most: int = MOST_TILES) -> Codes:
    """Return positions of at most about `most` labelled tiles, ascending: whole sets of duplicates in a seeded order of ids."""
    known = np.flatnonzero(labels >= 0)
    if len(known) <= most:
        return known.astype(np.int64)
    units = joined_units(kin.ids, kin.same)
    table = pd.DataFrame({"row": known, "unit": units[known], "id": [kin.ids[row] for row in known.tolist()]})
    first = table.groupby("unit")["id"].transform("min").tolist()
    table["key"] = seeded_keys(first, 0)
    ordered = table.sort_values("key", kind="stable")
    last = ordered["key"].iloc[most - 1]
    return np.sort(ordered.loc[ordered["key"] <= last, "row"].to_numpy(np.int64))


def leak_ladder(features: Features, labels: Codes, kin: Kinship, probe: Probe, progress: Progress | None = None) -> LeakLadder:
    """Climb the ladder.

    Parameters
    ----------
    features
        [n, d], of labelled tiles only.
    labels
        [n], 0 or 1.
    kin
        Of the same n tiles.
    probe
        Fitted anew in every fold.
    progress
        Silent by default.

    Returns
    -------
    LeakLadder
        AUROCs of predictions out of fold, pooled over folds; intervals over slides where all are known, else by DeLong, which
        assumes independent tiles and says so.

    Raises
    ------
    UndefinedScore
        If not even the random split has both classes in two folds.
    """
    slides = slides_of(np.array(kin.groups, dtype=str))
    figures: dict[str, Figure] = {}
    missing: dict[str, str] = {}
    scores: dict[str, Floats] = {}
    voice = progress or Progress(quiet=True)
    for name in RUNGS:
        try:
            folds = folds_of(units_of(name, kin), labels, kin.ids, UNITS[name])
        except UndefinedScore as error:
            if name == "random":
                raise
            missing[name] = f"{error.found}; {error.expected} are needed"
            continue
        scores[name] = out_of_fold(features, labels, folds, probe)
        figures[name] = figure_of(labels, scores[name], slides)
        voice.say(f"leak ladder: {name} AUROC {figures[name].estimate:.3f}")
    strictest = list(figures)[-1]
    gap = None
    if strictest != "random":
        try:
            gap = auroc_difference(labels, scores["random"], scores[strictest], slides)
        except UndefinedScore as error:
            missing["gap"] = f"{error.found}; {error.expected} are needed"
    return LeakLadder(figures, missing, strictest, gap, len(labels))


def figure_of(labels: Codes, scores: Floats, slides: Any) -> Figure:
    """Return the AUROC with its interval; over tiles, labelled so, where slides are too few to be resampled."""
    try:
        return auroc_figure(labels, scores, slides)
    except UndefinedScore:
        if not slides.usable:
            raise
        return auroc_figure(labels, scores, slides_of(np.full(len(labels), "")))


def units_of(rung: str, kin: Kinship) -> Codes:
    """Return the units int64 [n] that a rung keeps on one side; UndefinedScore where they are not known."""
    if rung == "random":
        return np.arange(len(kin.ids), dtype=np.int64)
    if rung == "duplicate-aware":
        return joined_units(kin.ids, kin.same)
    if rung == "grouped":
        unknown = sum(1 for name in kin.groups if not name)
        if unknown:
            raise UndefinedScore("known slides of all tiles", f"{unknown:,} tiles whose slide is not known", "pack with --groups")
        return joined_units(kin.groups, kin.same)
    return joined_units(kin.domains, kin.same)
