"""`TileClassifier` is a scikit-learn classifier over uint8 tiles: what scikit-learn asks of one holds, and tiles stay tiles."""

import pickle
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import joblib  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError, SkipTestWarning
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator

import sentinode
from sentinode.errors import DataProblem, UsageProblem
from sentinode.flows.classifier import TileClassifier
from sentinode.settings import TrainSettings
from sentinode.tiles.synth import Tissue, synthesise

FAST: dict[str, Any] = {"epochs": 1, "batch": 16, "settings": TrainSettings(precision="fp32")}


@pytest.fixture(scope="module")
def tissue() -> Tissue:
    return synthesise(6, 16, px=32, difficulty=0.0, seed=3)


@pytest.fixture(scope="module")
def fitted(tissue: Tissue) -> TileClassifier:
    return TileClassifier(**FAST).fit(tissue.tiles, tissue.labels, groups=tissue.groups)


def test_check_estimator_runs_what_images_allow() -> None:
    """Its data are tables of floats; for a classifier that says it takes none of those it warns and checks the rest."""
    with pytest.warns(SkipTestWarning, match="TileClassifier"):
        results = check_estimator(TileClassifier(epochs=1), on_fail=None)
    assert [result["status"] for result in results] == ["passed"] * len(results)
    assert results


def test_parameters_are_those_of_the_constructor_and_clone_keeps_them() -> None:
    given = TileClassifier(epochs=3, lr=0.01, views=8, settings=TrainSettings(dropout=0.5))
    assert set(given.get_params()) == {"epochs", "minutes", "lr", "batch", "seed", "views", "settings"}
    copied = clone(given)
    assert copied is not given
    assert copied.get_params() == given.get_params()
    assert copied.set_params(lr=0.5).lr == 0.5
    assert given.lr == 0.01
    assert "views=8" in repr(given)


def test_defaults_are_those_of_train() -> None:
    ours, theirs = TileClassifier(), TrainSettings()
    assert (ours.epochs, ours.minutes, ours.lr, ours.batch, ours.seed) == (
        *(theirs.epochs, theirs.minutes, theirs.lr, theirs.batch, theirs.seed),
    )


def test_it_is_a_public_name() -> None:
    assert sentinode.TileClassifier is TileClassifier


def test_fit_changes_no_parameter_and_no_tile(tissue: Tissue) -> None:
    classifier, before = TileClassifier(**FAST), tissue.tiles.copy()
    parameters = classifier.get_params()
    assert classifier.fit(tissue.tiles, tissue.labels) is classifier
    assert classifier.get_params() == parameters
    np.testing.assert_array_equal(tissue.tiles, before)


def test_it_learns_and_its_three_answers_agree(tissue: Tissue) -> None:
    classifier = TileClassifier(**FAST | {"epochs": 8, "lr": 0.01}).fit(tissue.tiles, tissue.labels)
    proba = classifier.predict_proba(tissue.tiles)
    assert proba.shape == (len(tissue.tiles), 2)
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_array_equal(classifier.classes_, [0, 1])
    np.testing.assert_array_equal(classifier.predict(tissue.tiles), classifier.classes_[proba.argmax(axis=1)])
    logit = classifier.decision_function(tissue.tiles)
    np.testing.assert_allclose(np.log(proba[:, 1] / proba[:, 0]), logit, atol=1e-6)
    assert logit[tissue.labels == 1].mean() > logit[tissue.labels == 0].mean()
    assert classifier.score(tissue.tiles, tissue.labels) == np.mean(classifier.predict(tissue.tiles) == tissue.labels)


@pytest.mark.parametrize("names", [("benign", "tumour"), ("tumour", "benign"), (-1, 7), (False, True)])
def test_any_two_labels_do_and_the_second_in_order_is_positive(
    tissue: Tissue, fitted: TileClassifier, names: tuple[Any, Any]
) -> None:
    """Names that sort as 0 and 1 do change nothing; names that sort the other way round swap the columns' meaning."""
    y = np.array(names)[tissue.labels]
    other = TileClassifier(**FAST).fit(tissue.tiles, y, groups=tissue.groups)
    np.testing.assert_array_equal(other.classes_, np.unique(y))
    assert set(other.predict(tissue.tiles)) <= set(names)
    if names == tuple(other.classes_):
        np.testing.assert_array_equal(other.predict_proba(tissue.tiles), fitted.predict_proba(tissue.tiles))


