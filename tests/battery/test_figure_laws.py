"""Laws that every figure keeps, whatever it measures."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sentinode.errors import UndefinedScore
from sentinode.judge import auroc, calibrate, threshold

Figure = Callable[[npt.NDArray[Any], npt.NDArray[Any]], Any]
RANK: dict[str, Figure] = {
    "auroc": auroc.auroc,
    "average_precision": auroc.average_precision,
    "delong": auroc.delong,
    "tile_interval": auroc.tile_interval,
    "roc_points": auroc.roc_points,
    "sensitivity_at": lambda y, s: threshold.sensitivity_at(y, s, 90),
}
PROBABILITY: dict[str, Figure] = {
    "brier_loss": calibrate.brier_loss,
    "ece": calibrate.ece,
    "ece_debiased": calibrate.ece_debiased,
    "reliability": calibrate.reliability,
    "youden_threshold": threshold.youden_threshold,
    "sensitivity_threshold": lambda y, p: threshold.sensitivity_threshold(y, p, 0.9),
    "cost_threshold": lambda y, p: threshold.cost_threshold(y, p, 5.0, 1.0),
    "accuracy": lambda y, p: threshold.accuracy(y, p, 0.4),
    "sensitivity": lambda y, p: threshold.sensitivity(y, p, 0.4),
    "specificity": lambda y, p: threshold.specificity(y, p, 0.4),
}
EVERY = [pytest.param(figure, id=name) for name, figure in (RANK | PROBABILITY).items()]


def sample(n: int = 400) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=n)
    return labels, np.asarray(np.round(0.3 * labels + 0.7 * rng.random(n), 2), np.float64)


def flat(value: Any) -> list[float]:
    """Return every number in a figure's answer."""
    if isinstance(value, (list, tuple)):
        return [number for part in value for number in flat(part)]
    if hasattr(value, "__dataclass_fields__"):
        return flat(list(vars(value).values()))
    return [] if isinstance(value, str) else np.atleast_1d(np.asarray(value, float)).tolist()


@pytest.mark.parametrize("figure", EVERY)
def test_row_order_is_irrelevant(figure: Figure) -> None:
    labels, scores = sample()
    order = np.random.default_rng(1).permutation(labels.size)
    assert flat(figure(labels[order], scores[order])) == pytest.approx(flat(figure(labels, scores)), abs=1e-14)


@pytest.mark.parametrize("figure", EVERY)
@pytest.mark.parametrize("only", [0, 1])
def test_one_class_raises(figure: Figure, only: int) -> None:
    with pytest.raises(UndefinedScore, match=r"both classes.*only"):
        figure(np.full(5, only), np.linspace(0, 1, 5))


@pytest.mark.parametrize("figure", EVERY)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_number_raises(figure: Figure, bad: float) -> None:
    with pytest.raises(UndefinedScore, match=r"row 3 \(1 such"):
        figure(np.array([0, 1, 0, 1]), np.array([0.1, 0.2, bad, 0.4]))


@pytest.mark.parametrize("figure", EVERY)
def test_empty_raises(figure: Figure) -> None:
    with pytest.raises(UndefinedScore, match=r"at least one labelled tile.*none"):
        figure(np.array([], int), np.array([]))


@pytest.mark.parametrize("figure", EVERY)
def test_length_mismatch_raises(figure: Figure) -> None:
    with pytest.raises(UndefinedScore, match=r"\(3,\).*\(2,\)"):
        figure(np.array([0, 1, 1]), np.array([0.1, 0.2]))


@pytest.mark.parametrize("figure", EVERY)
def test_unknown_label_raises(figure: Figure) -> None:
    with pytest.raises(UndefinedScore, match=r"labels of 0 and 1.*'-1'"):
        figure(np.array([0, 1, -1]), np.array([0.1, 0.2, 0.3]))


@pytest.mark.parametrize("figure", [pytest.param(f, id=name) for name, f in RANK.items()])
def test_rank_figures_ignore_monotone_transforms(figure: Figure) -> None:
    labels, scores = sample()
    assert flat(figure(labels, np.exp(3 * scores) - 7)) == flat(figure(labels, scores))


@pytest.mark.parametrize("figure", [pytest.param(f, id=name) for name, f in PROBABILITY.items()])
def test_probabilities_out_of_range_raise(figure: Figure) -> None:
    with pytest.raises(UndefinedScore, match=r"\[0, 1\].*1\.5.*row 2"):
        figure(np.array([0, 1]), np.array([0.5, 1.5]))


@pytest.mark.parametrize("figure", EVERY)
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_equal_scores_give_numbers_and_no_nan(figure: Figure, value: float) -> None:
    """All scores equal, also exactly 0 and 1, is a poor model and not an error."""
    assert np.isfinite(flat(figure(np.array([0, 1, 0, 1]), np.full(4, value)))).all()
