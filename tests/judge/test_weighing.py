"""Fitted weights beside the plain mean: a peer finds the same weights, and only what helps on other slides is praised."""

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from sentinode.errors import UndefinedScore
from sentinode.judge.recalibrate import smoothed
from sentinode.judge.statement import Slides, slides_of
from sentinode.judge.weighing import fit_weights, weigh_members
from sentinode.tiles.folds import folds_of

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def drawn(
    noises: tuple[float, ...], n_slides: int = 40, tiles: int = 30, seed: int = 0
) -> tuple[Ints, dict[str, Floats], Slides]:
    """Return labels, logits of models that see the label under so much noise of their own, and slides."""
    rng = np.random.default_rng(seed)
    n = n_slides * tiles
    labels = np.arange(n) % 2
    members = {f"m{at}": 2.0 * labels - 1 + noise * rng.normal(size=n) for at, noise in enumerate(noises)}
    return labels, members, slides_of(np.array([f"s{at // tiles}" for at in range(n)]))


def test_the_weights_are_those_of_scikit_learns_regression() -> None:
    """Targets between 0 and 1 are both labels, each with its share as weight."""
    labels, members, _ = drawn((1.0, 1.5, 2.5))
    x, target = np.stack(list(members.values()), axis=1), smoothed(labels)
    peer = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=1000)
    peer.fit(np.vstack([x, x]), np.repeat([1, 0], labels.size), np.concatenate([target, 1 - target]))
    assert (peer.coef_[0] > 0).all()
    np.testing.assert_allclose(fit_weights(labels, x), peer.coef_[0], rtol=1e-4)
    np.testing.assert_allclose(fit_weights(labels, 40 * x) * 40, peer.coef_[0], rtol=1e-4)


def test_no_weight_is_negative_and_separated_classes_have_finite_ones() -> None:
    labels, members, _ = drawn((1.0, 1.0))
    against = fit_weights(labels, np.stack([members["m0"], -members["m1"]], axis=1))
    assert against[1] == 0
    assert against[0] > 0
    sure = np.stack([2.0 * labels - 1] * 2, axis=1)
    assert np.isfinite(fit_weights(labels, 50 * sure)).all()
    assert fit_weights(labels, np.zeros((labels.size, 2))).sum() >= 0


def test_losses_out_of_fold_are_those_of_the_fits_that_did_not_see_the_slide() -> None:
    labels, members, slides = drawn((1.0, 2.0), n_slides=12)
    found = weigh_members(labels, members, slides, seed=3)
    x = np.stack(list(members.values()), axis=1)
    folds = folds_of(slides.codes, labels, [f"{at:09d}" for at in range(labels.size)], "slides", 3)
    p = np.zeros(labels.size)
    for fold in range(5):
        p[folds == fold] = expit(x[folds == fold] @ fit_weights(labels[folds != fold], x[folds != fold]))
    assert found.weighted_loss == pytest.approx(log_loss(labels, p), abs=1e-12)
    assert found.gain == pytest.approx(found.mean_loss - found.weighted_loss, abs=1e-12)
    assert found.by == "5 folds of slides"
    assert sum(found.weights.values()) == pytest.approx(1)


def test_members_of_unequal_worth_are_weighed_and_it_is_said() -> None:
    found = weigh_members(*drawn((0.8, 6.0)))
    assert found.beats
    assert found.weights["m0"] > 0.9
    assert found.words().startswith("fitted weights (")
    assert "beat the plain mean out of slide: gain +" in found.words()
    assert found.as_dict()["beats"]


def test_members_of_equal_worth_are_best_left_alone_and_it_is_said() -> None:
    found = weigh_members(*drawn((1.5, 1.5, 1.5)))
    assert not found.beats
    assert found.words().startswith("fitted weights do not surely beat the plain mean out of slide: gain ")


def test_without_slides_nothing_is_praised() -> None:
    labels, members, _ = drawn((0.8, 6.0))
    found = weigh_members(labels, members, slides_of(np.full(labels.size, "")))
    assert found.low > 0
    assert not found.beats
    assert found.by == "5 folds of tiles, assumes independent tiles"


@pytest.mark.parametrize(
    ("labels", "members", "found"),
    [
        ([0, 1, 0, 1], {"a": np.zeros(4)}, "1"),
        ([1, 1, 1, 1], {"a": np.zeros(4), "b": np.zeros(4)}, "4 positive ones only"),
        ([0, 1, 0, 1], {"a": np.zeros(4), "b": np.array([0, np.nan, 0, 0])}, "'nan' in row 2"),
        ([0, 1, 0, 1], {"a": np.zeros(4), "b": np.zeros(3)}, "scores of (3,)"),
        ([0, 0, 0, 1], {"a": np.zeros(4), "b": np.zeros(4)}, "4 with 1 positive"),
    ],
)
def test_what_cannot_be_weighed_is_refused(labels: list[int], members: dict[str, Floats], found: str) -> None:
    with pytest.raises(UndefinedScore) as caught:
        weigh_members(np.array(labels), members, slides_of(np.full(len(labels), "")))
    assert found in caught.value.found
    assert caught.value.expected
    assert caught.value.do
