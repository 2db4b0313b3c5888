"""Runs of one recipe that differ in seed and fold: their mean, and how far they spread over each, told apart.

Such runs are judged on the same slides, so that more of them do not make an interval over slides narrower; they say how much of a
difference is luck of training.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sentinode.errors import UndefinedScore
from sentinode.tiles.holdout import in_order


@dataclass(frozen=True)
class Cell:
    """One run: its seed, the fold that it was not shown ("" for none) and its AUROC."""

    seed: int
    fold: str
    auroc: float


@dataclass(frozen=True)
class Spread:
    """What the runs of one recipe have in common and what not.

    `over_seeds` is the standard deviation among runs of one fold, pooled over folds; `over_folds` that among runs of one seed, pooled
    over seeds. None where no two runs differ in it alone. A fold trains on other tiles, so that `over_folds` holds the luck of
    training as well.
    """

    cells: tuple[Cell, ...]
    mean: float
    over_seeds: float | None
    over_folds: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return all of it, for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the table of seeds and folds, and the spreads, in words."""
        seeds, folds = sorted({cell.seed for cell in self.cells}), in_order({cell.fold for cell in self.cells})
        wide = [max(10, len(fold) + 7) for fold in folds]
        values = {(cell.seed, cell.fold): f"{cell.auroc:.4f}" for cell in self.cells}
        columns = list(zip(folds, wide, strict=True))
        lines = ["seed      " + "".join(f"{f'fold {fold}' if fold else 'AUROC':>{n}}" for fold, n in columns)]
        lines += [f"{seed:<10}" + "".join(f"{values.get((seed, fold), ''):>{n}}" for fold, n in columns) for seed in seeds]
        said = [
            f"{'not known' if value is None else f'{value:.4f}'} over {what}"
            for value, what in ((self.over_seeds, "seeds"), (self.over_folds, "folds"))
        ]
        return [*lines, f"mean {self.mean:.4f} of {len(self.cells)} runs; standard deviation {', '.join(said)}"]


def spread_of(cells: Sequence[Cell]) -> Spread:
    """Return mean and spreads of the runs of one recipe.

    Raises
    ------
    UndefinedScore
        If there is no run, or one seed and fold come twice.
    """
    if not cells or len({(cell.seed, cell.fold) for cell in cells}) < len(cells):
        found = "none" if not cells else "one of them twice"
        raise UndefinedScore("runs that differ in seed or fold", found, "name each run once")
    ordered = tuple(sorted(cells, key=lambda cell: (cell.seed, cell.fold)))
    mean = float(np.mean([cell.auroc for cell in ordered]))
    return Spread(ordered, mean, _pooled(ordered, lambda cell: cell.fold), _pooled(ordered, lambda cell: cell.seed))


def _pooled(cells: Sequence[Cell], within: Callable[[Cell], int | str]) -> float | None:
    """Return the standard deviation among cells that share `within`, pooled; None where no two do."""
    squares, degrees = 0.0, 0
    for key in {within(cell) for cell in cells}:
        values = np.array([cell.auroc for cell in cells if within(cell) == key])
        squares += float(((values - values.mean()) ** 2).sum())
        degrees += values.size - 1
    return (squares / degrees) ** 0.5 if degrees else None
