"""Picking members: brute force finds the same, and no name, order or double can talk its way in."""

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_expit

from sentinode.errors import UndefinedScore
from sentinode.judge.picking import LEAST_GAIN, Picking, pick_members, tempered_log_loss

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def candidates(seed: int, k: int, n: int = 60) -> tuple[Ints, dict[str, Floats]]:
    """Return labels and logits of k models of unequal worth that share a part of their mistakes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    shared = rng.normal(size=n)
    made = {f"m{at}": rng.uniform(0.5, 3) * ((2 * labels - 1) + shared + (0.5 + at / 2) * rng.normal(size=n)) for at in range(k)}
    return labels, made


def least(labels: Ints, logits: Floats) -> float:
    """Return the log loss at the best temperature by another road: scipy's bounded minimiser over the logarithm of the scale."""

    def loss(log_scale: float) -> float:
        x = np.exp(log_scale) * logits
        return float(-np.mean(np.where(labels == 1, log_expit(x), log_expit(-x))))

    bounds = (-np.log(10), np.log(10))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-10})
    return min(float(found.fun), loss(bounds[0]), loss(bounds[1]))


@pytest.mark.parametrize("seed", range(12))
def test_the_loss_is_that_of_scipys_best_temperature(seed: int) -> None:
    labels, made = candidates(seed, 3)
    for logits in (*made.values(), 40 * made["m0"], made["m0"] / 40, -made["m0"]):
        assert tempered_log_loss(labels, logits) == pytest.approx(least(labels, logits), rel=1e-7)


@pytest.mark.parametrize("seed", range(25))
def test_each_step_is_the_best_that_brute_force_finds(seed: int) -> None:
    labels, made = candidates(seed, 5)
    got = pick_members(labels, made)
    every = {
        frozenset(group): least(labels, np.mean([made[name] for name in group], axis=0))
        for size in range(1, 6)
        for group in itertools.combinations(made, size)
    }
    have: frozenset[str] = frozenset()
    for step in got.steps:
        larger = {name: every[have | {name}] for name in made if name not in have}
        assert step.name == min(larger, key=lambda name: larger[name])
        assert step.log_loss == pytest.approx(larger[step.name], rel=1e-7)
        have |= {step.name}
    rest = [every[have | {name}] for name in made if name not in have]
    assert not rest or min(rest) >= every[have] - 2 * LEAST_GAIN
    assert (got.refused is None) == (not rest)


def test_whoever_only_tempers_is_left_out_and_whoever_knows_more_is_not() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(3000) % 2
    sure, partner = (40 * (2.0 * labels - 1 + rng.normal(0, 0.6, 3000)) for _ in range(2))
    knows_nothing = np.zeros(3000)

    def plain(logits: Floats) -> float:
        return float(np.mean(np.logaddexp(0, logits) - labels * logits))

    assert plain(sure / 2) < plain(sure), "by the log loss as it is, a member that knows nothing would be welcome"
    assert pick_members(labels, {"sure": sure, "knows nothing": knows_nothing}).picked == ("sure",)
    got = pick_members(labels, {"sure": sure, "knows nothing": knows_nothing, "partner": partner})
    assert set(got.picked) == {"sure", "partner"}
    assert got.refused is not None
    assert got.refused.name == "knows nothing"


TABLES = st.integers(1, 5).flatmap(
    lambda k: st.lists(st.lists(st.integers(-40, 40).map(lambda x: x / 8), min_size=k, max_size=k), min_size=4, max_size=12)
)


def picked(rows: list[list[float]], labels: Ints) -> tuple[dict[str, Floats], Picking]:
    made = {f"m{at}": column for at, column in enumerate(np.array(rows).T)}
    return made, pick_members(labels, made)


@settings(deadline=None)
@given(TABLES, st.randoms(use_true_random=False))
def test_laws_of_any_candidates(rows: list[list[float]], rng: object) -> None:
    labels = np.arange(len(rows)) % 2
    made, got = picked(rows, labels)
    # The order of the candidates does not matter.
    mixed = rng.sample(list(made), len(made))  # type: ignore[attr-defined]
    assert pick_members(labels, {name: made[name] for name in mixed}) == got
    # Nobody twice.
    assert len(set(got.picked)) == len(got.picked)
    # Never worse on valid than the best alone, and better with every step.
    best = min(one.log_loss for one in got.alone.values())
    assert got.steps[0].log_loss <= best + LEAST_GAIN
    losses = [step.log_loss for step in got.steps]
    assert all(after < before - LEAST_GAIN for before, after in itertools.pairwise(losses))
    assert losses[-1] <= best + LEAST_GAIN


@settings(deadline=None)
@given(TABLES, st.integers(0, 4))
def test_doubles_add_nothing(rows: list[list[float]], at: int) -> None:
    labels = np.arange(len(rows)) % 2
    made, got = picked(rows, labels)
    name = f"m{at % len(made)}"
    again = pick_members(labels, {**made, "zz-double": made[name].copy()})
    assert (again.steps, again.alone, again.refused) == (got.steps, got.alone, got.refused)
    assert again.same["zz-double"] == got.same.get(name, name)


def test_ties_go_to_the_name_and_separated_classes_need_one_member() -> None:
    labels = np.array([0, 0, 1, 1])
    surer, sure = np.array([-60.0, -50, 50, 60]), np.array([-50.0, -60, 60, 50])
    got = pick_members(labels, {"b": surer, "a": sure})
    assert got.picked == ("a",)
    assert got.refused is not None
    assert got.refused.name == "b"


def test_what_cannot_be_picked_from_is_told() -> None:
    labels = np.array([0, 1])
    for made, found in (
        ({}, "none"),
        ({"a": np.array([0.0, np.nan])}, "'nan' in row 2"),
        ({"a": np.zeros(3)}, "labels of shape"),
    ):
        with pytest.raises(UndefinedScore) as caught:
            pick_members(labels, made)
        assert found in caught.value.found
        assert caught.value.expected
        assert caught.value.do
    with pytest.raises(UndefinedScore, match="both classes"):
        pick_members(np.array([1, 1]), {"a": np.zeros(2)})


@given(st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_a_models_own_scale_does_not_matter_to_its_loss(seed: int) -> None:
    labels, made = candidates(seed, 1)
    loss = tempered_log_loss(labels, made["m0"])
    assume(abs(loss - np.log(2)) > 1e-3)
    assert tempered_log_loss(labels, 1.3 * made["m0"]) == pytest.approx(loss, abs=1e-3)
