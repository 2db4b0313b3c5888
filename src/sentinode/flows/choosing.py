"""What the tiles that chose still choose for a judgement: the threshold for a stated aim, and when to say "don't know"."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from sentinode.errors import RunProblem, UndefinedScore, UsageProblem, shown
from sentinode.judge.conformal import abstention, conformal_cut
from sentinode.judge.threshold import cost_threshold, sensitivity_threshold
from sentinode.run import read_json
from sentinode.scores import Scores, logit_of, probability_of, read_scores
from sentinode.settings import EvaluateSettings

Floats = npt.NDArray[np.float64]
SEEN = "the tiles that chose the cut also chose the epoch, so the coverage is a little less sure than stated"
"""Stands beside every cut for "don't know"."""


@dataclass(frozen=True)
class Chose:
    """The validation tiles of runs under the mean of their logits: labels [n], probability [n], slides [n] ("" unknown)."""

    labels: npt.NDArray[np.int64]
    probability: Floats
    groups: npt.NDArray[np.str_]


def tiles_that_chose(runs: list[Path]) -> Chose:
    """Return the validation tiles that all of `runs` chose on.

    Raises RunProblem if a run came without valid.parquet, or the runs chose on different tiles.
    """
    tables = []
    for run in runs:
        if not (run / "valid.parquet").is_file():
            raise RunProblem(
                f"the tiles that chose in {shown(run)}", "no valid.parquet", "leave --sensitivity and --cost out, or train again"
            )
        tables.append(read_scores(run / "valid.parquet").table.set_index("id"))
    first = tables[0]
    for run, table in zip(runs, tables, strict=True):
        if set(table.index) != set(first.index):
            raise RunProblem(
                f"members that chose on the same tiles as {shown(runs[0].name)}",
                f"others in {shown(run.name)}",
                "train them with one --valid store, or leave --sensitivity and --cost out",
            )
    logit = np.mean([table.loc[first.index, "logit"].to_numpy(np.float64) for table in tables], axis=0)
    known = first["label"].to_numpy() >= 0
    groups = first["group"].astype(str).to_numpy(str)[known]
    return Chose(first["label"].to_numpy(np.int64)[known], probability_of(logit[known]), groups)


def check_aims(settings: EvaluateSettings) -> None:
    """Raise UsageProblem for two aims at once, a cost not of the form 5:1, or shares that mean nothing: before anything is predicted."""
    if settings.sensitivity is not None and settings.cost is not None:
        raise UsageProblem("--sensitivity or --cost", "both", "state one aim")
    if settings.cost is not None:
        costs_of(settings.cost)
    if settings.sensitivity is not None and not 0 < settings.sensitivity <= 1:
        raise UsageProblem("--sensitivity above 0, at most 1", f"{settings.sensitivity}", "ask for a share, such as 0.95")
    if not 0 < settings.coverage < 1:
        raise UsageProblem("--coverage above 0 and below 1", f"{settings.coverage}", "0.9 is the default")


def threshold_for(runs: list[Path], settings: EvaluateSettings) -> tuple[float, str]:
    """Return the threshold and its source in words: for the stated sensitivity or cost, or the runs' own.

    Raises UsageProblem where there is no run whose tiles could choose.
    """
    if settings.sensitivity is None and settings.cost is None:
        return threshold_of(runs)
    missed, alarm = (1.0, 1.0) if settings.cost is None else costs_of(settings.cost)
    if not runs:
        raise UsageProblem(
            "a run, whose validation tiles choose the threshold", "a scores file", "leave --sensitivity and --cost out"
        )
    chose = tiles_that_chose(runs)
    if settings.sensitivity is not None:
        cut = sensitivity_threshold(chose.labels, chose.probability, settings.sensitivity)
        return cut, f"sensitivity of at least {settings.sensitivity:g} on valid"
    cut = cost_threshold(chose.labels, chose.probability, missed, alarm)
    return cut, f"least cost on valid, a miss costing {missed:g} and a false alarm {alarm:g}"


def costs_of(text: str) -> tuple[float, float]:
    """Return the two costs of a text such as 5:1; UsageProblem for another."""
    parts = text.split(":")
    try:
        missed, alarm = (float(part) for part in parts)
    except ValueError as error:
        raise UsageProblem("--cost MISS:ALARM, such as 5:1", shown(text), "give two numbers") from error
    if not (0 < missed < float("inf") and 0 < alarm < float("inf")):
        raise UsageProblem("--cost of two numbers above 0", shown(text), "state how much worse a miss is, as 5:1")
    return missed, alarm


def threshold_of(runs: list[Path]) -> tuple[float, str]:
    """Return the threshold that the runs chose on valid, as a probability, and its source in words.

    An ensemble takes the mean of its members' thresholds in logit space, where it also averages the scores.
    """
    if not runs:
        return 0.5, "0.5, not chosen on valid"
    chosen, rules = [], []
    for run in runs:
        facts = read_json(run / "model.json")
        value = facts.get("threshold")
        if not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise RunProblem(f"a threshold in [0, 1] in {shown(run / 'model.json')}", shown(value), "train the run again")
        chosen.append(float(value))
        rules.append(str(facts.get("threshold_rule", "rule not stated")))
    if len(chosen) == 1:
        return chosen[0], rules[0]
    mean = probability_of(logit_of(np.array(chosen)).mean(keepdims=True))
    return float(mean[0]), f"mean in logit space of the {len(runs)} members' thresholds ({', '.join(sorted(set(rules)))})"


def abstention_of(runs: list[Path], scores: Scores, coverage: float) -> dict[str, Any]:
    """Return what "don't know" is worth on the tiles judged, its cut chosen on valid; nothing where no tiles chose."""
    if not runs or not all((run / "valid.parquet").is_file() for run in runs):
        return {}
    try:
        chose = tiles_that_chose(runs)
        cut = conformal_cut(chose.labels, chose.probability, chose.groups, coverage)
    except (RunProblem, UndefinedScore) as error:
        return {"why_not": f"{error.expected}: {error.found}"}
    table: pd.DataFrame = scores.table[scores.table["label"].to_numpy() >= 0]
    return abstention(table["label"].to_numpy(np.int64), table["probability"].to_numpy(np.float64), cut) | {"note": SEEN}
