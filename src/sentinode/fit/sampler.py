"""Trials that are drawn one after another by what earlier ones found: Optuna's TPE sampler and its median pruner.

The sampler is seeded anew for each trial from (seed, number), so that a study that was killed goes on as if it had not been, a trial
that was running is run again under its own number, and no two processes draw alike. Processes share a study through its storage; it
is found there by a fingerprint of what decides it, so that two studies never share trials.
"""

import hashlib
import json
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from sentinode.errors import MachineProblem, UsageProblem, masked, nearest, shown
from sentinode.fit.loop import step_seed
from sentinode.fit.shared import READS
from sentinode.fit.trials import Pruned, Trial
from sentinode.settings import TrainSettings

STARTUP = 8
"""Trials drawn at random before the sampler learns."""
WARMUP_EPOCHS = 2
"""Epochs before a trial may be pruned."""
Space = dict[str, Sequence[Any]]
"""Setting by name: ("log", low, high), ("even", low, high) or ("choice", value, value, ...)."""
SPACES: dict[str, Space] = {
    "scratch": {
        "lr": ("log", 3e-4, 3e-2),
        "weight_decay": ("log", 1e-3, 0.5),
        "batch": ("choice", 32, 64, 128),
        "dropout": ("even", 0.0, 0.6),
        "colour": ("even", 0.0, 0.6),
    },
    "frozen": {
        "head": ("choice", "logistic", "linear", "mlp"),
        "lr": ("log", 1e-5, 1e-2),
        "weight_decay": ("log", 1e-4, 1.0),
        "batch": ("choice", 64, 256, 1024),
        "dropout": ("even", 0.0, 0.6),
    },
    "finetune": {
        "lr": ("log", 3e-5, 3e-3),
        "weight_decay": ("log", 1e-3, 0.5),
        "batch": ("choice", 32, 64),
        "dropout": ("even", 0.0, 0.6),
        "colour": ("even", 0.0, 0.6),
        "layer_decay": ("even", 0.5, 1.0),
    },
}
"""What is searched for each way of training: around its recipe, a factor of ten each way for rates."""
LOCAL = ("device", "threads", "features", "resident", "compile", "memory_format", "checkpoint_s")
"""Settings that may differ between machines that work on one study."""


def space_of(settings: TrainSettings, keep: Collection[str]) -> Space:
    """Return what may be drawn where `settings` (resolved) are the base and those named in `keep` stay as they are."""
    known = list(vars(settings))
    for name in keep:
        if name not in known:
            raise UsageProblem("settings to keep", shown(name), nearest(name, known))
    left = {name: rule for name, rule in SPACES[settings.backbone].items() if name not in keep}
    if settings.backbone == "frozen" and "head" in keep:
        left = {name: rule for name, rule in left.items() if name in READS[settings.head]}
    if not left:
        given = ", ".join(name for name in SPACES[settings.backbone] if name in keep)
        logistic = settings.backbone == "frozen" and settings.head == "logistic"
        found = f"none beside {given}" + (", and a logistic head has no others" if logistic else "")
        raise UsageProblem("settings left to draw", found, "leave one of them out, or use --grid")
    return left


