"""Maps that mend probabilities: temperature, Platt's, isotonic. Fitted on valid, and taken only if they help on slides held out of the fit.

A map that is fitted and judged on the same tiles always seems to help. On other slides it often does not, so each is fitted without
some slides, judged on those, and taken only where the mean log loss falls by surely more than nothing.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sentinode.errors import UndefinedScore
from sentinode.judge.auroc import z_value
from sentinode.judge.clusters import mean_error
from sentinode.judge.inputs import Array, Floats, Ints, checked_pair
from sentinode.judge.statement import TILES, slides_of
from sentinode.tiles.folds import FOLDS, folds_of

MOST_SCALE = 10.0
"""Scales of a temperature from 1/10 to 10: separated classes would ask for one without end."""
STEPS = 50
"""Halvings of a temperature, and Newton steps of Platt's map at most; it takes about ten."""
Map = Callable[[Floats], Floats]
"""Logits [n] to logits [n]."""


@dataclass(frozen=True)
class Trial:
    """What a map did to tiles that it was not fitted to: mean log loss with it, and the gain over leaving things as they are, 95 %."""

    log_loss: float
    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class Recalibration:
    """The map that is taken: `logit * scale + shift`.

    `kind` is "none" (scale 1, shift 0), "temperature" or "platt". `tried` has every map by name, isotonic among them: it is compared
    and never taken, since it makes different scores equal and so moves the AUROC. `by` says what was held out, `why` the choice.
    """

    kind: str
    scale: float
    shift: float
    by: str
    why: str
    log_loss: float
    tried: dict[str, Trial]

    def as_dict(self) -> dict[str, Any]:
        """Return all of it, for JSON."""
        return asdict(self)


def smoothed(labels: Ints) -> Floats:
    """Return Platt's targets [n]: (P + 1) / (P + 2) of P positives, 1 / (N + 2) of N negatives."""
    positives, negatives = int(labels.sum()), int((1 - labels).sum())
    return np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))


def fit_temperature(labels: Ints, logits: Floats) -> tuple[float, float]:
    """Return (scale, 0): the scale, 1/10 to 10, with the least log loss of Platt's smoothed targets; [n] labels of 0 and 1, [n] logits.

    Without the smoothing, separated classes would be told as sure as the range allows, from however few tiles.

    Source: Guo et al. 2017, targets as in `fit_platt`; checked against scipy's minimize_scalar.
    """
    return best_scale(smoothed(labels), logits), 0.0


def best_scale(target: Array, logits: Floats) -> float:
    """Return the scale, 1/10 to 10, of logits [n] with the least log loss of `target` [n], each 0 to 1.

    The loss is convex in the scale, so the zero of its slope is found by halving.
    """
    low, high = -np.log(MOST_SCALE), np.log(MOST_SCALE)
    for _ in range(STEPS):
        middle = (low + high) / 2
        # 1 / (1 + exp(-z)) by tanh, which cannot overflow.
        slope = np.mean(logits * ((1 + np.tanh(np.exp(middle) * logits / 2)) / 2 - target))
        low, high = (low, middle) if slope > 0 else (middle, high)
    return float(np.exp((low + high) / 2))


def fit_platt(labels: Ints, logits: Floats) -> tuple[float, float]:
    """Return (scale, shift) of the logistic regression of the label on the logit, with Platt's smoothed targets.

    Targets of (P + 1) / (P + 2) and 1 / (N + 2) keep the scale finite where classes are separated.

    Source: Platt 1999; Newton's method of Lin, Lin and Weng 2007; checked against scikit-learn's _SigmoidCalibration.
    """
    target = smoothed(labels)
    # Standardised, so that one step size suits any logits.
    centre, width = float(logits.mean()), float(logits.std()) or 1.0
    x = np.stack([(logits - centre) / width, np.ones(labels.size)], axis=1)
    weights = np.zeros(2)
    loss = _cross_entropy(x @ weights, target)
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -40, 40)))
        step = np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + 1e-9 * np.eye(2), x.T @ (target - p))
        share, before = 1.0, loss
        while (loss := _cross_entropy(x @ (weights + share * step), target)) > before and share > 1e-6:
            share /= 2
        weights = weights + share * step
        if before - loss < 1e-14:
            break
    scale = float(weights[0]) / width
    return scale, float(weights[1]) - scale * centre


