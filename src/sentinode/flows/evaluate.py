"""The command `evaluate`: runs, or anyone's predictions, judged on a store; the floor and the passport beside it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sentinode.errors import RunProblem, UndefinedScore, UsageProblem, shown
from sentinode.fit.probe import Floor, colour_histogram, fit_floor, floor_rows, load_floor
from sentinode.judge.judgement import Judgement, judge_scores
from sentinode.progress import Progress
from sentinode.run import claim_folder, read_json, write_json
from sentinode.scores import Scores, align, logit_of, probability_of, read_scores, write_scores
from sentinode.settings import EvaluateSettings, settings_from
from sentinode.tiles.passport import Contamination, seen_of
from sentinode.tiles.split import Split, read_split
from sentinode.tiles.store import Store, open_store

Floats = npt.NDArray[np.float64]


def evaluate(
    *inputs: str | Path,
    out: str | Path,
    settings: EvaluateSettings | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    **options: Any,
) -> Judgement:
    """Judge what the inputs say about the last of them, a store with labels.

    Parameters
    ----------
    inputs
        One or more run folders (several are an ensemble) or one table of predictions, then the store to judge on.
    out
        Folder for judgement.json, scores.parquet and figures.
    settings, options
        An `EvaluateSettings`, and single settings by name over it.
    overwrite
        Replace a judgement that is there.
    quiet
        Say nothing.

    Returns
    -------
    Judgement
        As in judgement.json.

    Raises
    ------
    UsageProblem, RunProblem, ScoresProblem, StoreProblem
        For inputs that do not fit.
    UndefinedScore
        If the store's labels do not allow a figure.
    """
    settings = settings_from(EvaluateSettings, settings, options)
    if len(inputs) < 2:
        raise UsageProblem(
            "runs or one scores file, then the store to judge on",
            f"{len(inputs)} inputs",
            "sentinode evaluate RUN...|scores.csv T.store --out DIR",
        )
    if settings.resamples < 100:
        raise UsageProblem("at least 100 resamples", str(settings.resamples), "change --resamples; 2000 is the default")
    folder, progress = Path(out), Progress(quiet)
    store = open_store(Path(inputs[-1]))
    if not (store.rows["label"].to_numpy() >= 0).any():
        raise UndefinedScore(
            f"labels in {shown(store.path)}", f"{len(store):,} tiles without one", "judge on a labelled store, or use 'predict'"
        )
    claim_folder(folder, "judgement.json", resume=False, overwrite=overwrite)
    runs, scores = scored([Path(given) for given in inputs[:-1]], store, settings.views, quiet)
    threshold, source = threshold_of(runs)
    progress.say("judging: figures, intervals, floor, passport")
    floor = floor_of(settings, runs)
    beside = floor.probability(colour_histogram(store.tiles)) if floor else None
    judgement = judge_scores(scores, threshold, source, beside, settings.resamples, settings.seed)
    judgement = with_origin(judgement, runs, store)
    write_results(folder, scores, beside, judgement)
    return judgement


def scored(named: list[Path], store: Store, views: int, quiet: bool) -> tuple[list[Path], Scores]:
    """Return which of the inputs are runs, and the scores of `store` by them or by the one table that is named."""
    runs = [path for path in named if path.is_dir()]
    if runs and len(runs) < len(named):
        raise UsageProblem("runs only, or one scores file", "both", "judge them one at a time")
    if runs:
        from sentinode.infer.predict import score_store

        return runs, align(score_store(runs, store, views, quiet), store.rows)
    if len(named) > 1:
        raise UsageProblem("one scores file", f"{len(named)} files", "judge them one at a time")
    if not named[0].is_file():
        raise UsageProblem("a run folder or a scores file", f"nothing at {shown(named[0])}", "check the name")
    if views != 1:
        raise UsageProblem("--views with runs", "a scores file, whose views are fixed", "leave --views out")
    return [], align(read_scores(named[0]), store.rows)


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


def floor_of(settings: EvaluateSettings, runs: list[Path]) -> Floor | None:
    """Return the colour floor of `--floor` (a run or a store), or of the first run; None where neither is given."""
    if settings.floor is None:
        return load_floor(runs[0] / "floor.npz") if runs else None
    path = Path(settings.floor)
    if (path / "floor.npz").is_file():
        return load_floor(path / "floor.npz")
    if not (path / "store.json").is_file():
        raise UsageProblem("a run or a store for --floor", shown(path), "name one that exists")
    store = open_store(path)
    labels = store.rows["label"].to_numpy()
    rows = floor_rows(store.rows["id"].astype(str).tolist(), labels, settings.seed)
    return fit_floor(colour_histogram(store.tiles, rows), labels[rows])


@dataclass(frozen=True)
class Origin:
    """Where test tiles stand to training tiles: the protocol, what was seen of them, and sentences for the reader."""

    protocol: str
    passport: Contamination | None
    warnings: tuple[str, ...]


def origin_of(splits: list[Split], store: Store) -> Origin:
    """Compare a test store with what the runs' splits say was trained on.

    The protocol is `other slides` if all slides are known on both sides and none is shared with training or choosing, `grouped`
    if test slides chose but none trained, `random tiles` if slides or tiles are shared with training, and `unknown` otherwise.
    """
    if not splits:
        return Origin("unknown", None, ("protocol unknown: what these predictions were trained on is not known",))
    at = np.flatnonzero(store.rows["label"].to_numpy() >= 0)
    labelled, seen = store.rows.iloc[at], seen_of(splits, store, at)
    tables = [split.table for split in splits]
    train, valid = (
        {group for table in tables for group in table.loc[table["part"] == part, "group"]} for part in ("train", "valid")
    )
    test = set(labelled["group"])
    if (test & train) - {""} or seen.trained_on:
        protocol = "random tiles"
    elif "" in test | train | valid:
        protocol = "unknown"
    else:
        protocol = "grouped" if test & valid else "other slides"
    warnings = list(seen.warnings())
    if protocol == "unknown":
        warnings.append("protocol unknown: the slides of training or test tiles are not known, so shared ones cannot be excluded")
    warnings += [f"training and valid: {text}" for split in splits for text in split.warnings]
    return Origin(protocol, seen, tuple(dict.fromkeys(warnings)))


def with_origin(judgement: Judgement, runs: list[Path], store: Store) -> Judgement:
    """Return the judgement with protocol, passport and warnings; contamination comes first."""
    origin = origin_of([read_split(run / "split.parquet") for run in runs], store)
    header, warnings = judgement.header, list(origin.warnings)
    if header.get("labels_overruled"):
        warnings.append(f"{header['labels_overruled']:,} labels of the scores differ from the store's, which were used")
    for run in runs:
        classes = tuple(map(str, read_json(run / "model.json").get("classes", ())))
        if classes != store.classes:
            here, there = (" and ".join(map(shown, names)) for names in (store.classes, classes))
            warnings.append(f"negative and positive are {here} here, {there} in the run {shown(run.name)}: taken as the same")
    if header.get("store") not in (None, store.digest):
        warnings.append("the scores were made on another store with the same ids")
    if header.get("clipped"):
        warnings.append(f"{header['clipped']:,} probabilities lie within 1e-7 of 0 or 1; only the logit column is affected")
    return replace(
        judgement,
        protocol=origin.protocol,
        contaminated=origin.passport.is_contaminated if origin.passport else False,
        passport=origin.passport.as_dict() if origin.passport else {},
        warnings=(*warnings, *judgement.warnings),
        header=header | {"runs_named": [run.name for run in runs], "test_store": store.digest},
    )


def write_results(folder: Path, scores: Scores, floor: Floats | None, judgement: Judgement) -> None:
    """Write scores.parquet, the figures, and judgement.json last: a folder with it is finished."""
    from sentinode.report.figures import write_judgement_figures

    write_json(folder / "unfinished.json", {"command": "evaluate"})
    if floor is not None:
        scores = replace(scores, table=scores.table.assign(floor_probability=floor))
    write_scores(folder / "scores.parquet", scores)
    known = scores.table["label"].to_numpy() >= 0
    write_judgement_figures(
        folder / "figures",
        scores.table["label"].to_numpy()[known],
        scores.table["probability"].to_numpy()[known],
        None if floor is None else floor[known],
        judgement.as_dict(),
    )
    write_json(folder / "judgement.json", judgement.as_dict())
    (folder / "unfinished.json").unlink()
