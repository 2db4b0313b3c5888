"""Would fitted weights beat the plain mean of an ensemble's members? Asked on slides that were held out of the fit.

Weights that are fitted and judged on the same tiles always seem to win, since the plain mean is one choice of them. Here both sides
are fitted without some slides, the mean its temperature, the others a weight a member, and are judged on those.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sentinode.errors import UndefinedScore
from sentinode.judge.inputs import Array, Floats, Ints, checked_pair
from sentinode.judge.recalibrate import best_scale, fit_temperature, smoothed, tile_losses, trial
from sentinode.judge.statement import TILES, Slides
from sentinode.tiles.folds import FOLDS, folds_of


@dataclass(frozen=True)
class Weighing:
    """What fitted weights did beside the plain mean, on tiles that neither was fitted to.

    `weights` by member are those of all tiles, as shares that sum to 1. `mean_loss` and `weighted_loss` are mean log losses out of
    fold; `gain` is the first less the second, with its 95 % interval. `by` says what was held out.
    """

    weights: dict[str, float]
    mean_loss: float
    weighted_loss: float
    gain: float
    low: float
    high: float
    by: str

    @property
    def beats(self) -> bool:
        """Whether the weights surely beat the plain mean on slides: the interval lies above 0, and slides were held out."""
        return self.low > 0 and TILES not in self.by

    def as_dict(self) -> dict[str, Any]:
        """Return all of it, for JSON."""
        return asdict(self) | {"beats": self.beats}

    def words(self) -> str:
        """Return it as a sentence."""
        told = f"gain {self.gain:+.4f} ({self.low:+.4f} to {self.high:+.4f}) of log loss {self.mean_loss:.4f}, {self.by}"
        if not self.beats:
            return f"fitted weights do not surely beat the plain mean out of slide: {told}"
        shares = ", ".join(f"{share:.2f} {name}" for name, share in self.weights.items())
        return f"fitted weights ({shares}) beat the plain mean out of slide: {told}; the ensemble is the plain mean all the same"


def weigh_members(labels: Array, members: Mapping[str, Array], slides: Slides, seed: int = 0) -> Weighing:
    """Compare weights fitted on most slides with the plain mean, both on the slides left out.

    Parameters
    ----------
    labels
        [n], 0 or 1, of the tiles that choose.
    members
        Logits [n] by name, of at least two.
    slides
        Of the same n tiles. Where not usable, or fewer than five, tiles are held out, and `by` says so.
    seed
        Of the folds.

    Raises
    ------
    UndefinedScore
        If there are fewer than two members, a class is absent, a logit is not finite, or not even two folds have both classes.

    Source: Wolpert 1992, Neural Networks 5:241 (stacking); Breiman 1996, Machine Learning 24:49 (weights that are not negative).
    """
    if len(members) < 2:
        raise UndefinedScore("at least two members to weigh", f"{len(members)}", "an ensemble of one has no weights")
    pairs = [checked_pair(labels, logits) for logits in members.values()]
    y, logits = pairs[0][0], np.stack([values for _, values in pairs], axis=1)
    by_slides = slides.usable and slides.n >= FOLDS
    codes, unit = (slides.codes, "slides") if by_slides else (np.arange(y.size), "tiles")
    folds = folds_of(codes, y, [f"{at:09d}" for at in range(y.size)], unit, seed)
    plain, weighted, mean = np.zeros(y.size), np.zeros(y.size), logits.mean(axis=1)
    for fold in np.unique(folds):
        out = folds == fold
        plain[out] = tile_losses(y[out], fit_temperature(y[~out], mean[~out])[0] * mean[out])
        weighted[out] = tile_losses(y[out], logits[out] @ fit_weights(y[~out], logits[~out]))
    found = trial(plain - weighted, codes, float(weighted.mean()))
    weights = fit_weights(y, logits)
    shares = (weights / (weights.sum() or 1.0)).tolist()
    return Weighing(
        weights=dict(zip(members, shares, strict=True)),
        mean_loss=float(plain.mean()),
        weighted_loss=found.log_loss,
        gain=found.gain,
        low=found.low,
        high=found.high,
        by=f"{folds.max() + 1} folds of {unit}" + ("" if by_slides else f", {TILES}"),
    )


def fit_weights(labels: Ints, logits: Floats) -> Floats:
    """Return the weights float64 [k], none below 0, with the least log loss of `logits` [n, k] times them, against Platt's targets.

    No shift: that would mend probabilities, not weigh members. The loss is convex, and the smoothed targets keep it finite where
    classes are separated.
    """
    from scipy.optimize import minimize

    target, k = smoothed(labels), logits.shape[1]
    widths = np.where(logits.std(axis=0) > 0, logits.std(axis=0), 1.0)  # one step size then suits any logits
    x = logits / widths

    def loss(weights: Floats) -> tuple[float, Floats]:
        z = x @ weights
        p = (1 + np.tanh(z / 2)) / 2
        return float(np.mean(np.logaddexp(0, z) - target * z)), x.T @ (p - target) / labels.size

    start = np.full(k, best_scale(target, logits.mean(axis=1)) / k) * widths
    found = minimize(loss, start, jac=True, bounds=[(0, None)] * k, method="L-BFGS-B", options={"ftol": 1e-14, "gtol": 1e-9})
    return np.asarray(found.x / widths, np.float64)
