"""Several models at once: the same figures as one pair at a time, Holm by hand, and letters that say exactly who is told apart."""

from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from sentinode.errors import UndefinedScore
from sentinode.judge.clusters import combined, pulls_of, two_sided_p
from sentinode.judge.compare import auroc_difference, auroc_figure
from sentinode.judge.contest import Pair, contest, holm, letter, rank_letters
from sentinode.judge.statement import Figure, slides_of

Numbers = npt.NDArray[np.float64]


def models(n_slides: int = 45, m: int = 8) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], dict[str, Numbers]]:
    """Return labels, slides, and four models: two nearly alike, one clearly worse, one of noise."""
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(n_slides), m)
    labels = (rng.random(groups.size) < rng.beta(0.8, 0.8, n_slides)[groups]).astype(np.int64)
    base = 2.0 * labels + rng.normal(size=groups.size) + 0.7 * rng.normal(size=n_slides)[groups]
    made = {name: base + 0.1 * rng.normal(size=groups.size) for name in ("one", "twin")}
    made |= {"worse": base + 3 * rng.normal(size=groups.size), "noise": rng.normal(size=groups.size)}
    return labels, groups, {name: np.round(scores, 2) for name, scores in made.items()}


def test_each_figure_is_that_of_one_model_or_one_pair_alone() -> None:
    labels, groups, made = models()
    slides = slides_of(groups)
    found = contest(labels, {name: [scores] for name, scores in made.items()}, slides, resamples=200, seed=4)
    for name, figure in found.figures.items():
        assert figure.estimate == pytest.approx(roc_auc_score(labels, made[name]), abs=1e-12)
        assert figure == auroc_figure(labels, made[name], slides, 200, 4)
    assert [(pair.first, pair.second) for pair in found.pairs] == list(combinations(found.figures, 2))
    for pair in found.pairs:
        alone = auroc_difference(labels, made[pair.first], made[pair.second], slides, 200, 4)
        assert pair.difference.estimate >= 0
        for end in ("estimate", "low", "high"):
            assert getattr(pair.difference, end) == pytest.approx(getattr(alone, end), abs=1e-12)
            if end != "estimate":
                for beside in ("tiles", "clustered"):
                    assert getattr(getattr(pair.difference, beside), end) == pytest.approx(
                        getattr(getattr(alone, beside), end), abs=1e-9
                    )
        pulls = combined([pulls_of(labels, made[name], slides) for name in (pair.first, pair.second)], (1, -1))
        assert pair.p == pytest.approx(two_sided_p(pulls), rel=1e-6)
    assert found.warnings == ()


def test_who_is_not_told_apart_shares_a_rank_and_who_is_does_not() -> None:
    labels, groups, made = models()
    found = contest(labels, {name: [scores] for name, scores in made.items()}, slides_of(groups), resamples=200)
    assert set(found.ranks["one"]) == set(found.ranks["twin"]) == {"a"}
    assert (found.ranks["worse"], found.ranks["noise"]) == ("b", "c")
    twins = next(pair for pair in found.pairs if {pair.first, pair.second} == {"one", "twin"})
    assert not twins.told_apart
    assert twins.needed is None or twins.needed > 45
    assert twins.detectable is not None
    assert twins.detectable > twins.difference.estimate


def test_runs_of_one_recipe_do_not_pass_for_more_slides() -> None:
    """The same run twice is worth one run; the mean of two is the mean."""
    labels, groups, made = models()
    slides = slides_of(groups)
    entrants = {"once": [made["one"]], "twice": [made["one"], made["one"]], "mean": [made["one"], made["worse"]]}
    found = contest(labels, entrants, slides, resamples=200)
    once, twice = found.figures["once"], found.figures["twice"]
    assert (twice.estimate, twice.low, twice.high) == pytest.approx((once.estimate, once.low, once.high), abs=1e-12)
    assert found.figures["mean"].estimate == pytest.approx(
        np.mean([roc_auc_score(labels, made[name]) for name in ("one", "worse")]), abs=1e-12
    )
    same = next(pair for pair in found.pairs if {pair.first, pair.second} == {"once", "twice"})
    assert same.difference.estimate == pytest.approx(0, abs=1e-12)
    assert same.p == pytest.approx(1)


