"""The command `tune`: every cell of a grid, or trials drawn one after another; the table, the picture, the best as a run.

`STUDY/trials/NNNN.json` and `.npy` are what a trial leaves (how it ended, its validation logits), so that a study that was killed
goes on with the next one. Processes on one study hold a lock on the trial they work on.
"""

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sentinode.errors import RunProblem, UndefinedScore, UsageProblem, shown
from sentinode.fit.grid import Grid, cells, check_comparable, read_grid
from sentinode.fit.parts import Parts, choose_parts
from sentinode.fit.sampler import SPACES, Sampled, Space, optuna_module
from sentinode.fit.shared import SharedFeatures, check_read
from sentinode.fit.start import Job, start
from sentinode.fit.train import checked, plan_for
from sentinode.fit.trials import Runner, Trainings, Trial, claimed, read_logits, read_trials, run_trial, write_table
from sentinode.judge.optimism import Optimism, selection_optimism
from sentinode.judge.statement import slides_of
from sentinode.machine.memory import set_allocator
from sentinode.progress import Progress
from sentinode.report.search import named, write_search
from sentinode.run import claim_folder, read_json, write_json
from sentinode.settings import TrainSettings, TuneSettings, resolved, settings_from
from sentinode.tiles.store import Store

FORMAT = 1
"""Version of study.json."""
SHOWN = 20
"""Trials that the terminal's table holds at most."""


