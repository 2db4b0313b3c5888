"""Seeds and folds: spreads by hand, each from runs that differ in nothing else."""

import numpy as np
import pytest

from sentinode.errors import UndefinedScore
from sentinode.judge.spread import Cell, spread_of


def test_seeds_and_folds_spread_separately() -> None:
    """Folds differ by 0.1 and seeds by 0.02: the standard deviation of two values is their distance over the root of 2."""
    table = [Cell(seed, f"{fold}/10", 0.8 + 0.05 * fold + 0.02 * seed) for seed in (0, 1) for fold in (8, 10)]
    found = spread_of(table[::-1])
    assert found.mean == pytest.approx(1.26)
    assert found.over_seeds == pytest.approx(0.02 / 2**0.5)
    assert found.over_folds == pytest.approx(0.1 / 2**0.5)
    assert set(found.cells) == set(table)
    assert found.lines()[0].split() == ["seed", "fold", "8/10", "fold", "10/10"]
    assert found.lines()[1].split() == ["0", "1.2000", "1.3000"]
    assert found.lines()[-1] == "mean 1.2600 of 4 runs; standard deviation 0.0141 over seeds, 0.0707 over folds"


def test_what_never_differs_alone_has_no_spread() -> None:
    seeds = spread_of([Cell(seed, "", value) for seed, value in enumerate((0.8, 0.82, 0.87))])
    assert seeds.over_seeds == pytest.approx(np.std([0.8, 0.82, 0.87], ddof=1))
    assert seeds.over_folds is None
    assert "not known over folds" in seeds.lines()[-1]
    assert seeds.lines()[0].split() == ["seed", "AUROC"]
    both = spread_of([Cell(0, "1/2", 0.8), Cell(1, "2/2", 0.9)])
    assert both.over_seeds is both.over_folds is None
    assert both.lines()[1].split() == ["0", "0.8000"]
    assert both.as_dict()["cells"][1] == {"seed": 1, "fold": "2/2", "auroc": 0.9}


@pytest.mark.parametrize(("cells", "found"), [([], "none"), ([Cell(0, "1/2", 0.8), Cell(0, "1/2", 0.9)], "one of them twice")])
def test_a_run_that_comes_twice_is_refused(cells: list[Cell], found: str) -> None:
    with pytest.raises(UndefinedScore, match=f"runs that differ in seed or fold; found {found}; name each run once"):
        spread_of(cells)
