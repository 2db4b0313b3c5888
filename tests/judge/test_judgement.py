"""A table in, every figure with its interval out; slides where known, said where not."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, brier_score_loss, recall_score, roc_auc_score, roc_curve

from sentinode.errors import UndefinedScore
from sentinode.judge.judgement import judge_scores
from sentinode.judge.statement import slides_of
from sentinode.scores import Scores, logit_of

FIXED = ["sensitivity_at_specificity_95", "sensitivity_at_specificity_90"]
NAMES = ["auroc", "average_precision", "accuracy", "sensitivity", "specificity", "brier_loss", "ece", *FIXED]


def table(n: int = 600, n_slides: int = 50, **columns: Any) -> Scores:
    rng = np.random.default_rng(0)
    slide = rng.integers(n_slides, size=n)
    labels = rng.integers(2, size=n)
    p = 1 / (1 + np.exp(-(2 * labels - 1 + rng.normal(size=n) + rng.normal(size=n_slides)[slide])))
    plain = {
        "id": [f"t{i}" for i in range(n)],
        "group": [f"s{s}" for s in slide],
        "label": labels,
        "logit": logit_of(p),
        "probability": p,
    }
    return Scores(pd.DataFrame(plain | columns), {"store": "d"})


def from_curve(y: Any, p: Any, specificity: int) -> float:
    """Return the highest sensitivity on scikit-learn's ROC curve whose false positive rate is small enough."""
    false, true, _ = roc_curve(y, p, drop_intermediate=False)
    return float(true[false <= 1 - specificity / 100 + 1e-12].max())


def test_estimates_equal_scikit_learn_and_lie_in_their_intervals() -> None:
    given = table()
    y, p = given.table["label"], given.table["probability"]
    judged = judge_scores(given, 0.4, "youden on valid", resamples=300)
    expected = {
        "auroc": roc_auc_score(y, p),
        "average_precision": average_precision_score(y, p),
        "accuracy": accuracy_score(y, p >= 0.4),
        "sensitivity": recall_score(y, p >= 0.4),
        "specificity": recall_score(1 - y, p < 0.4),
        "brier_loss": brier_score_loss(y, p),
        "sensitivity_at_specificity_95": from_curve(y, p, 95),
        "sensitivity_at_specificity_90": from_curve(y, p, 90),
    }
    assert list(judged.figures) == NAMES
    for name, value in expected.items():
        assert judged.figures[name].estimate == pytest.approx(value, abs=1e-12)
    for figure in judged.figures.values():
        assert figure.low <= figure.estimate <= figure.high
        assert "slide bootstrap (300 resamples)" in figure.method
        assert figure.tiles is not None
        assert figure.tiles.method.endswith("assumes independent tiles")
        assert figure.tiles.low <= figure.estimate <= figure.tiles.high
    assert [name for name, figure in judged.figures.items() if figure.clustered] == ["auroc"]
    assert (judged.n, judged.n_positive, judged.n_groups) == (600, int(y.sum()), 50)
    assert judged.figures["sensitivity"].n == int(y.sum())
    assert judged.warnings == ()


def test_row_order_does_not_change_a_byte() -> None:
    given = table()
    mixed = Scores(given.table.sample(frac=1, random_state=1).reset_index(drop=True), given.header)
    floor = given.table["probability"].to_numpy() ** 2
    mixed_floor = mixed.table["probability"].to_numpy() ** 2
    one, other = (judge_scores(s, floor=f, resamples=200).as_dict() for s, f in ((given, floor), (mixed, mixed_floor)))
    assert json.dumps(one, allow_nan=False) == json.dumps(other, allow_nan=False)


def test_unknown_slides_give_labelled_tile_intervals() -> None:
    judged = judge_scores(table(group=""), resamples=200)
    assert all("assumes independent tiles" in figure.method for figure in judged.figures.values())
    assert all(figure.tiles is None and figure.n_groups == 0 for figure in judged.figures.values())
    assert any("slides of the tiles are not known" in text for text in judged.warnings)
    assert judged.figures["auroc"].method == "DeLong, assumes independent tiles"
    assert judged.figures["accuracy"].method == "Wilson, assumes independent tiles"


def test_partly_known_slides_are_counted_and_not_guessed() -> None:
    groups = table().table["group"].to_numpy().copy()
    groups[:7] = ""
    judged = judge_scores(table(group=groups), resamples=200)
    assert "assumes independent tiles" in judged.figures["auroc"].method
    assert "the slide of 7 of 600 tiles is not known and is not guessed" in judged.warnings[0]


@pytest.mark.parametrize(
    ("n_slides", "said"), [(1, "all tiles are from one slide"), (12, "only 12 slides: intervals over slides are coarse")]
)
def test_few_slides_are_said(n_slides: int, said: str) -> None:
    judged = judge_scores(table(n_slides=n_slides), resamples=200)
    assert said in judged.warnings[0]
    assert ("slide bootstrap" in judged.figures["auroc"].method) is (n_slides > 1)


