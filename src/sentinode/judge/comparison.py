"""The result of a comparison: contestants with their ranks and provenance, pairs with their differences, in words and for JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sentinode.errors import shown
from sentinode.judge.contest import Contest, Pair
from sentinode.judge.spread import Spread
from sentinode.judge.statement import Figure

FORMAT = 1
"""Version of comparison.json."""
SHOWN = 15
"""Contestants and pairs that the terminal's tables hold at most."""
RULE = (
    "told apart: p below 5 % by paired clustered DeLong with Student's t over slides (where slides are not known: paired DeLong over "
    "tiles), after Holm's correction over all pairs. Contestants that share a letter are not told apart, and not ranked."
)
"""How two contestants are told apart."""


@dataclass(frozen=True)
class Provenance:
    """Where a contestant comes from: what it is, the protocol of its runs, what they have seen of the test tiles, their spread."""

    kind: str
    protocol: str = "unknown"
    contaminated: bool = False
    passport: Mapping[str, Any] | None = None
    runs: tuple[str, ...] = ()
    spread: Spread | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it, for JSON."""
        more = {"passport": dict(self.passport)} if self.passport else {}
        more |= {"seeds_and_folds": self.spread.as_dict()} if self.spread else {}
        plain = {"kind": self.kind, "protocol": self.protocol, "contaminated": self.contaminated, "runs": list(self.runs)}
        return plain | more


@dataclass(frozen=True)
class Comparison:
    """Which of several models is better on the same tiles.

    `contest` holds figures, pairs and ranks, `provenance` where each contestant comes from, both by name; `about` counts tiles and
    slides and names the test store and the settings.
    """

    contest: Contest
    provenance: Mapping[str, Provenance]
    warnings: tuple[str, ...]
    about: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return what comparison.json holds; no NaN by construction."""
        contestants = {
            name: {"rank": self.contest.ranks[name], "auroc": self._marked(name, figure)} | self.provenance[name].as_dict()
            for name, figure in self.contest.figures.items()
        }
        return {
            "format": FORMAT,
            "contestants": contestants,
            "pairs": [pair.as_dict() for pair in self.contest.pairs],
            "rule": RULE,
            "warnings": list(self.warnings),
        } | dict(self.about)

    def _marked(self, name: str, figure: Figure) -> dict[str, Any]:
        return figure.as_dict() | ({"contaminated": True} if self.provenance[name].contaminated else {})

    def __repr__(self) -> str:
        """Return `lines` as one text: what a notebook shows."""
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """Return the comparison as plain text for a terminal, of bounded length: warnings, contestants, pairs, spreads, plan."""
        slides = f"{self.about['n_groups']:,} slides" if self.about["n_groups"] else "slides not known"
        lines = [f"warning: {text}" for text in self.warnings]
        lines.append(f"{self.about['n']:,} tiles, {self.about['n_positive']:,} positive, {slides}")
        if self.about["n_unlabelled"]:
            lines.append(f"{self.about['n_unlabelled']:,} tiles without a label are left out")
        lines += ["", *self._contestants(), ""]
        if self.contest.pairs:
            lines += [*self._pairs(), "", RULE]
        for name, one in self.provenance.items():
            if one.spread:
                lines += ["", f"{plain(name)}, AUROC by seed and fold:", *one.spread.lines()]
        return lines + self._plan()

    def _contestants(self) -> list[str]:
        rows = [("rank", "contestant", "auroc", "95 % interval", "method", "protocol")]
        for name, one in self.contest.figures.items():
            came = self.provenance[name]
            mark = " (contaminated)" if came.contaminated else ""
            interval = f"{one.low:.4f} to {one.high:.4f}"
            rows.append(
                (self.contest.ranks[name], plain(name) + mark, f"{one.estimate:.4f}", interval, one.method, came.protocol)
            )
        return bounded(aligned(rows), "contestants")

    def _pairs(self) -> list[str]:
        rows = [("difference of", "auroc", "95 % interval", "p (Holm)", "")]
        for pair in self.contest.pairs:
            one, verdict = pair.difference, "told apart" if pair.told_apart else "not told apart"
            interval = f"{one.low:+.4f} to {one.high:+.4f}"
            names = f"{plain(pair.first)} - {plain(pair.second)}"
            rows.append((names, f"{one.estimate:+.4f}", interval, f"{pair.p_holm:.2g}", verdict))
        return bounded(aligned(rows), "pairs")

    def _plan(self) -> list[str]:
        plans = self.plans()
        return ["", *bounded(plans, "pairs")] if plans else []

    def plans(self) -> list[str]:
        """Return, for each pair that is not told apart and has a plan, what it takes, in words."""
        undecided = [pair for pair in self.contest.pairs if not pair.told_apart and pair.detectable is not None]
        power = f"{100 * self.about['power']:.0f} % power"
        return [planned(pair, power, self.about["n_groups"]) for pair in undecided]


def planned(pair: Pair, power: str, slides: int) -> str:
    """Return what it takes to tell a pair apart, in words; before Holm's correction, and only if the difference is as found."""
    names = f"{plain(pair.first)} and {plain(pair.second)}"
    least = f"these {slides:,} slides tell {pair.detectable:.4f} and more apart" if pair.detectable else ""
    if pair.needed is None:
        return f"{names}: no difference was found; at {power}, {least}"
    return f"to tell {names} apart at {power}: about {pair.needed:,} slides, if the difference is as found; {least}"


def plain(name: str) -> str:
    """Return a name that is safe to print, without quotes."""
    return shown(name, 48)[1:-1]


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return rows of equally many cells as aligned lines."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def bounded(lines: list[str], what: str) -> list[str]:
    """Return at most SHOWN lines after the first, and how many there are besides."""
    left = len(lines) - 1 - SHOWN
    return lines if left <= 0 else [*lines[: SHOWN + 1], f"... and {left:,} more {what} in comparison.json"]
