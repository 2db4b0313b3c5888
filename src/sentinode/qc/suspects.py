"""Label suspects: tiles whose given label a probe that never saw them, nor their relatives, finds hard to believe.

A suspect is a question to a pathologist, not an answer: hard tiles and tiles of a stain that the probe has not met stand in the same
queue. So the queue names the folds it was made with.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from sentinode.errors import UndefinedScore
from sentinode.qc.folds import Features, Floats, Probe, out_of_fold
from sentinode.qc.leaks import Kinship
from sentinode.scores import logit_of, probability_of
from sentinode.tiles.folds import folds_of
from sentinode.tiles.units import Codes, joined_units

REPEATS = 3
"""Foldings whose predictions are averaged as logits: which tiles were in the other folds then matters less."""
WIDTH = 256
"""Principal components that a network's features are reduced to: 75 % of the variance of EfficientNet-Lite0's on real tiles."""
ITERATIONS = 200
"""Most iterations of the logistic regression."""
INVERSE_PENALTY = 0.1
"""Of the logistic regression, on components scaled by the first one's deviation. On real tiles 0.1 to 10 differ by 0.009 of AUROC."""
COLOUR_WEIGHT = 3.0
"""Factor of the square roots of colour shares beside those components."""


@dataclass(frozen=True)
class Suspects:
    """Suspicion of every labelled tile.

    `table` has one row a labelled tile, the most suspicious first: row (in the store), id, label, probability (of class 1, out of
    fold), self_confidence (probability of the given label), margin (that less the other's, -1 to 1) and suspect (confident learning
    counts it as mislabelled). `folds` says what the folds kept together.
    """

    table: pd.DataFrame
    folds: str

    @property
    def n_suspects(self) -> int:
        """Return how many tiles confident learning counts as mislabelled."""
        return int(self.table["suspect"].sum())


def label_suspects(features: Features, labels: Codes, kin: Kinship, probe: Probe, rows: Codes, seed: int = 0) -> Suspects:
    """Rank labelled tiles by how little a probe believes their labels.

    The order is by self-confidence, which for two classes is that by normalised margin. A tile counts as mislabelled if the other
    class is given at least the mean probability that tiles of that class get (the off-diagonal of the confident joint).

    Parameters
    ----------
    features
        [n, d], of labelled tiles only.
    labels
        [n], 0 or 1.
    kin
        Of the same n tiles: folds keep slides whole where all are known, else pseudo-groups, else (a single one) sets of duplicates.
    probe
        Fitted anew in every fold.
    rows
        Positions in the store, [n].
    seed
        Of the foldings.

    Raises
    ------
    UndefinedScore
        If the tiles do not make two folds with both classes.

    Source: Northcutt, Jiang and Chuang 2021, Confident Learning, JAIR 70:1373, sections 3.1 and 4.
    """
    units, words = kept_together(labels, kin)
    logits = np.zeros(len(labels))
    for step in range(REPEATS):
        folds = folds_of(units, labels, kin.ids, words, seed + step)
        logits += logit_of(out_of_fold(features, labels, folds, probe)) / REPEATS
    p = probability_of(logits)
    own = np.where(labels == 1, p, 1 - p)
    threshold = np.array([own[labels == value].mean() for value in (0, 1)])
    table = pd.DataFrame({"row": rows, "id": list(kin.ids), "label": labels, "probability": p})
    table["self_confidence"], table["margin"] = own, 2 * own - 1
    table["suspect"] = (1 - own >= threshold[1 - labels]) & (own < 0.5)
    return Suspects(table.sort_values(["self_confidence", "id"], ignore_index=True), words)


def kept_together(labels: Codes, kin: Kinship) -> tuple[Codes, str]:
    """Return the units that folds keep whole, and their name: the strictest that allows two folds of both classes."""
    choices = (
        (kin.groups, "slides"),
        (kin.domains, "pseudo-groups (clusters of stain, not slides)"),
    )
    for names, words in choices:
        if all(names):
            units = joined_units(names, kin.same)
            try:
                folds_of(units, labels, kin.ids, words)
            except UndefinedScore:
                continue
            return units, words
    return joined_units(kin.ids, kin.same), "tiles (optimistic: tiles of one slide are on both sides)"


def logistic(train: Features, labels: Codes, other: Features) -> Floats:
    """Return probabilities [k] by a logistic regression, classes weighed as they come: the `Probe` for reduced features."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a ranking does not need the last digits
        model = LogisticRegression(C=INVERSE_PENALTY, max_iter=ITERATIONS).fit(train, labels)
    return np.asarray(model.predict_proba(other)[:, 1], dtype=np.float64)


def reduced(features: npt.NDArray[np.float32], width: int = WIDTH) -> npt.NDArray[np.float32]:
    """Return the first principal components of standardised features, float32 [n, min(width, n, d)], scaled by the first's deviation.

    `features` [n, d] may be a memory map; it is read in blocks.

    Source: Halko, Martinsson and Tropp 2011, SIAM Review 53:217, algorithm 4.4 with two power iterations; seeded.
    """
    n, d = features.shape
    k = min(width, n, d)
    starts = range(0, n, 1024)
    total = sum(features[at : at + 1024].astype(np.float64).sum(axis=0) for at in starts)
    mean = (total / n).astype(np.float32)
    squares = sum(np.square(features[at : at + 1024] - mean, dtype=np.float64).sum(axis=0) for at in starts)
    scale = (1 / np.sqrt(np.maximum(squares / n, 1e-12))).astype(np.float32)

    def project(directions: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.concatenate([(features[at : at + 1024] - mean) * scale @ directions for at in starts])

    def back(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        parts = (((features[at : at + 1024] - mean) * scale).T @ scores[at : at + 1024] for at in starts)
        return np.asarray(sum(parts), np.float32)

    directions = np.random.default_rng(0).standard_normal((d, k)).astype(np.float32)
    for _ in range(2):
        directions = np.linalg.qr(back(project(directions)))[0].astype(np.float32)
    left, size, _ = np.linalg.svd(project(directions), full_matrices=False)
    return np.asarray(left * size / max(float(size[0]) / np.sqrt(n), 1e-6), np.float32)


def with_colour(components: npt.NDArray[np.float32], histograms: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Return components beside square roots of colour shares, float32 [n, k + 512]; the two together see more than either.

    On 7,000 real tiles, folds by tile: AUROC 0.922 and 0.899 alone, 0.941 together; planted flips found in the first 6 %: 63, 56, 71 %
    (one draw of 140 flips).
    """
    shares = histograms / np.maximum(histograms.sum(axis=1, keepdims=True, dtype=np.float64), 1)
    return np.concatenate([components, COLOUR_WEIGHT * np.sqrt(shares)], axis=1).astype(np.float32)
