"""Thresholds for a stated aim and "don't know", chosen on the tiles that chose; and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sentinode.errors import RunProblem, UsageProblem
from sentinode.flows.choosing import SEEN, abstention_of, check_aims, costs_of, threshold_for, tiles_that_chose
from sentinode.judge.conformal import conformal_cut
from sentinode.scores import Scores, logit_of, probability_of, write_scores
from sentinode.settings import EvaluateSettings


def table(seed: int, n_slides: int = 20) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=400)
    p = 1 / (1 + np.exp(-(2 * labels - 1 + rng.normal(size=400))))
    columns = {"id": [f"t{number}" for number in range(400)], "group": [f"s{number % n_slides}" for number in range(400)]}
    return pd.DataFrame(columns | {"label": labels, "logit": logit_of(p), "probability": p})


def run(folder: Path, name: str, seed: int = 0, first: int = 0) -> Path:
    (folder / name).mkdir()
    found = table(0)
    noise = np.random.default_rng(seed).normal(0, 0.3, 400) if seed else np.zeros(400)
    logit = found["logit"].to_numpy() + noise
    found = found.assign(logit=logit, probability=probability_of(logit)).iloc[first:]
    write_scores(folder / name / "valid.parquet", Scores(found.sample(frac=1, random_state=seed)))
    return folder / name


def settings(**options: Any) -> EvaluateSettings:
    return EvaluateSettings(**options)


def test_a_stated_sensitivity_is_reached_on_the_tiles_that_chose(tmp_path: Path) -> None:
    runs = [run(tmp_path, "a"), run(tmp_path, "b", 1)]
    chose = tiles_that_chose(runs)
    mean = (table(0)["logit"].to_numpy() + np.random.default_rng(1).normal(0, 0.3, 400) / 2).mean()
    assert np.mean(np.log(chose.probability / (1 - chose.probability))) == pytest.approx(mean)
    cut, source = threshold_for(runs, settings(sensitivity=0.9))
    positives = chose.probability[chose.labels == 1]
    assert (positives >= cut).mean() >= 0.9
    assert (positives >= np.nextafter(positives[positives >= cut].min(), 2)).mean() < 0.9
    assert source == "sensitivity of at least 0.9 on valid"


@pytest.mark.parametrize(("cost", "missed", "alarm"), [("5:1", 5, 1), ("1:3", 1, 3)])
def test_a_stated_cost_is_the_least_there_is(tmp_path: Path, cost: str, missed: float, alarm: float) -> None:
    cut, source = threshold_for([run(tmp_path, "a")], settings(cost=cost))
    found = table(0)
    p, labels = found["probability"].to_numpy(), found["label"].to_numpy()

    def paid(at: float) -> float:
        return missed * float(((p < at) & (labels == 1)).sum()) + alarm * float(((p >= at) & (labels == 0)).sum())

    assert paid(cut) == min(paid(at) for at in [*p, 1.1])
    assert source == f"least cost on valid, a miss costing {missed:g} and a false alarm {alarm:g}"


def test_dont_know_is_chosen_on_valid_and_judged_elsewhere(tmp_path: Path) -> None:
    told = abstention_of([run(tmp_path, "a")], Scores(table(7)), 0.8)
    found = table(0)
    cut = conformal_cut(found["label"].to_numpy(), found["probability"].to_numpy(), found["group"].to_numpy(str), 0.8)
    assert told["cut"] == cut.as_dict()
    assert told["note"] == SEEN
    assert told["covered"]["estimate"] == pytest.approx(0.8, abs=0.08)
    assert abstention_of([], Scores(table(7)), 0.8) == {}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sensitivity": 0.9, "cost": "1:1"}, "--sensitivity or --cost; found both; state one"),
        ({"sensitivity": 0.0}, "--sensitivity above 0, at most 1; found 0.0; ask"),
        ({"cost": "5"}, "--cost MISS:ALARM, such as 5:1; found '5'; give two"),
        ({"cost": "5:0"}, "--cost of two numbers above 0; found '5:0'; state"),
        ({"cost": "a:b"}, "--cost MISS:ALARM"),
        ({"cost": "nan:1"}, "two numbers above 0"),
        ({"coverage": 1.0}, r"--coverage above 0 and below 1; found 1\.0; 0\.9 is"),
    ],
)
def test_aims_that_mean_nothing_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageProblem, match=said):
        check_aims(settings(**options))


def test_a_scores_file_has_no_tiles_that_could_choose() -> None:
    with pytest.raises(UsageProblem, match="a run, whose validation tiles choose the threshold; found a scores file; leave"):
        threshold_for([], settings(sensitivity=0.9))


def test_runs_that_chose_elsewhere_or_nowhere_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunProblem, match=r"members that chose on the same tiles as 'a'; found others in 'b'; train"):
        tiles_that_chose([run(tmp_path, "a"), run(tmp_path, "b", first=10)])
    with pytest.raises(RunProblem, match=r"the tiles that chose in .*; found no valid\.parquet; leave"):
        tiles_that_chose([tmp_path])
    assert "same tiles" in abstention_of([tmp_path / "a", tmp_path / "b"], Scores(table(7)), 0.9)["why_not"]
    assert costs_of("2:1") == (2.0, 1.0)