@pytest.mark.parametrize("groups", [np.full(360, ""), np.full(360, "s")])
def test_without_usable_slides_all_assumes_independent_tiles_and_says_so(groups: npt.NDArray[np.str_]) -> None:
    labels, _, made = models()
    found = contest(labels, {name: [made[name]] for name in ("one", "worse")}, slides_of(groups), resamples=200)
    (pair,) = found.pairs
    assert pair.difference.method == "paired DeLong, assumes independent tiles"
    assert (pair.difference.tiles, pair.difference.clustered, pair.needed, pair.detectable) == (None, None, None, None)
    assert "assumes independent tiles" in found.warnings[0]


def test_slides_of_one_class_each_fall_back_to_tiles() -> None:
    labels, _, made = models()
    groups = np.where(labels == 1, "p", "n")
    found = contest(labels, {name: [made[name]] for name in ("one", "worse")}, slides_of(groups), resamples=200)
    assert found.warnings[0].startswith("no interval over 2 slides (")
    assert found.warnings[0].endswith("every interval and p value assumes independent tiles")
    assert all("assumes independent tiles" in figure.method for figure in found.figures.values())


def test_scores_without_spread_are_not_told_apart_and_it_is_said() -> None:
    labels, groups, _ = models()
    entrants = {"perfect": [labels * 1.0], "flat": [np.full(labels.size, 0.5)], "flat too": [np.zeros(labels.size)]}
    found = contest(labels, entrants, slides_of(groups), resamples=200)
    assert set(found.ranks.values()) == {"a"}
    assert [pair.p for pair in found.pairs] == [1, 1, 1]
    assert "no spread of the difference between perfect and flat, perfect and flat too" in found.warnings[-1]
    assert found.warnings[-2].startswith("no spread among the resamples of perfect, flat, flat too: that interval")


@pytest.mark.parametrize(
    ("labels", "scores", "said"),
    [
        ([1, 1, 1, 1], [0.1, 0.2, 0.3, 0.4], "both classes.*4 positive ones only"),
        ([0, 1, 0, 1], [0.1, np.nan, 0.3, 0.4], r"finite scores.*row 2"),
        ([0, 1, 0, 0], [0.1, 0.2, 0.3, 0.4], "at least two tiles of each class; found 1 positive of 4"),
    ],
)
def test_what_cannot_be_compared_raises(labels: list[int], scores: list[float], said: str) -> None:
    with pytest.raises(UndefinedScore, match=said):
        contest(np.array(labels), {"a": [np.array(scores)], "b": [np.arange(4.0)]}, slides_of(np.full(4, "")))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_corrects_upwards_between_the_value_and_bonferroni(p: list[float]) -> None:
    corrected = holm(p)
    for one, more in zip(p, corrected, strict=True):
        assert one <= more <= min(1.0, len(p) * one) + 1e-15
    assert [corrected[at] for at in np.argsort(p, kind="stable")] == sorted(corrected)


@given(st.integers(1, 7).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.booleans(), min_size=n * n, max_size=n * n))))
@settings(deadline=None)
def test_two_share_a_letter_if_and_only_if_they_are_not_told_apart(drawn: tuple[int, list[bool]]) -> None:
    n, apart = drawn
    names = [f"m{at}" for at in range(n)]
    figure = Figure("auroc_difference", 0.1, 0.0, 0.2, "m", 10, 5)
    pairs = [
        Pair(names[i], names[j], figure, 0.0, 0.0 if apart[i * n + j] else 1.0, None, None) for i, j in combinations(range(n), 2)
    ]
    ranks = rank_letters(names, pairs)
    assert ranks[names[0]].startswith("a")
    assert all(ranks.values())
    for pair in pairs:
        assert bool(set(ranks[pair.first]) & set(ranks[pair.second])) is not pair.told_apart


def test_more_groups_than_letters_stay_unambiguous() -> None:
    drawn = [letter(at) for at in range(120)]
    assert drawn[:3] == ["a", "b", "c"]
    assert len(set(drawn)) == 120
    assert all(len(one) == 1 and one.isalpha() for one in drawn)
