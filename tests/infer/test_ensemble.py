"""The mean of logits: it is the mean, and the order in which runs are named cannot show."""

import math
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sentinode.errors import RunProblem
from sentinode.infer.ensemble import mean_logit, members_of
from sentinode.nets.trained import ModelFacts, Run
from sentinode.nets.transform import Preprocessing

Table = npt.NDArray[np.float64]
LOGITS = arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=st.floats(-50, 50))


@given(LOGITS, st.randoms(use_true_random=False))
def test_the_order_of_the_members_does_not_change_one_bit(logits: Table, rng: Random) -> None:
    members = list(logits)
    mixed = rng.sample(members, len(members))
    assert mean_logit(members).tobytes() == mean_logit(mixed).tobytes()


@given(LOGITS)
def test_it_is_the_mean_of_exact_arithmetic(logits: Table) -> None:
    exact = [math.fsum(column) / len(column) for column in logits.T]
    np.testing.assert_allclose(mean_logit(list(logits)), exact, rtol=1e-12, atol=1e-12)


def untrained(name: str, px: int = 32, classes: tuple[str, str] = ("0", "1")) -> Run:
    facts = ModelFacts("simple-cnn", {}, Preprocessing((0, 0, 0), (1, 1, 1)), px, classes)
    return Run(Path(name), torch.nn.Identity(), facts, {})


def test_runs_of_one_task_are_members() -> None:
    runs = [untrained("a"), untrained("b")]
    assert members_of(runs) == runs


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (untrained("b", px=48), r"expected runs of 32 px.*as 'a'; found 48 px.*in 'b'; name only runs of the same task"),
        (untrained("b", classes=("1", "0")), r"expected runs of 32 px.*found 32 px with classes .*'1', '0'.*in 'b'"),
    ],
)
def test_runs_of_different_tasks_are_refused(other: Run, message: str) -> None:
    with pytest.raises(RunProblem, match=message):
        members_of([untrained("a"), other])
