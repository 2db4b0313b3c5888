"""Suspects: planted flips come first, folds keep relatives together, the reduction is a principal component analysis."""

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA

from sentinode.errors import UndefinedScore
from sentinode.qc.folds import Features, Floats
from sentinode.qc.leaks import Kinship
from sentinode.qc.suspects import label_suspects, logistic, reduced, with_colour
from sentinode.tiles.units import Codes

RNG = np.random.default_rng(0)
TRUE: Codes = (np.arange(400) % 2).astype(np.int64)
FEATURES = (TRUE[:, None] * 2.5 + RNG.normal(size=(400, 3))).astype(np.float32)
IDS = [f"t{at:03d}" for at in range(400)]


def kin(groups: list[str] | None = None, domains: list[str] | None = None) -> Kinship:
    return Kinship(IDS, groups or [""] * 400, domains or ["d"] * 400)


def test_planted_flips_are_at_the_head_of_the_queue() -> None:
    flipped = np.arange(0, 400, 50)
    labels = TRUE.copy()
    labels[flipped] = 1 - labels[flipped]
    found = label_suspects(FEATURES, labels, kin(), logistic, np.arange(400) + 1000)
    assert np.isin(flipped + 1000, found.table["row"].head(24)).mean() >= 0.75
    assert (found.table["self_confidence"].diff().dropna() >= 0).all()
    assert found.table["margin"].to_numpy() == pytest.approx(2 * found.table["self_confidence"].to_numpy() - 1)
    given = np.where(found.table["label"] == 1, found.table["probability"], 1 - found.table["probability"])
    assert found.table["self_confidence"].to_numpy() == pytest.approx(given)
    assert found.n_suspects >= 1
    assert set(found.table.loc[found.table["suspect"], "row"] - 1000) <= set(flipped.tolist())
    assert found.folds.startswith("tiles (optimistic")


def test_confident_learning_counts_by_the_mean_of_the_other_class() -> None:
    found = label_suspects(FEATURES, TRUE, kin(), logistic, np.arange(400)).table
    mean = found.groupby("label")["self_confidence"].mean()
    wanted = [
        1 - own >= mean[1 - label] and own < 0.5 for own, label in zip(found["self_confidence"], found["label"], strict=True)
    ]
    assert found["suspect"].tolist() == wanted


@pytest.mark.parametrize(
    ("groups", "domains", "words"),
    [
        ([f"s{at // 40}" for at in range(400)], None, "slides"),
        (["", *["s"] * 399], [f"d{at // 100}" for at in range(400)], "pseudo-groups (clusters of stain, not slides)"),
        (["one"] * 400, None, "tiles (optimistic"),
    ],
)
def test_folds_keep_the_strictest_units_that_there_are(groups: list[str], domains: list[str] | None, words: str) -> None:
    seen: list[set[float]] = []

    def watching(train: Features, labels: Codes, other: Features) -> Floats:
        seen.append(set(np.asarray(train)[:, 0].tolist()))
        return logistic(train, labels, other)

    found = label_suspects(FEATURES, TRUE, kin(groups, domains), watching, np.arange(400))
    assert found.folds.startswith(words)
    names = groups if words == "slides" else domains
    if names:
        whole = [set(FEATURES[np.array(names) == name, 0].tolist()) for name in set(names)]
        assert all(unit <= train or not unit & train for unit in whole for train in seen)


def test_order_changes_no_rank() -> None:
    order = RNG.permutation(400)
    one = label_suspects(FEATURES, TRUE, kin(), logistic, np.arange(400)).table
    moved = Kinship([IDS[at] for at in order], [""] * 400, ["d"] * 400)
    other = label_suspects(FEATURES[order], TRUE[order], moved, logistic, np.arange(400)).table
    merged = one.merge(other, on="id")
    # The solver stops at a tolerance, so that the last digits may differ.
    assert np.abs(merged["probability_x"] - merged["probability_y"]).max() < 2e-3
    assert pd.Index(one["id"].head(40)).isin(other["id"].head(44)).all()


def test_one_class_has_no_suspects() -> None:
    with pytest.raises(UndefinedScore) as caught:
        label_suspects(FEATURES, np.zeros(400, np.int64), kin(), logistic, np.arange(400))
    assert "two folds with both classes" in caught.value.expected


def test_the_reduction_is_a_principal_component_analysis() -> None:
    spread = np.array([9, 5, 3, 1, 0.5, 0.2])
    mixed = ((RNG.normal(size=(3000, 6)) * spread) @ RNG.normal(size=(6, 6)) + 7).astype(np.float32)
    found = reduced(mixed, 3)
    standardised = (mixed - mixed.mean(axis=0)) / mixed.std(axis=0)
    wanted = PCA(3).fit_transform(standardised)
    assert np.abs(np.diag(np.corrcoef(found.T, wanted.T)[:3, 3:])) == pytest.approx(1, abs=1e-3)
    assert found[:, 0].std() == pytest.approx(1, abs=1e-3)
    assert reduced(mixed[:4], 256).shape == (4, 4)
    assert with_colour(found[:2], np.eye(2, 512, dtype=np.uint16)).shape == (2, 515)
