"""Trials that are drawn one after another by what earlier ones found: Optuna's TPE sampler and its median pruner.

The sampler is seeded anew for each trial from (seed, number), so that a study that was killed goes on as if it had not been, and a
trial that was running is run again under its own number. Processes share a study through its storage.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from sentinode.errors import MachineProblem, shown
from sentinode.fit.loop import step_seed
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
        "head": ("choice", "linear", "mlp"),
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


def optuna_module() -> ModuleType:
    """Import Optuna; MachineProblem says how to get it."""
    try:
        import optuna
    except ImportError as error:
        raise MachineProblem("optuna, which --trials needs", "no such package", "pip install 'sentinode[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class Sampled:
    """A study of `space` in a journal in `folder`, or in the database that the URL `storage` names."""

    def __init__(self, folder: Path, storage: str | None, name: str, space: Space, settings: TrainSettings) -> None:
        self.optuna = optuna_module()
        self.seed = settings.seed
        self.distributions = {name: self._distribution(rule) for name, rule in space.items()}
        pruner = self.optuna.pruners.MedianPruner(n_startup_trials=STARTUP // 2, n_warmup_steps=WARMUP_EPOCHS)
        self.study = self.optuna.create_study(
            storage=self._storage(folder, storage), study_name=name, load_if_exists=True, direction="maximize", pruner=pruner
        )
        if not self.study.get_trials(deepcopy=False):
            # The recipe itself is the first trial: whatever wins is at least as good.
            start = {key: getattr(settings, key) for key, rule in space.items() if inside(rule, getattr(settings, key))}
            self.study.enqueue_trial(start, skip_if_exists=True)

    def _storage(self, folder: Path, url: str | None) -> Any:
        if url is None:
            from optuna.storages import JournalStorage
            from optuna.storages.journal import JournalFileBackend

            return JournalStorage(JournalFileBackend(str(folder / "journal.log")))
        from sqlalchemy.exc import SQLAlchemyError

        try:
            return self.optuna.storages.RDBStorage(url)
        except (ImportError, ValueError, OSError, SQLAlchemyError) as error:
            told = " ".join(str(error).split())[:200]
            raise MachineProblem(
                f"a database at {shown(url)}", f"{type(error).__name__}: {told}", "mend --storage, such as sqlite:///study.db"
            ) from error

    def _distribution(self, rule: Sequence[Any]) -> Any:
        of = self.optuna.distributions
        if rule[0] == "choice":
            return of.CategoricalDistribution(rule[1:])
        return of.FloatDistribution(rule[1], rule[2], log=rule[0] == "log")

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
        return [Trial(one.number, dict(one.params), words[one.state.name], one.value, note="elsewhere") for one in ended]

    def draw(self) -> tuple[Any, dict[str, Any]]:
        """Return a new trial and its settings."""
        number = sum(trial.state.name != "WAITING" for trial in self.study.get_trials(deepcopy=False))
        self.study.sampler = self.optuna.samplers.TPESampler(
            seed=step_seed(self.seed, number) % 2**32, n_startup_trials=STARTUP, constant_liar=True
        )
        trial = self.study.ask(self.distributions)
        return trial, dict(trial.params)

    def again(self, number: int) -> tuple[Any, dict[str, Any]]:
        """Return a trial whose process died, and its settings, to be run again under its number."""
        frozen = self.study.get_trials(deepcopy=False)[number]
        return self.optuna.trial.Trial(self.study, frozen._trial_id), dict(frozen.params)

    def watch(self, trial: Any, epoch: int, auroc: float) -> None:
        """Report an epoch; raises Pruned where the others were better by then."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an epoch that was reported before the trial was killed
            trial.report(auroc, epoch)
        if trial.should_prune():
            raise Pruned

    def tell(self, trial: Any, outcome: Trial) -> None:
        """Say how a trial ended."""
        states = self.optuna.trial.TrialState
        if outcome.state == "done":
            self.study.tell(trial, outcome.auroc)
        else:
            self.study.tell(trial, state=states.PRUNED if outcome.state == "pruned" else states.FAIL)


def inside(rule: Sequence[Any], value: Any) -> bool:
    """Return whether a rule of a space can give `value`."""
    return value in rule[1:] if rule[0] == "choice" else bool(rule[1] <= value <= rule[2])