def test_the_same_seed_gives_the_same_probabilities_and_another_does_not(tissue: Tissue, fitted: TileClassifier) -> None:
    again = clone(fitted).fit(tissue.tiles, tissue.labels, groups=tissue.groups)
    np.testing.assert_array_equal(again.predict_proba(tissue.tiles), fitted.predict_proba(tissue.tiles))
    other = clone(fitted).set_params(seed=1).fit(tissue.tiles, tissue.labels, groups=tissue.groups)
    assert not np.array_equal(other.predict_proba(tissue.tiles), fitted.predict_proba(tissue.tiles))


def test_fitting_again_forgets_the_first_fit(tissue: Tissue, fitted: TileClassifier) -> None:
    twice = TileClassifier(**FAST).fit(tissue.tiles, np.where(tissue.labels == 1, "a", "b"))
    twice.fit(tissue.tiles, tissue.labels, groups=tissue.groups)
    np.testing.assert_array_equal(twice.classes_, [0, 1])
    np.testing.assert_array_equal(twice.predict_proba(tissue.tiles), fitted.predict_proba(tissue.tiles))


def test_a_fitted_classifier_survives_joblib_and_pickle(tissue: Tissue, fitted: TileClassifier) -> None:
    file = BytesIO()
    joblib.dump(fitted, file)
    file.seek(0)
    for copied in (joblib.load(file), pickle.loads(pickle.dumps(fitted))):  # noqa: S301 - ours, made on the line itself
        np.testing.assert_array_equal(copied.predict_proba(tissue.tiles), fitted.predict_proba(tissue.tiles))


def test_nothing_of_the_training_stays_on_disk(tissue: Tissue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    classifier = TileClassifier(**FAST).fit(tissue.tiles, tissue.labels)
    assert list(tmp_path.iterdir()) == []
    assert classifier.predict(tissue.tiles[:2]).shape == (2,)


def test_groups_keep_slides_apart(tissue: Tissue, fitted: TileClassifier) -> None:
    """With groups whole slides choose the epoch; without, the split is by tile and says so."""
    assert fitted.run_.record["data"]["split"] == "grouped"
    alone = TileClassifier(**FAST).fit(tissue.tiles, tissue.labels)
    assert alone.run_.record["data"]["split"] == "random"
    n_valid = fitted.run_.record["valid"]["n"]
    assert n_valid % 16 == 0  # whole slides of 16 tiles
    assert n_valid > 0


def test_views_change_the_prediction_only(tissue: Tissue, fitted: TileClassifier) -> None:
    eight = clone(fitted).set_params(views=8).fit(tissue.tiles, tissue.labels, groups=tissue.groups)
    turned = np.ascontiguousarray(np.rot90(tissue.tiles, axes=(1, 2)))
    np.testing.assert_allclose(eight.predict_proba(turned), eight.predict_proba(tissue.tiles), atol=1e-6)
    assert not np.allclose(fitted.predict_proba(turned), fitted.predict_proba(tissue.tiles), atol=1e-6)


def test_cross_validation_over_slides(tissue: Tissue) -> None:
    scores = cross_val_score(
        TileClassifier(**FAST), tissue.tiles, tissue.labels, groups=tissue.groups, cv=GroupKFold(2), scoring="roc_auc"
    )
    assert scores.shape == (2,)
    assert np.isfinite(scores).all()
    assert ((scores >= 0) & (scores <= 1)).all()


def test_grid_search_over_the_learning_rate(tissue: Tissue) -> None:
    search = GridSearchCV(TileClassifier(**FAST), {"lr": [1e-3, 1e-2]}, cv=2, scoring="roc_auc")
    search.fit(tissue.tiles, tissue.labels)
    assert search.best_params_["lr"] in {1e-3, 1e-2}
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.run_.record["settings"]["lr"] == search.best_params_["lr"]


def test_it_ends_a_pipeline(tissue: Tissue) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline = make_pipeline(FunctionTransformer(), TileClassifier(**FAST)).fit(tissue.tiles, tissue.labels)
    assert pipeline.predict_proba(tissue.tiles).shape == (96, 2)


def test_lists_are_taken_as_arrays(tissue: Tissue, fitted: TileClassifier) -> None:
    listed = fitted.predict_proba(list(tissue.tiles[:3]))  # type: ignore[arg-type]
    np.testing.assert_allclose(listed, fitted.predict_proba(tissue.tiles[:3]))


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros((4, 32, 32, 3)), r"float64 \[4, 32, 32, 3\]"),
        (np.zeros((4, 3072), np.uint8), r"uint8 \[4, 3072\]"),
        (np.zeros((4, 32, 32), np.uint8), r"uint8 \[4, 32, 32\]"),
        (np.zeros((4, 32, 32, 1), np.uint8), r"uint8 \[4, 32, 32, 1\]"),
        (np.zeros((4, 3, 32, 32), np.uint8), r"uint8 \[4, 3, 32, 32\]"),
        (np.zeros((4, 32, 24, 3), np.uint8), r"uint8 \[4, 32, 24, 3\]"),
        (np.zeros((0, 32, 32, 3), np.uint8), r"uint8 \[0, 32, 32, 3\]"),
    ],
)
def test_arrays_that_are_no_tiles_are_refused(fitted: TileClassifier, array: npt.NDArray[Any], found: str) -> None:
    message = rf"expected uint8 tiles \[n, px, px, 3\], n at least 1; found {found}; convert them first"
    with pytest.raises(DataProblem, match=message):
        TileClassifier(**FAST).fit(array, np.arange(len(array)) % 2)
    with pytest.raises(DataProblem, match=message):
        fitted.predict(array)