def fit_isotonic(labels: Ints, logits: Floats) -> Map:
    """Return the isotonic map of logits, kept away from probabilities of 0 and 1 by one tile in n + 2.

    Source: Zadrozny and Elkan 2002; scikit-learn's IsotonicRegression.
    """
    from sklearn.isotonic import IsotonicRegression

    edge = 1 / (labels.size + 2)
    model = IsotonicRegression(y_min=edge, y_max=1 - edge, out_of_bounds="clip").fit(logits, labels)

    def apply(values: Floats) -> Floats:
        p = np.asarray(model.predict(values), np.float64)
        return np.asarray(np.log(p) - np.log1p(-p), np.float64)

    return apply


def linear(fitted: tuple[float, float]) -> Map:
    """Return the map of a scale and a shift."""
    return lambda values: values * fitted[0] + fitted[1]


FITS: dict[str, Callable[[Ints, Floats], Map]] = {
    "temperature": lambda labels, logits: linear(fit_temperature(labels, logits)),
    "platt": lambda labels, logits: linear(fit_platt(labels, logits)),
    "isotonic": fit_isotonic,
}
"""Maps by name."""


def recalibrate(labels: Array, logits: Array, groups: Array, seed: int = 0) -> Recalibration:
    """Return the map that helps most on slides that were held out of its fit; none, unless the gain's 95 % interval lies above 0.

    Parameters
    ----------
    labels
        [n], 0 or 1, of the tiles that choose.
    logits
        [n].
    groups
        Their slides [n], "" unknown. Where not all are known, or there are fewer than five, tiles are held out, `by` says so, and no
        map is taken.
    seed
        Of the folds.

    Raises
    ------
    UndefinedScore
        If a class is absent or a logit is not finite.
    """
    labels, logits = checked_pair(labels, logits)
    slides = slides_of(groups)
    by_slides = slides.usable and slides.n >= FOLDS
    codes = slides.codes if by_slides else np.arange(labels.size)
    unit = "slides" if by_slides else "tiles"
    assumed = "" if by_slides else f", {TILES}"
    plain = tile_losses(labels, logits)
    try:
        folds = folds_of(codes, labels, [f"{at:09d}" for at in range(labels.size)], unit, seed)
    except UndefinedScore as error:
        return Recalibration("none", 1.0, 0.0, unit + assumed, f"nothing was tried: {error.found}", float(plain.mean()), {})
    by = f"{folds.max() + 1} folds of {unit}{assumed}"
    held = held_out(labels, logits, folds)
    tried = {name: trial(plain - losses, codes, float(losses.mean())) for name, losses in held.items()}
    helps = [name for name in ("temperature", "platt") if tried[name].low > 0]
    if not helps:
        why = f"no map helps surely on {unit} that were held out"
        return Recalibration("none", 1.0, 0.0, by, why, float(plain.mean()), tried)
    kind = max(helps, key=lambda name: tried[name].gain)
    if not by_slides:
        # Tiles of one slide stand on both sides of such folds, so they would praise a map that harms on the next slide.
        why = f"{kind} helps on held-out tiles, but no slides are known on which it could be shown to help"
        return Recalibration("none", 1.0, 0.0, by, why, float(plain.mean()), tried)
    scale, shift = (fit_temperature if kind == "temperature" else fit_platt)(labels, logits)
    if scale <= 0:
        why = f"{kind} would turn the scores round"
        return Recalibration("none", 1.0, 0.0, by, why, float(plain.mean()), tried)
    why = f"log loss on held-out {unit} {plain.mean():.4f} without, {tried[kind].log_loss:.4f} with {kind}"
    return Recalibration(kind, scale, shift, by, why, float(plain.mean()), tried)


def tile_losses(labels: Ints, logits: Floats) -> Floats:
    """Return each tile's log loss, natural logarithm."""
    return np.asarray(np.logaddexp(0, np.where(labels == 1, -logits, logits)))


def held_out(labels: Ints, logits: Floats, folds: Ints) -> dict[str, Floats]:
    """Return each map's log loss [n] of every tile, by the fit that did not see its fold."""
    found = {name: np.zeros(labels.size) for name in FITS}
    for fold in np.unique(folds):
        out = folds == fold
        for name, fit in FITS.items():
            found[name][out] = tile_losses(labels[out], fit(labels[~out], logits[~out])(logits[out]))
    return found


def trial(gains: Floats, codes: Ints, log_loss: float) -> Trial:
    """Return the mean gain with its interval: normal, its variance over the units `codes` (slides or tiles)."""
    mean, reach = float(gains.mean()), z_value() * mean_error(gains, codes)
    return Trial(log_loss, mean, mean - reach, mean + reach)


def _cross_entropy(logits: Floats, target: Floats) -> float:
    return float(np.mean(np.logaddexp(0, logits) - target * logits))
