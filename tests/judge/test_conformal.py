"""Saying "don't know": the stated coverage on slides that were never seen, by simulation, and the cut by brute force."""

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import expit

from sentinode.errors import UndefinedScore
from sentinode.judge.conformal import abstention, called, conformal_cut
from sentinode.judge.statement import TILES

Study = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.str_]]


def study(rng: np.random.Generator, n_slides: int, most: int = 40) -> Study:
    """Return a study whose slides differ in size and, strongly, in how far the model is off on them."""
    sizes = rng.integers(2, most, n_slides)
    codes = np.repeat(np.arange(n_slides), sizes)
    labels = rng.integers(2, size=codes.size)
    off = rng.normal(0, 2, n_slides)[codes]
    logit = 2.5 * (2 * labels - 1) + off + rng.normal(size=codes.size)
    return labels, expit(logit), np.char.add("s", codes.astype(str))


def brute_cut(labels: npt.NDArray[np.int64], p: npt.NDArray[np.float64], groups: npt.NDArray[np.str_], coverage: float) -> float:
    unlikely = np.where(labels == 1, 1 - p, p)
    names = np.unique(groups)
    for value in np.sort(unlikely):
        if sum((unlikely[groups == name] <= value).mean() for name in names) / (len(names) + 1) >= coverage - 1e-12:
            return float(value)
    return 1.0


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9])
def test_the_cut_is_the_least_value_that_enough_slides_reach(coverage: float) -> None:
    labels, p, groups = study(np.random.default_rng(0), 25)
    cut = conformal_cut(labels, p, groups, coverage)
    assert (cut.value, cut.unit, cut.n_units) == (brute_cut(labels, p, groups, coverage), "slides", 25)


def test_without_slides_it_is_the_usual_quantile_of_split_conformal() -> None:
    labels, p, _ = study(np.random.default_rng(1), 20)
    cut = conformal_cut(labels, p, np.full(labels.size, ""))
    unlikely = np.sort(np.where(labels == 1, 1 - p, p))
    assert cut.value == unlikely[int(np.ceil(0.9 * (labels.size + 1))) - 1]
    assert TILES in cut.unit


def test_sets_hold_the_true_label_as_often_as_stated_on_the_next_slide() -> None:
    """400 studies of 20 slides, each followed by one slide more; with tiles as units the promise is broken."""
    rng = np.random.default_rng(2)
    held: dict[str, list[float]] = {"slides": [], "tiles": []}
    for _ in range(400):
        labels, p, groups = study(rng, 21)
        rest, last = groups != "s20", groups == "s20"
        unlikely = np.where(labels == 1, 1 - p, p)
        for unit, names in (("slides", groups[rest]), ("tiles", np.full(int(rest.sum()), ""))):
            held[unit].append(float((unlikely[last] <= conformal_cut(labels[rest], p[rest], names).value).mean()))
    mean = np.mean(held["slides"])
    error = np.std(held["slides"]) / 20
    assert 0.9 - 3 * error <= mean <= 0.97
    assert np.mean(held["tiles"]) < mean


def test_too_few_slides_call_nothing_and_say_how_many_it_takes() -> None:
    labels, p, groups = study(np.random.default_rng(3), 8)
    cut = conformal_cut(labels, p, groups)
    assert (cut.value, cut.why) == (1.0, "8 slides chose; a coverage of 0.9 takes 9")
    assert (called(p, cut.value) == -1).all()
    assert "right_when_called" not in abstention(labels, p, cut)
    labels, p, groups = study(np.random.default_rng(3), 9)
    assert conformal_cut(labels, p, groups).why == ""


def test_one_label_is_a_call_and_both_or_none_is_not() -> None:
    p = np.array([0.05, 0.3, 0.5, 0.75, 0.99])
    assert called(p, 0.2).tolist() == [0, -1, -1, -1, 1]
    assert called(p, 0.6).tolist() == [0, 0, -1, 1, 1]
    assert called(p, 0.8).tolist() == [0, -1, -1, -1, 1]


def test_what_the_sets_are_worth() -> None:
    labels, p = np.array([0, 0, 1, 1, 1]), np.array([0.05, 0.9, 0.95, 0.5, 0.97])
    cut = conformal_cut(np.array([0, 1] * 10), np.array([0.1, 0.9] * 10), np.full(20, ""))
    told = abstention(labels, p, cut)
    assert cut.value == pytest.approx(0.1)
    assert told["covered"]["estimate"] == pytest.approx(3 / 5)
    assert told["not_called"]["estimate"] == pytest.approx(1 / 5)
    assert told["right_when_called"]["estimate"] == pytest.approx(3 / 4)
    assert told["right_when_called"]["n"] == 4


@pytest.mark.parametrize("coverage", [0.0, 1.0, float("nan")])
def test_a_coverage_that_means_nothing_is_refused(coverage: float) -> None:
    with pytest.raises(UndefinedScore, match=r"a coverage in \(0, 1\); found .*; ask for one"):
        conformal_cut(np.array([0, 1]), np.array([0.1, 0.9]), np.array(["a", "b"]), coverage)