def test_tiles_of_another_size_are_refused_in_prediction(fitted: TileClassifier) -> None:
    with pytest.raises(DataProblem, match=r"expected uint8 tiles \[n, 32, 32, 3\]; found uint8 \[2, 48, 48, 3\]"):
        fitted.predict_proba(np.zeros((2, 48, 48, 3), np.uint8))


@pytest.mark.parametrize(("classes", "found"), [(1, "1: "), (3, "3: ")])
def test_other_than_two_classes_are_refused(tissue: Tissue, classes: int, found: str) -> None:
    with pytest.raises(UsageProblem, match=rf"expected labels of two classes; found {found}.*merge or choose"):
        TileClassifier(**FAST).fit(tissue.tiles, np.arange(96) % classes)


def test_labels_that_are_no_classes_are_refused(tissue: Tissue) -> None:
    with pytest.raises(ValueError, match="continuous"):
        TileClassifier(**FAST).fit(tissue.tiles, np.linspace(0, 1, 96))


def test_lengths_must_agree(tissue: Tissue) -> None:
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        TileClassifier(**FAST).fit(tissue.tiles, tissue.labels[:-1])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        TileClassifier(**FAST).fit(tissue.tiles, tissue.labels, groups=tissue.groups[:-1])


@pytest.mark.parametrize("method", ["predict", "predict_proba", "decision_function"])
def test_an_unfitted_classifier_says_so(tissue: Tissue, method: str) -> None:
    with pytest.raises(NotFittedError, match="TileClassifier"):
        getattr(TileClassifier(), method)(tissue.tiles)


def test_a_refused_parameter_is_told_when_fitting(tissue: Tissue) -> None:
    with pytest.raises(UsageProblem, match=r"lr between 0 and 100; found -1"):
        TileClassifier(**FAST | {"lr": -1.0}).fit(tissue.tiles, tissue.labels)
    with pytest.raises(UsageProblem, match=r"expected 1, 4 or 8 views; found '5'"):
        TileClassifier(**FAST | {"views": 5}).fit(tissue.tiles, tissue.labels)
