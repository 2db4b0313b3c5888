"""The leak ladder: folds keep what belongs together, every leak that is planted shows in its rung, order changes nothing."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from sentinode.errors import UndefinedScore
from sentinode.qc.folds import out_of_fold
from sentinode.qc.leaks import RUNGS, Kinship, LeakLadder, ladder_rows, leak_ladder, units_of
from sentinode.tiles.folds import folds_of
from sentinode.tiles.units import Codes, joined_units


def nearest(train: npt.NDArray[np.generic], labels: Codes, other: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """Remember the training tiles: the probe that profits most from a leak."""
    return np.asarray(KNeighborsClassifier(1).fit(train, labels).predict_proba(other)[:, 1])


def leaky(seed: int = 0) -> tuple[npt.NDArray[np.float64], Codes, Kinship]:
    """Return 240 tiles, in pairs of copies, 24 slides and 4 stains, whose labels have nothing to do with features but by kin."""
    rng = np.random.default_rng(seed)
    stain, slide, pair = np.arange(240) // 60, np.arange(240) // 10, np.arange(240) // 2
    labels = (pair % 5 < 2).astype(np.int64)  # every slide has both classes
    # Of a slide's tiles those of one class lie together, at a place that says nothing about other slides.
    where = rng.normal(size=(4, 2))[stain] * 50 + rng.normal(size=(24, 2, 2))[slide, labels] * 2
    features = where + rng.normal(size=(120, 2))[pair] * 1.2
    kin = Kinship(
        [f"t{at:03d}" for at in range(240)],
        [f"s{at}" for at in slide],
        [f"d{at}" for at in stain],
        [np.array([2 * at, 2 * at + 1]) for at in range(120)],
    )
    return features, labels, kin


def test_each_leak_shows_in_its_rung() -> None:
    features, labels, kin = leaky()
    ladder = leak_ladder(features, labels, kin, nearest)
    assert tuple(ladder.figures) == RUNGS
    assert ladder.missing == {}
    random, aware, grouped, domain = (ladder.figures[name].estimate for name in RUNGS)
    assert random > aware + 0.05 > grouped + 0.1
    assert abs(grouped - 0.5) < 0.15
    assert abs(domain - 0.5) < 0.15
    assert ladder.strictest == "domain-out"
    assert ladder.gap is not None
    assert ladder.gap.estimate == pytest.approx(random - domain)
    assert ladder.gap.low > 0
    assert "slide bootstrap" in ladder.figures["random"].method


def test_a_rung_is_the_pooled_area_of_predictions_out_of_fold() -> None:
    features, labels, kin = leaky(1)
    folds = folds_of(units_of("grouped", kin), labels, kin.ids, "slides")
    scores = np.zeros(240)
    for fold in set(folds.tolist()):
        model = KNeighborsClassifier(1).fit(features[folds != fold], labels[folds != fold])
        scores[folds == fold] = model.predict_proba(features[folds == fold])[:, 1]
    assert out_of_fold(features, labels, folds, nearest).tolist() == scores.tolist()
    assert leak_ladder(features, labels, kin, nearest).figures["grouped"].estimate == pytest.approx(roc_auc_score(labels, scores))


def test_what_is_not_known_is_not_given_and_says_why() -> None:
    features, labels, kin = leaky()
    nameless = Kinship(kin.ids, ["", *kin.groups[1:]], ["d0"] * 240, kin.same)
    ladder = leak_ladder(features, labels, nameless, nearest)
    assert set(ladder.figures) == {"random", "duplicate-aware"}
    assert ladder.missing["grouped"].startswith("1 tiles whose slide is not known")
    assert "pseudo-groups (clusters of stain) that make two folds" in ladder.missing["domain-out"]
    assert ladder.strictest == "duplicate-aware"
    assert "assumes independent tiles" in ladder.figures["random"].method
    assert ladder.as_dict()["gap"]["estimate"] > 0


@pytest.mark.parametrize("labels", [np.zeros(12, np.int64), np.array([1] + [0] * 11)])
def test_one_class_or_one_tile_of_it_makes_no_ladder(labels: Codes) -> None:
    kin = Kinship([f"{at}" for at in range(12)], [""] * 12, ["d"] * 12)
    with pytest.raises(UndefinedScore) as caught:
        leak_ladder(np.zeros((12, 2)), labels, kin, nearest)
    assert caught.value.expected == "tiles that make two folds with both classes"
    assert f"{labels.sum()} positive" in caught.value.found
    assert "pack" in caught.value.do


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.integers(4, 60), n_units=st.integers(2, 20))
def test_folds_keep_units_whole_have_both_classes_and_forget_the_order(seed: int, n: int, n_units: int) -> None:
    rng = np.random.default_rng(seed)
    units, labels = rng.integers(0, n_units, n), rng.integers(0, 2, n)
    ids = [f"{at}" for at in range(n)]
    try:
        folds = folds_of(units, labels, ids, "units")
    except UndefinedScore:
        # Truly impossible, or of so few units that no greedy order finds it: never with three units of each class alone.
        pure = [{int(v) for v in labels[units == unit]} for unit in set(units.tolist())]
        assert min(sum(of == {value} for of in pure) for value in (0, 1)) < 2
        return
    for fold in set(folds.tolist()):
        assert set(labels[folds == fold].tolist()) == {0, 1}
    assert all(len(set(folds[units == unit].tolist())) == 1 for unit in set(units.tolist()))
    order = rng.permutation(n)
    assert folds_of(units[order], labels[order], [ids[at] for at in order], "units").tolist() == folds[order].tolist()


def test_units_join_names_and_sets() -> None:
    units = joined_units(["a", "a", "b", "c", "d"], [np.array([1, 2]), np.array([2, 3])])
    assert units.tolist() == [0, 0, 0, 0, 1]


def test_a_sample_keeps_sets_whole_and_known_labels_only() -> None:
    _, labels, kin = leaky()
    labels = np.where(np.arange(240) % 12 < 2, -1, labels)
    rows = ladder_rows(labels, kin, 50)
    assert 50 <= len(rows) <= 51
    assert (labels[rows] >= 0).all()
    assert {int(row) ^ 1 for row in rows} == set(rows.tolist())  # the other of each pair
    some = kin.taken(rows)
    assert len(some.same) == len(rows) // 2
    assert all(some.ids[a][:3] == some.ids[b][:3] for a, b in some.same) or len(some.ids) == len(rows)
    assert isinstance(leak_ladder(np.zeros((len(rows), 1)), labels[rows], some, nearest), LeakLadder)
