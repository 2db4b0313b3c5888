"""A grid is read by the types of the settings, whole and in order; what cannot be meant is told."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinode.errors import UsageProblem
from sentinode.fit.grid import cells, check_comparable, read_grid


def test_typed_values_become_the_settings_types() -> None:
    grid = read_grid(
        ["lr=1e-3,1e-4", "batch=32, 64", "dihedral=true,no", "precision=fp32,bf16", "minutes=none,2", "weight-decay=0"]
    )
    assert grid == {
        "lr": [1e-3, 1e-4],
        "batch": [32, 64],
        "dihedral": [True, False],
        "precision": ["fp32", "bf16"],
        "minutes": [None, 2.0],
        "weight_decay": [0.0],
    }
    assert [type(values[0]) for values in grid.values()] == [float, int, bool, str, type(None), float]
    assert read_grid({"lr": [1e-3], "sample": ["5%", "100%"]}) == {"lr": [1e-3], "sample": ["5%", "100%"]}
    assert read_grid("lr=1,2") == {"lr": [1.0, 2.0]}


@given(st.lists(st.floats(1e-9, 10), min_size=1, max_size=5, unique=True), st.lists(st.integers(1, 512), min_size=1, unique=True))
def test_what_is_typed_comes_back_and_every_combination_once(rates: list[float], batches: list[int]) -> None:
    grid = read_grid([f"lr={','.join(map(repr, rates))}", f"batch={','.join(map(str, batches))}"])
    assert grid == {"lr": rates, "batch": batches}
    made = cells(grid)
    assert len(made) == len({tuple(cell.items()) for cell in made}) == len(rates) * len(batches)
    assert made[0] == {"lr": rates[0], "batch": batches[0]}
    assert [cell["batch"] for cell in made[: len(batches)]] == batches


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (["learning_rate=1"], r"expected a setting to search over; found 'learning_rate'; "),
        (["batches=1"], r"found 'batches'; did you mean batch"),
        (["lr=fast"], r"expected float for lr; found 'fast'; change --grid lr"),
        (["batch=1.5"], r"expected int for batch; found '1\.5'; change"),
        (["optimizer=adam"], r"adamw or sgd for optimizer; found 'adam'"),
        (["lr"], r"expected a setting and its values; found 'lr'; write --grid"),
        (["lr="], r"different values for lr; found no value; write"),
        (["lr=1,1.0"], r"different values for lr; found a value twice"),
        (["lr=1", "lr=2"], r"values of lr in one place; found a second list"),
        ({"batch": [True]}, r"expected int for batch; found 'True'"),
    ],
)
def test_a_grid_that_cannot_be_meant_is_told(grid: Any, message: str) -> None:
    with pytest.raises(UsageProblem, match=message):
        read_grid(grid)


def test_trials_are_compared_on_the_same_tiles() -> None:
    with pytest.raises(UsageProblem, match=r"same tiles choose among; found a grid over seed.*; give a store .* --valid"):
        check_comparable({"seed": [0, 1]}, own_valid=False)
    check_comparable({"seed": [0, 1]}, own_valid=True)
    check_comparable({"lr": [0.1]}, own_valid=False)
