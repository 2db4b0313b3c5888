"""The command `tune`: every cell of a grid, or trials drawn one after another; the table, the picture, the best as a run.

`STUDY/trials/NNNN.json` and `.npy` are what a trial leaves (how it ended, its validation logits), so that a study that was killed
goes on with the next one. Processes on one study hold a lock on the trial they work on.
"""

import dataclasses
import json
import math
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from sentinode.errors import SentinodeError, UndefinedScore, UsageProblem, shown
from sentinode.fit.grid import Grid, cells, check_comparable, read_grid
from sentinode.fit.parts import Parts, choose_parts
from sentinode.fit.pick import check_can_follow
from sentinode.fit.sampler import (
    Sampled,
    Space,
    database_problems,
    forget,
    namesake,
    open_storage,
    optuna_module,
    shared_facts,
    space_of,
    where_kept,
)
from sentinode.fit.shared import Mixed, SharedFeatures, check_read
from sentinode.fit.start import start
from sentinode.fit.train import checked
from sentinode.fit.trials import Runner, Trainings, Trial, claimed, read_logits, read_trials, run_trial, write_table, write_trial
from sentinode.flows.findings import Study, best_of, differences, open_study
from sentinode.judge.optimism import selection_optimism
from sentinode.judge.statement import slides_of
from sentinode.machine.memory import memory_problems, set_allocator
from sentinode.machine.probe import keep_to_usable_cores
from sentinode.progress import Progress
from sentinode.report.search import named, write_search
from sentinode.run import claim_folder, read_json, remove_leftovers, sync_folder, write_json
from sentinode.settings import TrainSettings, TuneSettings, resolved, settings_from
from sentinode.tiles.store import Store

FORMAT = 1
"""Version of study.json."""


@memory_problems()
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
        `["lr=1e-3,1e-4"]` or `{"lr": [1e-3, 1e-4]}`, or `trials`, a number; and `storage` and `keep`. Trials leave alone what is
        named here, or is no default in `settings`.
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
    keep_to_usable_cores()
    grid, search = searched(options)
    base = checked(settings_from(TrainSettings, settings, options))
    progress, folder = Progress(quiet), Path(out)
    check_comparable(grid, own_valid=valid is not None)
    all_settings = [resolved(checked(dataclasses.replace(base, **cell))) for cell in cells(grid)]
    for one in all_settings:
        check_can_follow(one)
    backbones = {one.backbone for one in all_settings}
    if backbones == {"frozen"}:
        check_read(grid, base)
    space = {} if grid else space_of(all_settings[0], {*search.keep, *options, *changed(base)})
    parts = choose_parts(store, valid, base)
    facts = {"settings": dataclasses.asdict(base), "grid": grid, "space": space, "tiles": digests(parts)}
    kept = json.loads(json.dumps(facts | {"storage": where_kept(search.storage)}))
    storage = None if search.storage is None else database(search.storage, folder, kept)
    if not (resume and folder.exists()):
        check_start(all_settings, parts)
    if is_finished(folder, kept, search.trials, resume=resume, overwrite=overwrite):
        return open_study(folder)
    write_json(folder / "unfinished.json", {"study": kept})

    heads, trainings = SharedFeatures(store, valid, progress), Trainings(folder / "trials", store, valid, progress)
    runner: Runner = Mixed(heads, trainings) if len(backbones) > 1 else heads if backbones == {"frozen"} else trainings
    work = Work(folder / "trials", base, runner, progress)
    if grid:
        run_grid(work, cells(grid))
        trials, waited = read_trials(work.folder), len(cells(grid))
    else:
        with database_problems(search.storage):
            sampled = begun(work, storage, kept, space, overwrite=overwrite)
            trials, waited = run_sampled(work, sampled, search.trials or 0), search.trials or 0
    if len(trials) < waited:
        with work.alone():
            if (folder / "unfinished.json").exists():  # otherwise another process has written the whole table since
                write_table(folder / "trials.csv", trials)
        return Study(folder, trials, {})
    return finish_once(folder, work, trials, parts, kept)


def changed(settings: TrainSettings) -> list[str]:
    """Return the names of the settings that are not their defaults."""
    default = TrainSettings()
    return [name for name, value in vars(settings).items() if value != getattr(default, name)]


def database(url: str, folder: Path, kept: dict[str, Any]) -> Any:
    """Return the database that `url` names; UsageProblem where it holds another study of this name."""
    storage, label = open_storage(folder, url), folder.resolve().name
    with database_problems(url):
        other = namesake(storage, label, kept)
    if other is not None:
        raise UsageProblem(
            f"the search that {shown(label)} in {shown(where_kept(url))} was started with",
            "; ".join(differences({"tiles": [], **other}, shared_facts(kept))) or "another",
            "run the same command as there, or give --out another name",
        )
    return storage


def check_start(all_settings: list[TrainSettings], parts: Parts) -> None:
    """Raise what keeps all trials from starting, before anything is written; what keeps some of them is those trials' own failure."""
    first: SentinodeError | None = None
    for settings in all_settings:
        try:
            start(settings, parts)
        except SentinodeError as error:
            first = first or error
        else:
            return
    if first is not None:
        raise first