def test_slides_of_one_class_each_fall_back_to_tiles_and_say_so() -> None:
    given = table(n_slides=4)
    groups = np.where(given.table["label"] == 1, "p", "n")
    judged = judge_scores(table(group=groups), resamples=200)
    assert "no interval over 2 slides" in judged.warnings[0]
    assert judged.figures["auroc"].method == "DeLong, assumes independent tiles"


def test_perfect_scores_warn_that_resamples_have_no_spread() -> None:
    labels = table().table["label"].to_numpy()
    judged = judge_scores(table(probability=labels * 0.8 + 0.1), resamples=200)
    assert judged.figures["auroc"].estimate == 1
    assert any("no spread among the resamples of auroc" in text for text in judged.warnings)
    assert judged.figures["auroc"].tiles is not None
    assert judged.figures["auroc"].tiles.low < 1


def test_the_auroc_says_how_many_tiles_and_slides_it_rests_on() -> None:
    """Slides that shift all their scores count for less than their tiles; without slides, or without spread, nothing is said."""
    judged = judge_scores(table(), resamples=200)
    assert judged.effective is not None
    assert judged.effective.tiles * judged.effective.design_effect == pytest.approx(600)
    assert 30 < judged.effective.slides <= 50
    assert judged.as_dict()["effective"]["slides"] == judged.effective.slides
    assert any("these tiles count as about" in line for line in judged.lines())
    for other in (table(group=""), table(probability=0.5)):
        unsaid = judge_scores(other, resamples=200)
        assert unsaid.effective is None
        assert "effective" not in unsaid.as_dict()


def test_unlabelled_tiles_are_left_out_and_counted() -> None:
    labels = table().table["label"].to_numpy().copy()
    labels[::3] = -1
    judged = judge_scores(table(label=labels), resamples=200)
    known = labels >= 0
    p = table().table["probability"].to_numpy()
    assert judged.figures["auroc"].estimate == pytest.approx(roc_auc_score(labels[known], p[known]), abs=1e-12)
    assert (judged.n, judged.n_unlabelled) == (400, 200)
    assert "200 tiles without a label are left out" in judged.lines()


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"label": -1}, "labelled tiles to judge on.*none labelled"),
        ({"label": 1}, "both classes.*600 positive ones only"),
        ({"probability": np.nan}, r"probabilities in \[0, 1\].*nan"),
    ],
)
def test_what_cannot_be_judged_raises(columns: dict[str, Any], said: str) -> None:
    with pytest.raises(UndefinedScore, match=said) as caught:
        judge_scores(table(**columns))
    assert caught.value.exit_code == 4


def test_too_few_tiles_and_bad_thresholds_raise() -> None:
    with pytest.raises(UndefinedScore, match="both classes in 99% of the resamples"):
        judge_scores(table(n=4, group="", label=[0, 1, 0, 1]), resamples=200)
    with pytest.raises(UndefinedScore, match=r"a threshold in \[0, 1\].*'2'"):
        judge_scores(table(), threshold=2)


def test_all_scores_equal_is_chance_and_not_an_error() -> None:
    judged = judge_scores(table(probability=0.5), resamples=200)
    assert judged.figures["auroc"].estimate == 0.5


def test_the_floor_stands_beside_with_a_paired_difference() -> None:
    given = table()
    y, p = given.table["label"], given.table["probability"].to_numpy()
    floor = 0.5 * p + 0.5 * np.random.default_rng(1).random(600)
    judged = judge_scores(given, floor=floor, resamples=300)
    assert judged.floor["auroc"].estimate == pytest.approx(roc_auc_score(y, floor), abs=1e-12)
    difference = judged.floor["auroc_difference"]
    assert difference.estimate == pytest.approx(roc_auc_score(y, p) - roc_auc_score(y, floor), abs=1e-12)
    assert difference.low <= difference.estimate <= difference.high
    assert difference.method == "paired slide bootstrap (300 resamples)"
    same = judge_scores(given, floor=p, resamples=200).floor["auroc_difference"]
    assert (same.low, same.estimate, same.high) == (0, 0, 0)


def test_lines_say_warnings_first_then_protocol_then_figures() -> None:
    lines = judge_scores(table(group=""), 0.5, "0.5, not chosen on valid", resamples=200).lines()
    assert lines[0].startswith("warning: ")
    assert any(line.startswith("protocol: unknown; 600 tiles") for line in lines)
    assert "threshold 0.5 (0.5, not chosen on valid)" in lines
    assert [line.split()[0] for line in lines[-9:]] == NAMES


def test_pseudo_groups_are_unknown_slides() -> None:
    found = slides_of(np.array(["pseudo-stain-1", "pseudo-stain-2", "pseudo-stain-1"]))
    assert (found.n, found.usable) == (0, False)
    some = slides_of(np.array(["pseudo-stain-1", "s1", "s2"]))
    assert not some.usable
    assert "the slide of 1 of 3 tiles is not known" in some.warnings[0]
