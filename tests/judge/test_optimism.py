"""The optimism of a choice: what theory says where trials are equally good, nothing where one is far better."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from sentinode.errors import UndefinedScore
from sentinode.judge.inputs import Array, Floats
from sentinode.judge.optimism import aurocs_in_and_out, selection_optimism
from sentinode.judge.statement import slides_of

UNKNOWN = slides_of(np.full(200, ""))
LABELS = np.arange(200) % 2


def noise(trials: int, seed: int, m: int = 200) -> Floats:
    return np.random.default_rng(seed).normal(size=(trials, m))


def expected_maximum(n: int) -> float:
    """Return the mean of the largest of n standard normal numbers."""
    return float(quad(lambda x: x * n * norm.pdf(x) * norm.cdf(x) ** (n - 1), -10, 10)[0])


@pytest.mark.parametrize("trials", [3, 12])
def test_equally_good_trials_owe_their_lead_to_the_choice(trials: int) -> None:
    """The AUROC of noise is normal around one half with variance (P + N + 1) / (12 P N): the best of n leads by E[max]."""
    spread = np.sqrt(201 / (12 * 100 * 100))
    told = [selection_optimism(LABELS, noise(trials, seed), UNKNOWN, resamples=100) for seed in range(40)]
    theory = expected_maximum(trials) * spread
    assert np.mean([one.estimate for one in told]) == pytest.approx(theory, rel=0.15)
    assert np.mean([one.honest for one in told]) == pytest.approx(0.5, abs=0.006)
    assert np.mean([one.honest_low <= 0.5 <= one.honest_high for one in told]) >= 0.9


def test_a_trial_far_ahead_owes_nothing() -> None:
    scores = noise(8, 1) * 0.8
    scores[5] += 2 * LABELS
    told = selection_optimism(LABELS, scores, UNKNOWN)
    assert (told.estimate, told.low, told.high) == (0.0, 0.0, 0.0)
    assert told.honest == told.apparent == pytest.approx(roc_auc_score(LABELS, scores[5]), abs=1e-12)


@pytest.mark.parametrize("grouped", [True, False])
def test_figures_in_and_out_are_those_of_rows_repeated_and_left_out(grouped: bool) -> None:
    groups = np.array([f"s{i % 7}" for i in range(60)]) if grouped else np.full(60, "")
    slides, labels, scores = slides_of(groups), np.arange(60) // 30, np.round(noise(2, 3, 60), 1)
    inside, outside = aurocs_in_and_out(labels, scores, slides, 20, 5)
    units = slides.codes if grouped else np.random.default_rng(5).permutation(60) % 60
    rng, at = np.random.default_rng(5), 0
    for _ in range(20):
        n = 7 if grouped else 60
        drawn = rng.integers(n, size=n, dtype=np.int32)
        rows = np.concatenate([np.flatnonzero(units == unit) for unit in drawn])
        left = np.flatnonzero(~np.isin(units, drawn))
        if len(set(labels[left])) < 2:
            continue
        for number, one in enumerate(scores):
            assert inside[number, at] == pytest.approx(roc_auc_score(labels[rows], one[rows]), abs=1e-12)
            assert outside[number, at] == pytest.approx(roc_auc_score(labels[left], one[left]), abs=1e-12)
        at += 1
    assert at == inside.shape[1]


def test_slides_are_drawn_where_they_are_known_and_tiles_otherwise() -> None:
    known = slides_of(np.array([f"s{i % 20}" for i in range(200)]))
    told = selection_optimism(LABELS, noise(3, 0), slides_of(np.array([f"s{i // 10}" for i in range(200)])), resamples=50)
    assert told.method == "bootstrap of 20 slides (50 resamples)"
    assert told.n_groups == 20
    assert known.n == 20
    assert "assumes independent tiles" in selection_optimism(LABELS, noise(3, 0), UNKNOWN, resamples=50).method
    assert "3 trials" in told.lines()[0]
    assert "left out: the choice of its best epoch" in told.lines()[-1]
    assert told.as_dict()["leaves_out"] in told.lines()[-1]


def test_the_same_seed_gives_the_same_statement() -> None:
    first, second = (selection_optimism(LABELS, noise(4, 2), UNKNOWN, resamples=50, seed=3) for _ in range(2))
    assert first == second
    assert first.as_dict()["estimate"] == first.estimate


def test_one_trial_owes_nothing() -> None:
    told = selection_optimism(LABELS, noise(1, 0), UNKNOWN, resamples=50)
    assert told.estimate == 0
    assert told.honest == told.apparent
    assert "nothing was chosen among trials" in told.lines()[0]


@pytest.mark.parametrize(
    ("labels", "scores", "groups", "found"),
    [
        (LABELS, np.empty((0, 200)), np.full(200, ""), "none"),
        (np.ones(200), noise(2, 0), np.full(200, ""), "positive ones only"),
        (LABELS, np.full((2, 200), np.nan), np.full(200, ""), "'nan' in row 1"),
        (np.arange(200) // 100, noise(2, 0), np.array([f"s{i // 50}" for i in range(200)]), "with one class only"),
        (LABELS, noise(2, 0), np.array([f"s{i // 100}" for i in range(200)]), "draws of 2 slides"),
    ],
)
def test_what_cannot_be_said_is_refused(labels: Array, scores: Floats, groups: Array, found: str) -> None:
    with pytest.raises(UndefinedScore) as caught:
        selection_optimism(labels, scores, slides_of(groups))
    assert found in caught.value.found
    assert caught.value.expected
    assert caught.value.do
