"""The clock of --minutes: what fits before a deadline, added up by hand."""

import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinode.machine.clock import LEAST_EPOCHS, LEAST_TILES, Costs, counting_from, fit_before, start_of_clock

CNN = Costs(step=0.16, batch=64, validate=0.0008, last=0.002, digest=0.0001, record=4.0)
"""400 tiles/s in training."""
TUNED = replace(CNN, step=0.64, validate=0.004, last=0.01, features=0.004, exact=0.01, before=6.0)
"""100 tiles/s in training, a forward pass of every tile before it."""

costs = st.builds(
    Costs,
    step=st.floats(1e-3, 10),
    batch=st.sampled_from([16, 64, 256]),
    validate=st.floats(1e-6, 0.1),
    last=st.floats(1e-6, 0.1),
    digest=st.floats(1e-6, 1e-3),
    record=st.floats(0, 5),
    features=st.floats(0, 0.1),
    exact=st.floats(0, 0.1),
    before=st.floats(0, 10),
)


def seconds(costs: Costs, train: int, choose: int, epochs: float) -> float:
    """What a training takes by its definition, independently of how it was planned."""
    head = costs.before + train * costs.features + choose * costs.exact
    passes = epochs * (train / costs.batch * costs.step + choose * costs.validate)
    return head + passes + choose * costs.last + (train + choose) * costs.digest + costs.record


def test_all_tiles_train_where_there_is_time_for_four_passes_over_them() -> None:
    fit = fit_before(300.0, CNN, 5600, 1400)
    assert (fit.train, fit.choose) == (5600, 1400)
    assert seconds(CNN, 5600, 1400, fit.epochs) == pytest.approx(300)
    assert fit.epochs > LEAST_EPOCHS


def test_short_of_time_fewer_tiles_train_and_not_for_fewer_passes() -> None:
    fit = fit_before(60.0, TUNED, 200_000, 1400)
    assert fit.train < 2000
    assert fit.epochs == pytest.approx(LEAST_EPOCHS, rel=0.01)
    assert seconds(TUNED, fit.train, fit.choose, fit.epochs) == pytest.approx(60, rel=0.01)
    assert fit_before(60.0, TUNED, 200_000, 1400, sampled=False).train == 200_000


def test_tiles_that_choose_take_no_more_than_their_share() -> None:
    fit = fit_before(610.0, TUNED, 200_000, 50_000)
    once_and_passes = fit.choose * (TUNED.exact + TUNED.last + TUNED.digest + LEAST_EPOCHS * TUNED.validate)
    assert once_and_passes == pytest.approx(0.25 * (610 - 4 - 6), rel=0.01)
    assert fit_before(20.0, TUNED, 200_000, 50_000).choose == LEAST_TILES


@given(costs=costs, deadline=st.floats(1, 3600), n_train=st.integers(2, 10**6), n_choose=st.integers(2, 10**5))
def test_what_is_planned_fits_wherever_it_can(costs: Costs, deadline: float, n_train: int, n_choose: int) -> None:
    fit = fit_before(deadline, costs, n_train, n_choose)
    assert 0 < fit.train <= n_train
    assert 0 < fit.choose <= n_choose
    if fit.epochs > 0:
        assert seconds(costs, fit.train, fit.choose, fit.epochs) <= deadline * 1.001
    more = fit_before(2 * deadline, costs, n_train, n_choose)
    assert more.train >= fit.train or more.choose > fit.choose, "more time never means fewer tiles, unless more of them choose"


def test_cost_grows_with_the_square_of_the_input_but_for_what_is_no_arithmetic() -> None:
    half = TUNED.at_size(80, of=160)
    assert (half.step, half.validate, half.last, half.features) == pytest.approx((0.16, 0.001, 0.0025, 0.001))
    assert (half.digest, half.record, half.before) == (TUNED.digest, TUNED.record, TUNED.before)


def test_the_end_holds_the_record_and_what_each_tile_takes() -> None:
    assert CNN.end(5000, 1000) == pytest.approx(4 + 1000 * 0.002 + 6000 * 0.0001)


def test_a_job_that_was_begun_earlier_counts_from_there_and_no_other_does() -> None:
    with counting_from(12.5):
        assert start_of_clock() == 12.5
    before = time.perf_counter()
    assert start_of_clock() >= before
