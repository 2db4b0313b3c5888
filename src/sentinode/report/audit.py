"""The pictures of an audit: the worst tiles of each reason, suspects, duplicates side by side, domains in colour space, leaks."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes

from sentinode.errors import shown
from sentinode.qc.domains import Domains
from sentinode.qc.leaks import LeakLadder
from sentinode.qc.quality import REASONS, Quality
from sentinode.report.style import FLOOR, MODEL, NEGATIVE, POSITIVE, QUIET, WRONG, caption, look, new_figure, save
from sentinode.tiles.store import Store, Tiles

ACROSS = 8
"""Tiles beside each other: 12 mm each on a phone."""
MOST_PAIRS = 12
"""Pairs that are shown."""
MOST_POINTS = 3000
"""Tiles drawn in colour space, evenly spaced in the store."""
COLOURS = (MODEL, FLOOR, POSITIVE, NEGATIVE, WRONG, QUIET, "#009E73", "#000000")
MARKS = ("o", "s", "^", "v", "D", "P", "X", "*")
"""One a pseudo-group: colours and marks both differ."""


class Found(Protocol):
    """What the pictures are drawn from."""

    @property
    def quality(self) -> Quality:
        """Measures and reasons."""

    @property
    def pairs(self) -> pd.DataFrame:
        """Pairs of duplicates."""

    @property
    def domains(self) -> Domains:
        """Colour domains."""

    @property
    def ladder(self) -> LeakLadder | None:
        """The leak ladder."""


def write_audit_figures(folder: Path, store: Store, other: Store | None, found: Found, queue: pd.DataFrame) -> list[Path]:
    """Draw spoilt, suspects, duplicates, domains and leaks, each as SVG and PNG; one that has nothing to show is left out."""
    place = {name: at for at, name in enumerate(store.rows["id"].astype(str))}
    worst = {name: [(int(at), "") for at in found.quality.worst(name, ACROSS)] for name in REASONS}
    heads = queue[queue["reason"] == "label suspect"].head(4 * ACROSS)
    named = [
        (place[str(name)], f"{label} {1 - score:.2f}")
        for name, label, score in zip(
            heads["id"], heads["label"].map(lambda text: shown(text, 10).strip("'")), heads["score"], strict=True
        )
    ]
    suspects = {f"rank {at + 1}": named[at : at + ACROSS] for at in range(0, len(named), ACROSS)}
    written = []
    with look():
        written += sheet(folder, "spoilt", store, worst, "Worst tiles of each reason, most severe first.")
        note = "Label suspects, most suspicious first; below each the given label and its probability out of fold."
        written += sheet(folder, "suspects", store, suspects, note)
        for where, against in (("inside", store), ("between", other)):
            pairs = found.pairs[found.pairs["where"] == where]
            if against is not None and len(pairs):
                written += side_by_side(folder, f"duplicates_{where}", store, against, pairs)
        figure = new_figure()
        draw_domains(figure.add_subplot(), found.domains)
        written += save(figure, folder, "domains")
        if found.ladder is not None:
            figure = new_figure((4.3, 3.0))
            draw_leaks(figure.add_subplot(), found.ladder)
            written += save(figure, folder, "leaks")
    return written


def sheet(folder: Path, name: str, store: Store, rows: dict[str, list[tuple[int, str]]], note: str) -> list[Path]:
    """Draw rows of tiles, each with its title on the left; rows of none are left out."""
    rows = {title: tiles for title, tiles in rows.items() if tiles}
    if not rows:
        return []
    figure = new_figure((8.6, 1.15 * len(rows) + 0.4))
    grid = figure.subplots(len(rows), ACROSS, squeeze=False)
    for line, (title, tiles) in zip(grid, rows.items(), strict=True):
        for axes in line:
            axes.axis("off")
        line[0].text(-0.12, 0.5, title, transform=line[0].transAxes, rotation=90, va="center", ha="center", fontsize=8)
        for axes, (at, below) in zip(line, tiles, strict=False):
            show(axes, store.tiles[at], below)
    caption(grid[-1][0], note, 140)
    return save(figure, folder, name)


def side_by_side(folder: Path, name: str, store: Store, other: Store, pairs: pd.DataFrame) -> list[Path]:
    """Draw pairs of duplicates: those of other labels first, then evenly spaced ones of each kind."""
    ours, theirs = ({text: at for at, text in enumerate(of.rows["id"].astype(str))} for of in (store, other))
    ordered = pairs.sort_values(["conflict", "kind", "id_a"], ascending=[False, True, True], ignore_index=True)
    first = ordered[ordered["conflict"]].head(MOST_PAIRS // 2)
    rest = ordered.drop(index=first.index)
    some = pd.concat(
        [first, rest.iloc[np.unique(np.linspace(0, len(rest) - 1, min(len(rest), MOST_PAIRS - len(first))).astype(int))]]
        if len(rest)
        else [first]
    )
    lines = -(-len(some) // 4)
    figure = new_figure((8.6, 1.3 * lines + 0.4))
    grid = figure.subplots(lines, 8, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for at, row in enumerate(some.to_dict("records")):
        left, right = grid[at // 4][at % 4 * 2 : at % 4 * 2 + 2]
        show(left, store.tiles[ours[str(row["id_a"])]], f"{row['kind']}, label {row['label_a']}")
        show(right, other.tiles[theirs[str(row["id_b"])]], f"label {row['label_b']}{' !' if row['conflict'] else ''}")
    note = f"{len(some):,} of {len(pairs):,} pairs, left and right of each; ! labels differ (-1: unknown)."
    caption(grid[-1][0], note, 140)
    return save(figure, folder, name)


def show(axes: Axes, tile: Tiles, below: str) -> None:
    """Show one tile and a few words under it."""
    axes.imshow(tile, interpolation="nearest")
    axes.text(0.5, -0.04, below, transform=axes.transAxes, fontsize=6.5, ha="center", va="top", parse_math=False)


def draw_domains(axes: Axes, domains: Domains) -> None:
    """Draw tiles by their mean optical density in red and in green, a colour and a mark a pseudo-group."""
    table = domains.table.iloc[:: max(1, len(domains.table) // MOST_POINTS)]
    names = sorted(domains.table["pseudo_group"].unique(), key=lambda name: int(str(name).rpartition("-")[2]))
    for at, name in enumerate(names):
        of_it = table[table["pseudo_group"] == name]
        total = int((domains.table["pseudo_group"] == name).sum())
        kind: dict[str, Any] = {"color": COLOURS[at % 8], "marker": MARKS[at % 8]}
        axes.scatter(of_it["od_red"], of_it["od_green"], s=6, alpha=0.5, lw=0, label=f"{name}, n = {total:,}", **kind)
    axes.set(xlabel="optical density of tissue, red", ylabel="optical density of tissue, green", title="Colour domains")
    axes.legend(loc="upper left", markerscale=2, fontsize=7)
    caption(
        axes, f"Pseudo-groups: clusters of stain in six statistics, not slides. {len(table):,} of {len(domains.table):,} tiles."
    )


def draw_leaks(axes: Axes, ladder: LeakLadder) -> None:
    """Draw the AUROC of each split with its interval."""
    names = list(ladder.figures)
    middle = np.array([ladder.figures[name].estimate for name in names])
    ends: npt.NDArray[np.float64] = np.array([[ladder.figures[name].low, ladder.figures[name].high] for name in names]).T
    at = np.arange(len(names))[::-1]
    axes.errorbar(middle, at, xerr=np.abs(ends - middle), fmt="o", color=MODEL, capsize=3)
    for x, y in zip(middle, at, strict=True):
        axes.text(x, y + 0.12, f"{x:.3f}", ha="center", va="bottom", fontsize=8)
    axes.set_yticks(at, names)
    axes.set(xlabel="AUROC of colour alone, out of fold", ylim=(-0.5, len(names) - 0.3), title="Leak ladder")
    caption(axes, f"{ladder.n_tiles:,} tiles. 95 % interval: {ladder.figures[names[0]].method}.")
