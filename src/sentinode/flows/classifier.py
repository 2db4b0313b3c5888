"""`TileClassifier`: the training and prediction of Sentinode as a scikit-learn classifier over arrays of tiles."""

import tempfile
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from sentinode.errors import DataProblem, UsageProblem, shown
from sentinode.fit.train import train
from sentinode.nets.forward import VIEWS
from sentinode.settings import TrainSettings, resolved, settings_from
from sentinode.tiles.arrays import store_of
from sentinode.tiles.store import Tiles


class TileClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A two-class classifier of uint8 tiles [n, px, px, 3]; works in `cross_val_score`, `GridSearchCV` and pipelines.

    A fifth of the tiles given to `fit` chooses the epoch: whole groups of them where `fit` is given `groups`.

    Parameters
    ----------
    epochs, minutes, lr, batch, seed
        As in `sentinode.train`.
    views
        Dihedral views at prediction: 1, 4 or 8.
    settings
        A `TrainSettings` for everything else; the parameters above are put over it.

    Attributes
    ----------
    classes_
        The two labels, sorted; the second is the positive one.
    run_
        The trained `Run`; `run_.model` is a plain torch module.
    """

    def __init__(
        self,
        *,
        epochs: int = 0,
        minutes: float | None = None,
        lr: float = 0.0,
        batch: int = 0,
        seed: int = 0,
        views: int = 1,
        settings: TrainSettings | None = None,
    ) -> None:
        self.epochs = epochs
        self.minutes = minutes
        self.lr = lr
        self.batch = batch
        self.seed = seed
        self.views = views
        self.settings = settings

    def fit(self, X: Tiles, y: npt.ArrayLike, groups: npt.ArrayLike | None = None) -> Self:  # noqa: N803
        """Train on tiles uint8 [n, px, px, 3] and labels [n] of two classes; `groups` [n] names each tile's slide.

        Raises DataProblem for arrays of another kind, UsageProblem for labels that are not of two classes or a setting out of range.
        """
        tiles, labels = tiles_of(X), np.asarray(y)
        check_consistent_length(tiles, labels, groups)
        check_classification_targets(labels)
        if self.views not in VIEWS:
            raise UsageProblem("1, 4 or 8 views", shown(self.views), "change views")
        classes, codes = np.unique(labels, return_inverse=True)
        if len(classes) != 2:
            raise UsageProblem("labels of two classes", f"{len(classes)}: {shown(classes[:5])}", "merge or choose classes first")
        names = [str(group) for group in np.asarray(groups)] if groups is not None else None
        store = store_of(tiles, codes.astype(np.int8), groups=names)
        options = {name: getattr(self, name) for name in ("epochs", "minutes", "lr", "batch", "seed")}
        with tempfile.TemporaryDirectory(prefix="sentinode-") as folder:
            settings = resolved(
                settings_from(TrainSettings, self.settings, options)
            )  # nothing is left open: folds are of one recipe
            self.run_ = train(store, out=Path(folder) / "run", settings=settings, quiet=True)
        self.classes_ = classes
        return self

    def decision_function(self, X: Tiles) -> npt.NDArray[np.float64]:  # noqa: N803
        """Return the logit of the positive class, float64 [n]."""
        check_is_fitted(self)
        return self.run_.logits(tiles_of(X), views=self.views).astype(np.float64)

    def predict_proba(self, X: Tiles) -> npt.NDArray[np.float64]:  # noqa: N803
        """Return the probabilities of both classes, float64 [n, 2], in the order of `classes_`."""
        check_is_fitted(self)
        positive = self.run_.predict_proba(tiles_of(X), views=self.views)
        return np.stack([1 - positive, positive], axis=1)

    def predict(self, X: Tiles) -> npt.NDArray[Any]:  # noqa: N803
        """Return the class [n] of the higher probability."""
        check_is_fitted(self)
        chosen: npt.NDArray[Any] = self.classes_[(self.decision_function(X) > 0).astype(int)]
        return chosen

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags


def tiles_of(tiles: Tiles) -> Tiles:
    """Return `tiles` as an array; DataProblem unless it is uint8 [n, px, px, 3] with n above 0."""
    array = np.asarray(tiles)
    square = array.ndim == 4 and array.shape[1] == array.shape[2] and array.shape[3] == 3
    if array.dtype != np.uint8 or not square or not len(array):
        raise DataProblem("uint8 tiles [n, px, px, 3], n at least 1", f"{array.dtype} {list(array.shape)}", "convert them first")
    return array