def searched(options: dict[str, Any]) -> tuple[Grid, TuneSettings]:
    """Take what is searched out of `options`; UsageProblem unless it is a grid or a number of trials."""
    grid = read_grid(options.pop("grid", None) or ())
    keep = options.pop("keep", ())
    search = TuneSettings(keep=(keep,) if isinstance(keep, str) else tuple(keep))
    search = settings_from(TuneSettings, search, {name: options.pop(name) for name in ("trials", "storage") if name in options})
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

    def alone(self) -> FileLock:
        """Return what only one of the processes on this study can enter at a time."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / "lock")

    def run(self, number: int, options: dict[str, Any], watch: Any = lambda _epoch, _auroc: None) -> Trial:
        """Run a trial and say how it ended."""
        trial = run_trial(number, options, self.base, self.runner, self.folder, watch)
        words = ", ".join(f"{name} {named(value)}" for name, value in options.items())
        figure = trial.note if trial.auroc is None else f"AUROC {trial.auroc:.4f}"
        self.progress.say(f"trial {number} ({words}): {trial.state}, {figure}, {trial.seconds:.1f} s")
        return trial


def run_grid(work: Work, options: list[dict[str, Any]]) -> None:
    """Run the cells that nobody has run and nobody else is at work on."""
    for number, cell in enumerate(options):
        if work.path(number, "json").exists():
            continue
        with claimed(work.path(number, "lock")) as mine:
            if mine and not work.path(number, "json").exists():
                work.run(number, cell)


def begun(work: Work, storage: Any, kept: dict[str, Any], space: Space, *, overwrite: bool) -> Sampled:
    """Return the study in its storage, begun by the first process that comes; one that is to be replaced is gone."""
    folder = work.folder.parent
    label = folder.resolve().name
    with work.alone():
        if overwrite and storage is not None:
            forget(storage, label, kept)
        there = open_storage(folder, None) if storage is None else storage
        return Sampled(there, label, kept, space, resolved(work.base))


def run_sampled(work: Work, sampled: Sampled, wanted: int) -> list[Trial]:
    """Run again what a killed process left, then draw trials until enough have ended or are being worked on; return the ended."""
    while True:
        with ExitStack() as held:
            with work.alone():  # or two processes would both draw the last one
                drawn = next_drawn(work, sampled, wanted, held)
            if drawn is None:
                break
            run_drawn(work, sampled, *drawn)
    own = read_trials(work.folder)
    others = sampled.elsewhere({trial.number for trial in own})
    for trial in others:
        write_trial(work.folder, trial)
    return sorted(own + others, key=lambda trial: trial.number)


def next_drawn(work: Work, sampled: Sampled, wanted: int, held: ExitStack) -> tuple[Any, dict[str, Any]] | None:
    """Return a trial whose process died, else a new one, its lock in `held`; None if enough have ended or are being worked on."""
    at_work = 0
    for number in sampled.running():
        if work.path(number, "lock").exists():  # otherwise it was begun on another machine
            if held.enter_context(claimed(work.path(number, "lock"))):
                return sampled.again(number)
            at_work += 1
    if sampled.ended() + at_work >= wanted:
        return None
    trial, options = sampled.draw()
    held.enter_context(claimed(work.path(trial.number, "lock")))
    return trial, options


def run_drawn(work: Work, sampled: Sampled, trial: Any, options: dict[str, Any]) -> None:
    """Run a drawn trial, unless it had ended before its process could say so, and tell the study."""
    ended = [one for one in read_trials(work.folder) if one.number == trial.number]
    outcome = ended[0] if ended else work.run(trial.number, options, lambda epoch, auroc: sampled.watch(trial, epoch, auroc))
    sampled.tell(trial, outcome)


def finish_once(folder: Path, work: Work, trials: list[Trial], parts: Parts, kept: dict[str, Any]) -> Study:
    """Write the result, or open what another process that ended at the same time has written."""
    with work.alone():
        if (folder / "study.json").exists():
            record = read_json(folder / "study.json")
            if record["study"] == kept and {trial.number for trial in trials} <= set(record["trials"]):
                (folder / "unfinished.json").unlink(missing_ok=True)
                return open_study(folder)
        return finish(folder, work, trials, parts, kept)


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
    sync_folder(folder)
    write_table(folder / "trials.csv", trials)
    optimism = optimism_of(work, trials, parts)
    ended = {state: sum(trial.state == state for trial in trials) for state in ("done", "pruned", "failed")}
    record = {
        "format": FORMAT,
        "study": kept,
        "best": dataclasses.asdict(best),
        "optimism": optimism,
        "trials": [trial.number for trial in trials],
        "ended": ended,
        "seconds": round(math.fsum(trial.seconds for trial in trials), 3),
        "about": work.runner.about,
        "split": parts.split.how,
        "warnings": list(parts.split.warnings),
    }
    states = ", ".join(f"{ended[state]} {state}" for state in ("pruned", "failed") if ended[state])
    note = f"Best of {len(trials)} trials{f' ({states})' if states else ''} on {len(parts.valid[1]):,} tiles that chose it"
    note += f" ({parts.split.how} split)."
    if optimism.get("trials", 0) > 1:
        note += f" Selection optimism {optimism['estimate']:.4f} ({optimism['low']:.4f} to {optimism['high']:.4f}),"
        note += " the choice of epochs left out."
    write_search(folder, [dataclasses.asdict(trial) for trial in trials], kept["grid"], note)
    write_json(folder / "study.json", record)
    remove_leftovers(folder)
    remove_leftovers(work.folder)
    for trial in trials:  # and not those of trials that others, who were asked for more, are at work on
        work.path(trial.number, "lock").unlink(missing_ok=True)
    (folder / "unfinished.json").unlink(missing_ok=True)
    return Study(folder, trials, record)


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
