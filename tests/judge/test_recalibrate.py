"""Maps that mend probabilities against independent fits, and taken only where they help on what they have not seen."""

import numpy as np
import numpy.typing as npt
import pytest
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit
from sklearn.metrics import log_loss

from sentinode.judge.recalibrate import fit_isotonic, fit_platt, fit_temperature, recalibrate, smoothed, tile_losses
from sentinode.judge.statement import TILES
from sentinode.tiles.folds import folds_of

Sample = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]


def sample(n: int = 400, seed: int = 0, scale: float = 1.0, shift: float = 0.0) -> Sample:
    """Return labels drawn from true logits, and the logits that a model says instead: true * scale + shift."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 2, n)
    return (rng.random(n) < expit(truth)).astype(np.int64), truth * scale + shift


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_temperature_is_the_minimum(scale: float) -> None:
    labels, logits = sample(scale=scale)
    target = smoothed(labels)

    def loss(log_scale: float) -> float:
        z = np.exp(log_scale) * logits
        return float(np.mean(np.logaddexp(0, z) - target * z))

    best = minimize_scalar(loss, bounds=(-2.3, 2.3), method="bounded")
    assert fit_temperature(labels, logits)[0] == pytest.approx(float(np.exp(best.x)), rel=1e-3)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (3.0, -50.0), (0.01, 2.0)])
def test_platt_is_the_minimum_of_the_smoothed_loss(scale: float, shift: float) -> None:
    labels, logits = sample(scale=scale, shift=shift)
    target = smoothed(labels)
    assert sorted(set(target)) == pytest.approx([1 / ((1 - labels).sum() + 2), (labels.sum() + 1) / (labels.sum() + 2)])
    x = (logits - logits.mean()) / logits.std()

    def loss(w: npt.NDArray[np.float64]) -> float:
        z = w[0] * x + w[1]
        return float(np.mean(np.logaddexp(0, z) - target * z))

    best = minimize(loss, np.zeros(2), tol=1e-12)
    a, b = fit_platt(labels, logits)
    np.testing.assert_allclose(a * logits + b, best.x[0] * x + best.x[1], atol=1e-3)


def test_separated_classes_have_finite_maps() -> None:
    labels, logits = np.repeat([0, 1], 20), np.repeat([-1.0, 1.0], 20)
    assert fit_temperature(labels, logits)[0] == pytest.approx(np.log(21), rel=1e-6)  # tells 21 / 22, the smoothed target
    assert 1 < fit_platt(labels, logits)[0] < 10
    assert np.isfinite(fit_isotonic(labels, logits)(np.array([-5.0, 0.0, 5.0]))).all()


def test_log_loss_is_scikit_learns() -> None:
    labels, logits = sample()
    assert tile_losses(labels, logits).mean() == pytest.approx(log_loss(labels, expit(logits)))


@pytest.mark.parametrize(("scale", "shift", "kind"), [(4.0, 0.0, "temperature"), (2.0, 6.0, "platt")])
def test_a_model_that_is_off_is_mended(scale: float, shift: float, kind: str) -> None:
    labels, logits = sample(2000, scale=scale, shift=shift)
    found = recalibrate(labels, logits, np.char.add("s", (np.arange(2000) // 40).astype(str)))
    assert found.by == "5 folds of slides"
    if kind == "platt":
        assert found.kind == kind
    assert found.kind in {"temperature", "platt"}
    fresh_labels, fresh = sample(5000, seed=9, scale=scale, shift=shift)
    mended = log_loss(fresh_labels, expit(fresh * found.scale + found.shift))
    assert mended < log_loss(fresh_labels, expit(fresh)) - 0.05
    assert mended == pytest.approx(log_loss(fresh_labels, expit((fresh - shift) / scale)), abs=0.01)


def test_a_model_that_is_right_is_left_alone() -> None:
    taken = 0
    for seed in range(20):
        labels, logits = sample(600, seed=seed)
        taken += recalibrate(labels, logits, np.char.add("s", (np.arange(600) // 20).astype(str))).kind != "none"
    assert taken <= 2


def test_what_helps_only_on_the_slides_it_saw_is_not_taken() -> None:
    """Each slide is off in its own direction: a map fitted to all of them helps none of the others."""
    rng = np.random.default_rng(4)
    codes = np.repeat(np.arange(8), 100)
    truth = rng.normal(0, 2, 800)
    labels = (rng.random(800) < expit(truth)).astype(np.int64)
    logits = truth + rng.normal(0, 2, 8)[codes]
    by_slides = recalibrate(labels, logits, np.char.add("s", codes.astype(str)))
    by_tiles = recalibrate(labels, logits, np.full(800, ""))
    assert TILES in by_tiles.by
    assert by_slides.tried["platt"].gain < by_tiles.tried["platt"].gain
    assert by_slides.tried["platt"].low < by_tiles.tried["platt"].low


def test_without_slides_maps_are_compared_and_none_is_taken() -> None:
    labels, logits = sample(2000, scale=4.0)
    found = recalibrate(labels, logits, np.full(2000, ""))
    assert found.kind == "none"
    assert found.tried["temperature"].low > 0
    assert "no slides are known" in found.why


def test_too_few_tiles_of_a_class_leave_things_as_they_are() -> None:
    found = recalibrate(np.array([1, 0, 0, 0, 0, 0]), np.arange(6.0), np.full(6, ""))
    assert (found.kind, found.scale, found.shift) == ("none", 1.0, 0.0)
    assert "6 with 1 positive and 5 negative tiles" in found.why


def test_folds_keep_slides_whole_and_even() -> None:
    codes = np.repeat(np.arange(30), np.arange(30) + 1)
    folds = folds_of(codes, np.arange(codes.size) % 2, [f"{at:04d}" for at in range(codes.size)], "slides", 0)
    assert all(np.unique(folds[codes == slide]).size == 1 for slide in range(30))
    assert np.bincount(folds).min() > 0.6 * codes.size / 5