@dataclass(frozen=True)
class Study:
    """A search: `path`, its `trials` by number, and `record` (study.json; empty while other processes still work on it)."""

    path: Path
    trials: list[Trial]
    record: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return the record and the folder."""
        return {"study": str(self.path)} | self.record

    def __repr__(self) -> str:
        """Return `lines` as one text: what a notebook shows."""
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """Return the best trials as a table of bounded length, and what the best is worth."""
        ranked = sorted(self.trials, key=lambda trial: (trial.state != "done", -(trial.auroc or 0.0), trial.number))
        lines = table([line_of(trial) for trial in ranked[:SHOWN]])
        if len(ranked) > SHOWN:
            lines.append(f"... and {len(ranked) - SHOWN:,} more in trials.csv")
        if not self.record:
            return [*lines, "other processes are still at work on this study; the last one to end writes the result"]
        optimism = self.record["optimism"]
        told = Optimism(**optimism).lines() if "estimate" in optimism else [f"selection optimism: {optimism['why_not']}"]
        best = self.record["best"]
        return [*lines, f"best       trial {best['number']}, valid AUROC {best['auroc']:.4f}: {shown(self.path / 'best')}", *told]


def tune(
    store: str | Path | Store,
    *,
    out: str | Path,
    valid: str | Path | None = None,
    settings: TrainSettings | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    **options: Any,
) -> Study:
    """Search settings of `train` on a packed store; the best trial by validation AUROC becomes a run in `out`/best.

    Parameters
    ----------
    store
        A store with labels.
    out
        The study's folder.
    valid
        A store that chooses; without it a part of `store` is split off, the same for all trials.
    settings, options
        What all trials share: a `TrainSettings`, and single settings by name over it. Also, of `TuneSettings`: `grid`, as
        `["lr=1e-3,1e-4"]` or `{"lr": [1e-3, 1e-4]}`, or `trials`, a number; and `storage`.
    resume
        Go on with an unfinished study of the same search and tiles, or join other processes that work on it.
    overwrite
        Replace a study of that name.
    quiet
        Say nothing.

    Returns
    -------
    Study
        The trials, and what is known of the best: its AUROC where it was chosen, and how much of it is owed to the choice.

    Raises
    ------
    UsageProblem, StoreProblem, SplitProblem, RunProblem, MachineProblem
        For settings, grids, tiles, splits, folders and machines that do not fit.
    """
    set_allocator()
    grid, search = searched(options)
    base = checked(settings_from(TrainSettings, settings, options))
    progress, folder = Progress(quiet), Path(out)
    check_comparable(grid, own_valid=valid is not None)
    all_frozen = {resolved(checked(dataclasses.replace(base, **cell))).backbone for cell in cells(grid)} == {"frozen"}
    if all_frozen:
        check_read(grid, base)
    parts = choose_parts(store, valid, base)
    space = {} if grid else SPACES[resolved(base).backbone]
    kept = json.loads(json.dumps({"settings": dataclasses.asdict(base), "grid": grid, "space": space, "tiles": digests(parts)}))
    if is_finished(folder, kept, search.trials, resume=resume, overwrite=overwrite):
        return open_study(folder)
    write_json(folder / "unfinished.json", {"study": kept})

    if all_frozen:
        runner: Runner = SharedFeatures(store, valid, progress)
    else:
        runner = Trainings(folder / "trials", store, valid)
        base = with_precision(folder, base, parts, progress)
    work = Work(folder / "trials", base, runner, progress)
    if grid:
        run_grid(work, cells(grid))
        trials, waited = read_trials(work.folder), len(cells(grid))
    else:
        trials, waited = run_sampled(work, space, search), search.trials or 0
    if len(trials) < waited:
        write_table(folder / "trials.csv", trials)
        return Study(folder, trials, {})
    return finish(folder, work, trials, parts, kept)


def searched(options: dict[str, Any]) -> tuple[Grid, TuneSettings]:
    """Take what is searched out of `options`; UsageProblem unless it is a grid or a number of trials."""
    grid = read_grid(options.pop("grid", None) or ())
    search = settings_from(TuneSettings, None, {name: options.pop(name) for name in ("trials", "storage") if name in options})
    if bool(grid) == (search.trials is not None):
        found = "both" if grid else "neither"
        raise UsageProblem("--grid or --trials", found, "write --grid lr=1e-3,1e-4 --grid batch=32,64, or --trials 30")
    if search.trials is not None and search.trials < 1:
        raise UsageProblem("trials of at least 1", str(search.trials), "change --trials")
    if search.trials is not None:
        optuna_module()
    elif search.storage is not None:
        raise UsageProblem("--storage for --trials", "a grid", "leave it out: processes share a grid through its folder")
    return grid, search


def digests(parts: Parts) -> list[str]:
    """Return the digests of the stores that train and choose."""
    return [parts.train[0].digest, parts.valid[0].digest]


def is_finished(folder: Path, kept: dict[str, Any], wanted: int | None, *, resume: bool, overwrite: bool) -> bool:
    """Make `folder` ready; return whether it holds this study with all its trials. UsageProblem where it is another study."""
    if not claim_folder(folder, "study.json", resume=resume, overwrite=overwrite):
        return False
    done = not (folder / "unfinished.json").exists()
    record = read_json(folder / ("study.json" if done else "unfinished.json"))
    then = record.get("study", {})
    if then != kept:
        raise UsageProblem(
            f"the search that {shown(folder)} was started with",
            "; ".join(differences(then, kept)) or "another",
            "resume with the same command, choose another --out, or start anew with --overwrite",
        )
    return done and (wanted is None or len(record["trials"]) >= wanted)


def differences(then: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """Yield what differs between two searches, in words."""
    for part, what in (("grid", "in the grid"), ("settings", "")):
        old, new = then.get(part, {}), now[part]
        for name in dict.fromkeys([*old, *new]):
            if old.get(name) != new.get(name):
                yield f"{name} {shown(new.get(name, 'absent'))}, not {shown(old.get(name, 'absent'))} {what}".strip()
    if then.get("tiles") != now["tiles"]:
        yield "other tiles"
    if then.get("space") != now["space"] and then.get("grid") == now["grid"]:
        yield "another space to draw from"


@dataclass(frozen=True)
class Work:
    """What all trials of a study share: the folder they are kept in, the settings they start from, how they run, who speaks."""

    folder: Path
    base: TrainSettings
    runner: Runner
    progress: Progress

    def path(self, number: int, kind: str) -> Path:
        """Return a file of trial `number`."""
        return self.folder / f"{number:04d}.{kind}"

    def run(self, number: int, options: dict[str, Any], watch: Any = lambda _epoch, _auroc: None) -> Trial:
        """Run a trial and say how it ended."""
        trial = run_trial(number, options, self.base, self.runner, self.folder, watch)
        words = ", ".join(f"{name} {named(value)}" for name, value in options.items())
        figure = trial.note if trial.auroc is None else f"AUROC {trial.auroc:.4f}"
        self.progress.say(f"trial {number} ({words}): {trial.state}, {figure}, {trial.seconds:.1f} s")
        return trial


def with_precision(folder: Path, base: TrainSettings, parts: Parts, progress: Progress) -> TrainSettings:
    """Return `base` with the arithmetic of all trainings chosen by measurement, once: trials differ in their settings alone."""
    if base.precision != "auto":
        return base
    path = folder / "precision.json"
    if not path.exists():
        settings = resolved(base)
        job = Job(folder, settings, parts, *start(settings, parts), "", progress, time.perf_counter())
        write_json(path, {"precision": plan_for(job).precision})
    return dataclasses.replace(base, precision=read_json(path)["precision"])


def run_grid(work: Work, options: list[dict[str, Any]]) -> None:
    """Run the cells that nobody has run and nobody else is at work on."""
    for number, cell in enumerate(options):
        if work.path(number, "json").exists():
            continue
        with claimed(work.path(number, "lock")) as mine:
            if mine and not work.path(number, "json").exists():
                work.run(number, cell)


def run_sampled(work: Work, space: Space, search: TuneSettings) -> list[Trial]:
    """Run again what a killed process left, then draw trials until enough have ended or are being worked on; return the ended."""
    name = f"sentinode-{work.folder.resolve().parent.name}"
    sampled = Sampled(work.folder.parent, search.storage, name, space, resolved(work.base))
    for number in sampled.running():
        if work.path(number, "lock").exists():
            with claimed(work.path(number, "lock")) as mine:
                if mine:
                    run_drawn(work, sampled, *sampled.again(number))
    while sampled.ended() + at_work(work, sampled) < (search.trials or 0):
        trial, options = sampled.draw()
        with claimed(work.path(trial.number, "lock")):
            run_drawn(work, sampled, trial, options)
    own = read_trials(work.folder)
    return sorted(own + sampled.elsewhere({trial.number for trial in own}), key=lambda trial: trial.number)


def at_work(work: Work, sampled: Sampled) -> int:
    """Return how many trials other processes are at work on."""
    busy = 0
    for number in sampled.running():
        if work.path(number, "lock").exists():
            with claimed(work.path(number, "lock")) as mine:
                busy += not mine
    return busy


def run_drawn(work: Work, sampled: Sampled, trial: Any, options: dict[str, Any]) -> None:
    """Run a drawn trial, unless it had ended before its process could say so, and tell the study."""
    ended = [one for one in read_trials(work.folder) if one.number == trial.number]
    outcome = ended[0] if ended else work.run(trial.number, options, lambda epoch, auroc: sampled.watch(trial, epoch, auroc))
    sampled.tell(trial, outcome)


def finish(folder: Path, work: Work, trials: list[Trial], parts: Parts, kept: dict[str, Any]) -> Study:
    """Write best/, the table, the picture and study.json, in this order; then the study is finished."""
    best = best_of(trials)
    if not work.path(best.number, "npy").exists():  # it ran on another machine: the same settings give the same run here
        work.run(best.number, best.options)
    finished, temporary = folder / "best", folder / ".best.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    work.runner.write_best(best.number, resolved(dataclasses.replace(work.base, **best.options)), temporary)
    shutil.rmtree(finished, ignore_errors=True)
    temporary.rename(finished)
    write_table(folder / "trials.csv", trials)
    optimism = optimism_of(work, trials, parts)
    record = {
        "format": FORMAT,
        "study": kept,
        "best": dataclasses.asdict(best),
        "optimism": optimism,
        "trials": [trial.number for trial in trials],
        "ended": {state: sum(trial.state == state for trial in trials) for state in ("done", "pruned", "failed")},
        "seconds": round(math.fsum(trial.seconds for trial in trials), 3),
        "about": work.runner.about,
        "split": parts.split.how,
        "warnings": list(parts.split.warnings),
    }
    note = f"Best of {len(trials)} trials on {len(parts.valid[1]):,} tiles that chose it ({parts.split.how} split)."
    if "estimate" in optimism:
        note += f" Selection optimism {optimism['estimate']:.4f} ({optimism['low']:.4f} to {optimism['high']:.4f})."
    write_search(folder, [dataclasses.asdict(trial) for trial in trials], kept["grid"], note)
    write_json(folder / "study.json", record)
    for path in work.folder.glob("*.lock"):
        path.unlink(missing_ok=True)
    (folder / "unfinished.json").unlink(missing_ok=True)
    return Study(folder, trials, record)


def best_of(trials: list[Trial]) -> Trial:
    """Return the trial of the highest AUROC that is done, the first of equals; RunProblem tells why there is none."""
    done = [trial for trial in trials if trial.state == "done"]
    if not done:
        raise RunProblem(
            "a trial that ends well", f"none of {len(trials)}: {trials[0].note}"[:300], "change what all trials share"
        )
    return max(done, key=lambda trial: (trial.auroc or 0.0, -trial.number))


def optimism_of(work: Work, trials: list[Trial], parts: Parts) -> dict[str, Any]:
    """Return the selection optimism of the trials that were done here, or why there is none."""
    store, rows = parts.valid
    done = [trial for trial in trials if trial.state == "done" and work.path(trial.number, "npy").exists()]
    labels, groups = (store.rows[name].to_numpy()[rows] for name in ("label", "group"))
    scores = np.stack([read_logits(work.folder, trial, len(rows)) for trial in done])
    try:
        return selection_optimism(labels, scores, slides_of(groups), seed=work.base.seed).as_dict()
    except UndefinedScore as error:
        return {"why_not": str(error)}


def open_study(folder: Path) -> Study:
    """Open a finished study."""
    record = read_json(folder / "study.json")
    trials = {trial.number: trial for trial in read_trials(folder / "trials")}
    return Study(folder, [trials[number] for number in record["trials"] if number in trials], record)


def line_of(trial: Trial) -> dict[str, str]:
    """Return a trial as words by column."""
    figures = {"valid AUROC": "" if trial.auroc is None else f"{trial.auroc:.4f}", "epochs": str(trial.epochs)}
    options = {name: named(value) for name, value in trial.options.items()}
    return {"trial": str(trial.number)} | options | figures | {"seconds": f"{trial.seconds:.1f}", "": trial.state}


def table(rows: list[dict[str, str]]) -> list[str]:
    """Return rows of equal columns as aligned lines, their names first."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    widths = {name: max(len(name), *(len(row.get(name, "")) for row in rows)) for name in names}
    whole = [{name: name for name in names}, *rows]
    return ["  ".join(row.get(name, "").rjust(widths[name]) for name in names).rstrip() for row in whole]