def optuna_module() -> ModuleType:
    """Import Optuna; MachineProblem says how to get it."""
    try:
        import optuna
    except ImportError as error:
        raise MachineProblem("optuna, which --trials needs", "no such package", "pip install 'sentinode[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


@contextmanager
def database_problems(url: str | None) -> Iterator[None]:
    """Turn what a database says into an error in three parts, without its password."""
    optuna = optuna_module()
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise unreachable(url, error) from error


def unreachable(url: str | None, error: Exception) -> MachineProblem:
    """Return what is said of a database that does not answer."""
    told = masked(" ".join(str(error).split()))[:200]
    where = shown(masked(url or ""))
    return MachineProblem(
        f"a database at {where}", f"{type(error).__name__}: {told}", "mend --storage, such as sqlite:///study.db"
    )


def open_storage(folder: Path, url: str | None) -> Any:
    """Return the database that `url` names, or else a journal in `folder`, where trials are kept."""
    optuna = optuna_module()
    if url is None:
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        return JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    try:
        with database_problems(url):
            return optuna.storages.RDBStorage(url)
    except (ImportError, ValueError, OSError) as error:
        raise unreachable(url, error) from error


def where_kept(url: str | None) -> str:
    """Return where trials are kept, as a record says it: without a password, and files by their whole path."""
    if url is None:
        return "the study's folder"
    driver, slashes, file = url.partition(":///")
    # An absolute SQLite file is written with four slashes, and joining keeps it as it is.
    return f"{driver}{slashes}{Path.cwd() / file}" if slashes and driver.startswith("sqlite") and file else masked(url)


def shared_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return, of what decides a study, what all its machines have in common."""
    settings = {name: value for name, value in facts["settings"].items() if name not in LOCAL}
    return {name: value for name, value in facts.items() if name != "storage"} | {"settings": settings}


def study_name(label: str, facts: Mapping[str, Any]) -> str:
    """Return the name of a study in its storage: that of its folder, and a digest of the facts that decide it."""
    digest = hashlib.sha256(json.dumps(shared_facts(facts), sort_keys=True).encode()).hexdigest()
    return f"sentinode-{label}-{digest[:12]}"


def namesake(storage: Any, label: str, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the facts of another study in `storage` whose folder has the same name, None where there is none."""
    own = study_name(label, facts)
    for study in storage.get_all_studies():
        alike = re.fullmatch(rf"sentinode-{re.escape(label)}-[0-9a-f]{{12}}", study.study_name)
        if alike and study.study_name != own:
            return dict(study.user_attrs.get("facts", {}))
    return None


def forget(storage: Any, label: str, facts: Mapping[str, Any]) -> None:
    """Remove the study from `storage`, if it is there."""
    for study in storage.get_all_studies():
        if study.study_name == study_name(label, facts):
            storage.delete_study(study._study_id)


class Sampled:
    """A study of `space` in `storage`, around `settings` (resolved), known there by `label` and the `facts` that decide it."""

    def __init__(self, storage: Any, label: str, facts: Mapping[str, Any], space: Space, settings: TrainSettings) -> None:
        self.optuna = optuna_module()
        self.settings, self.space = settings, dict(space)
        alone = "logistic" in space.get("head", ())
        if alone:  # it has nothing to draw: it is one trial, not one of the sampler's choices
            self.space["head"] = tuple(choice for choice in space["head"] if choice != "logistic")
        pruner = self.optuna.pruners.MedianPruner(n_startup_trials=STARTUP // 2, n_warmup_steps=WARMUP_EPOCHS)
        self.study = self.optuna.create_study(
            storage=storage, study_name=study_name(label, facts), load_if_exists=True, direction="maximize", pruner=pruner
        )
        if not self.study.get_trials(deepcopy=False):
            self.study.set_user_attr("facts", shared_facts(facts))
            # The recipe itself is the first trial: whatever wins is at least as good.
            start = vars(settings) | ({"head": "linear"} if alone else {})
            if alone:
                self.study.enqueue_trial({}, user_attrs={"options": {"head": "logistic"}})
            recipe = {name: start[name] for name, rule in self.space.items() if inside(rule, start[name])}
            self.study.enqueue_trial(recipe, skip_if_exists=True)

    def running(self) -> list[int]:
        """Return the numbers of trials that some process has begun and none has ended."""
        return [trial.number for trial in self.study.get_trials(deepcopy=False) if trial.state.name == "RUNNING"]

    def ended(self) -> int:
        """Return how many trials have ended, in whatever way."""
        return sum(trial.state.is_finished() for trial in self.study.get_trials(deepcopy=False))

    def elsewhere(self, known: set[int]) -> list[Trial]:
        """Return the trials that ended on other machines: those of the study whose numbers are not `known` here."""
        words = {"COMPLETE": "done", "PRUNED": "pruned", "FAIL": "failed"}
        ended = [one for one in self.study.get_trials(deepcopy=False) if one.state.is_finished() and one.number not in known]
        return [
            Trial(one.number, dict(one.user_attrs.get("options", one.params)), words[one.state.name], one.value, note="elsewhere")
            for one in ended
        ]

    def draw(self) -> tuple[Any, dict[str, Any]]:
        """Return a new trial and its settings."""
        trial = self.study.ask()
        return trial, self.options_of(trial)

    def again(self, number: int) -> tuple[Any, dict[str, Any]]:
        """Return a trial whose process died, and its settings, to be run again under its number."""
        trial = self.optuna.trial.Trial(self.study, self.study.get_trials(deepcopy=False)[number]._trial_id)
        return trial, self.options_of(trial)

    def options_of(self, trial: Any) -> dict[str, Any]:
        """Return a trial's settings: those it was given, else drawn, or as they were drawn before."""
        if "options" in trial.user_attrs:
            return dict(trial.user_attrs["options"])
        # Seeded by the number that the storage gave this trial and no other, whichever process draws.
        seed = step_seed(self.settings.seed, trial.number) % 2**32
        self.study.sampler = self.optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP, constant_liar=True)
        options: dict[str, Any] = {}
        for name, rule in self.space.items():
            if "head" not in options or name in READS[options["head"]]:
                options[name] = suggested(trial, name, rule)
        return options

    def watch(self, trial: Any, epoch: int, auroc: float) -> None:
        """Report an epoch; raises Pruned where the others were better by then."""
        if "options" in trial.user_attrs:
            return  # what a logistic head goes through are strengths of its penalty, not epochs that can be set beside others'
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an epoch that was reported before the trial was killed
            trial.report(auroc, epoch)
        if trial.should_prune():
            raise Pruned

    def tell(self, trial: Any, outcome: Trial) -> None:
        """Say how a trial ended, unless that was said before."""
        states = self.optuna.trial.TrialState
        if self.study.get_trials(deepcopy=False)[trial.number].state.is_finished():
            return
        if outcome.state == "done":
            self.study.tell(trial, outcome.auroc)
        else:
            self.study.tell(trial, state=states.PRUNED if outcome.state == "pruned" else states.FAIL)


def suggested(trial: Any, name: str, rule: Sequence[Any]) -> Any:
    """Return a value that the sampler draws by a rule of a space."""
    if rule[0] == "choice":
        return trial.suggest_categorical(name, list(rule[1:]))
    return trial.suggest_float(name, rule[1], rule[2], log=rule[0] == "log")


def inside(rule: Sequence[Any], value: Any) -> bool:
    """Return whether a rule of a space can give `value`."""
    return value in rule[1:] if rule[0] == "choice" else bool(rule[1] <= value <= rule[2])
