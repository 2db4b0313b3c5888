"""Folds of a store, one of which is left out of a training: tiles by chance, whole slides, or whole domains.

What is left out neither trains nor chooses, so that it can judge. Every labelled tile is in one fold, or in none where it cannot be
said which. The folds depend on ids alone, not on the seed of a training: seeds and folds can be crossed.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from sentinode.errors import SplitProblem, UndefinedScore, UsageProblem, nearest, shown
from sentinode.tiles.folds import folds_of
from sentinode.tiles.groups import join_groups
from sentinode.tiles.split import By, Codes, slide_units, splits_by_slide
from sentinode.tiles.units import is_pseudo, true_slides

NUMBERED = re.compile(r"(\d+)/(\d+)")
"""How one of several folds is named: 2/5."""
DOMAINS = "domains"
"""What stands for the number of folds where each domain is one."""
DOMAIN_COLUMNS = ("domain", "centre", "center", "hospital", "scanner", "source")
"""Names a column of domains may have; with two columns in all, any name will do."""


@dataclass(frozen=True)
class Folds:
    """The folds of a store: their `names`, and `fold` int64 [n], each tile's position among them, -1 in none.

    `by` is what stays whole: "tile" (and its copies), "slide", "pseudo-group" (where any group is one) or "domain".
    """

    names: tuple[str, ...]
    fold: Codes
    by: str

    def check(self, labels: npt.NDArray[np.int64]) -> None:
        """Raise SplitProblem for a fold without tiles of both classes; `labels` are [n], -1 unknown."""
        for at, name in enumerate(self.names):
            held = labels[self.fold == at]
            n_positive, n_negative = int((held == 1).sum()), int((held == 0).sum())
            if not n_positive or not n_negative:
                raise SplitProblem(
                    f"tiles of both classes in every fold, {shown(name)} among them",
                    f"{n_positive:,} positive and {n_negative:,} negative",
                    "give such domains one name in --domains" if self.by == "domain" else "use fewer folds",
                )


@dataclass(frozen=True)
class Held:
    """One fold that is left out: which of `folds`, and `rows` bool [n], all that may not train or choose because of it."""

    folds: Folds
    at: int
    rows: npt.NDArray[np.bool_]
    warnings: tuple[str, ...]

    @property
    def name(self) -> str:
        """The fold as it was named."""
        return self.folds.names[self.at]

    def judged(self) -> Codes:
        """Return the positions of the tiles that are in the fold, int64, ascending."""
        return np.flatnonzero(self.folds.fold == self.at).astype(np.int64)


def make_folds(rows: pd.DataFrame, folds: int, how: By = "auto") -> Folds:
    """Return `folds` folds of tiles (copies together) or of whole slides (those that share a copy of a tile together).

    Parameters
    ----------
    rows
        A store's rows: id, label, group, digest.
    folds
        At least 2.
    how
        As `make_split`'s.

    Raises
    ------
    UsageProblem
        If `folds` is below 2.
    SplitProblem
        If there are fewer tiles, or slides, of a class than folds.
    """
    if folds < 2:
        raise UsageProblem("at least 2 folds", str(folds), "choose a number such as 5")
    labels, groups = rows["label"].to_numpy(np.int64), rows["group"].astype(str).to_numpy()
    by_slide = splits_by_slide(rows, how)
    usable = (labels >= 0) & (groups != "") if by_slide else labels >= 0
    some = rows[usable]
    digests = some["digest"].astype(str).to_numpy()
    units = slide_units(groups[usable], digests) if by_slide else np.unique(digests, return_inverse=True)[1].astype(np.int64)
    what = "separable slides" if by_slide else "tiles"
    try:
        found = folds_of(units, labels[usable], some["id"].astype(str).tolist(), what, k=folds)
    except UndefinedScore as error:
        raise SplitProblem(error.expected, error.found, "use fewer folds, or pack more labelled tiles, of more slides") from error
    fold = np.full(len(rows), -1, np.int64)
    fold[usable] = found
    by = ("pseudo-group" if is_pseudo(groups[usable]).any() else "slide") if by_slide else "tile"
    return Folds(tuple(f"{at}/{folds}" for at in range(1, folds + 1)), fold, by)


def domain_folds(rows: pd.DataFrame, domains: str | Path | None) -> Folds:
    """Return one fold a domain, in the order of their names.

    Parameters
    ----------
    rows
        A store's rows: id, label, source.
    domains
        CSV with columns id and one of `DOMAIN_COLUMNS`; None takes the source that each tile was packed from. A tile without a
        domain is in no fold.

    Raises
    ------
    SourceProblem
        For a table that cannot be joined.
    SplitProblem
        If there are not two domains.
    """
    named = rows["source"].astype(str).tolist()
    if domains is not None:
        named = join_groups(rows["id"].astype(str).tolist(), Path(domains), DOMAIN_COLUMNS).groups
    labelled = rows["label"].to_numpy(np.int64) >= 0
    names = sorted({name for name, known in zip(named, labelled, strict=True) if known and name})
    if len(names) < 2:
        found = f"{len(names)}{f', {shown(names[0])}' if names else ''}"
        do = "name them in --domains (columns id,domain), or pack several sources into one store"
        raise SplitProblem("labelled tiles of at least two domains", found, do)
    position = {name: at for at, name in enumerate(names)}
    fold = [position.get(name, -1) if known else -1 for name, known in zip(named, labelled, strict=True)]
    return Folds(tuple(names), np.array(fold, np.int64), "domain")


def hold(rows: pd.DataFrame, named: str, how: By = "auto", domains: str | Path | None = None) -> Held:
    """Return the fold that `named` names, 2/5 or a domain, and all that may not train where it is to judge.

    Besides its own tiles these are tiles in no fold and, where domains are held out, copies of its tiles and tiles of its slides.

    Raises
    ------
    UsageProblem
        If there is no such fold.
    SplitProblem
        If the fold has tiles of one class only; and as `make_folds` and `domain_folds`.
    """
    numbered = NUMBERED.fullmatch(named.strip())
    folds = make_folds(rows, int(numbered[2]), how) if numbered else domain_folds(rows, domains)
    wanted = f"{int(numbered[1])}/{int(numbered[2])}" if numbered else named
    if wanted not in folds.names:
        do = f"take one of 1 to {len(folds.names)}" if numbered else nearest(named, list(folds.names))
        raise UsageProblem("a fold such as 2/5, or a domain of these tiles", shown(named), do)
    return held_of(rows, folds, folds.names.index(wanted))


def held_of(rows: pd.DataFrame, folds: Folds, at: int) -> Held:
    """Return fold `at` of `folds`, and all that may not train where it is to judge; see `hold`."""
    folds.check(rows["label"].to_numpy(np.int64))
    inside, outside = folds.fold == at, folds.fold >= 0
    kin = np.zeros(len(rows), np.bool_)
    slides = pd.Series(true_slides(rows["group"].to_numpy()), index=rows.index, dtype=str)
    for values in (rows["digest"].astype(str), slides) if folds.by == "domain" else ():
        kin |= (values.isin(set(values[inside]) - {""})).to_numpy()
    kin &= outside & ~inside
    warnings = []
    if kin.any():
        warnings.append(
            f"{int(kin.sum()):,} tiles of other domains are copies of {shown(folds.names[at])}'s tiles or of its slides: they are unused"
        )
    unknown = int((~outside & (rows["label"].to_numpy() >= 0)).sum())
    if unknown:
        warnings.append(f"{unknown:,} labelled tiles are in no fold, since their {folds.by} is not known: they are unused")
    return Held(folds, at, inside | ~outside | kin, tuple(warnings))


def kind_of(named: str) -> str:
    """Return what folds `named` is one of, "/5" or "domain", "" for no fold: two of one kind are of one recipe."""
    numbered = NUMBERED.fullmatch(named.strip())
    return f"/{int(numbered[2])}" if numbered else "domain" if named else ""


def in_order(names: Iterable[str]) -> list[str]:
    """Return names of folds in their order: 2/10 before 10/10."""
    return sorted(names, key=lambda name: (int(match[1]) if (match := NUMBERED.fullmatch(name)) else -1, name))
