"""Trials on a frozen network: features are taken once, and every trial is a head fitted to them."""

import dataclasses
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sentinode.errors import UsageProblem
from sentinode.fit.features import Features
from sentinode.fit.frozen import features_of, finish_frozen, fitted_head
from sentinode.fit.parts import choose_parts
from sentinode.fit.probe import keep_floor_sample
from sentinode.fit.start import Job, start
from sentinode.fit.trials import Runner, Trainings, Watch
from sentinode.machine.memory import memory_problems, refusing
from sentinode.machine.plan import choose_device
from sentinode.nets.forward import Logits
from sentinode.progress import Progress
from sentinode.settings import TrainSettings
from sentinode.tiles.store import Store

STEPS = ("lr", "batch", "epochs", "optimizer", "weight_decay", "warmup", "patience")
"""What the heads that are trained step by step read."""
READS: dict[str, tuple[str, ...]] = {
    "logistic": ("head", "balance"),
    "linear": ("head", "balance", *STEPS),
    "mlp": ("head", "balance", *STEPS, "dropout"),
}
"""What each head reads; trials that differ in nothing else share their features."""
IDLE = ("dihedral", "colour", "jpeg", "ema", "freeze", "layer_decay", "minutes", "micro_batch")
"""What a frozen network never reads: its tiles are not augmented and its weights stay."""


def check_read(grid: Mapping[str, Iterable[Any]], settings: TrainSettings) -> None:
    """Raise UsageProblem for a grid over a setting that no head in it reads: all its trials would be the same."""
    heads = [str(head) for head in grid.get("head", [settings.head])]
    read = {name for head in heads for name in READS[head]}
    wrong = [name for name in grid if name in IDLE or (name in READS["mlp"] and name not in read)]
    if wrong:
        other = next((head for head in ("linear", "mlp") if wrong[0] in READS[head]), None)
        raise UsageProblem(
            f"a grid over settings that the head {' or '.join(heads)} on a frozen network reads",
            f"{wrong[0]}, which it does not",
            f"add --head {other}, or leave it out of the grid"
            if other
            else "leave it out of the grid, or use --backbone finetune",
        )


class SharedFeatures:
    """Trials on one frozen network, or on several where the grid names some: each network's features are taken once."""

    def __init__(self, store: str | Path | Store, valid: str | Path | None, progress: Progress) -> None:
        self.store, self.valid, self.progress = store, valid, progress
        self.known: dict[str, tuple[Job, tuple[Features, Features]]] = {}
        self.about: dict[str, Any] = {"trials_are": "heads on shared features", "extractions": []}

    def basis(self, settings: TrainSettings) -> tuple[Job, tuple[Features, Features]]:
        """Return the network and the features of trials that differ from `settings` in what a head reads alone."""
        apart = {name: value for name, value in dataclasses.asdict(settings).items() if name not in READS["mlp"]}
        key = repr(apart)
        if key not in self.known:
            parts = choose_parts(self.store, self.valid, settings)
            network, facts = start(settings, parts)
            if "guard" in facts.training:
                self.progress.say(f"guard: {facts.training['guard']}")
            job = Job(Path(), settings, parts, network, facts, "", self.progress)
            features = features_of(job)
            self.known[key] = job, features
            self.about["extractions"].append(
                {
                    "model": settings.model,
                    "weights": facts.training.get("weights", ""),
                    "input_px": facts.preprocessing.input_px,
                    "seconds": round(sum(part.seconds for part in features), 3),
                    "cached": all(part.cached for part in features),
                    "engine": features[0].engine,
                }
            )
        return self.known[key]

    def run(self, number: int, settings: TrainSettings, watch: Watch) -> tuple[Logits, dict[str, Any]]:
        """Fit a head."""
        del number
        job, features = self.basis(settings)
        began = time.perf_counter()  # what the features took stands beside the trials: it is not the first one's
        with refusing(choose_device(settings.device)[0]):
            fitted = fitted_head(dataclasses.replace(job, watch=watch), settings, features)
        best = max(fitted.history, key=lambda line: float(line["valid_auroc"]))
        told = {"auroc": fitted.auroc, "loss": best["valid_loss"], "epochs": len(fitted.history), "note": fitted.note}
        told["seconds"] = round(time.perf_counter() - began, 3)
        return fitted.valid_logits + np.float32(shift_of(job, settings)), told

    @memory_problems()
    def write_best(self, number: int, settings: TrainSettings, folder: Path) -> None:
        """Fit the head once more, which gives the same one, and write the run."""
        del number
        job, features = self.basis(settings)
        network, facts = start(settings, job.parts)
        own = Job(folder, settings, job.parts, network, facts, "", self.progress)
        keep_floor_sample(folder / "floor.npz", *job.parts.train)
        with refusing(choose_device(settings.device)[0]):
            fitted = fitted_head(own, settings, features)
        finish_frozen(own, features, fitted)

    def discard(self, number: int) -> None:
        """Nothing is left of a head."""


class Mixed:
    """Trials of which some are heads on a frozen network and some are trainings: each is run as it would be among its own kind."""

    def __init__(self, heads: SharedFeatures, trainings: Trainings) -> None:
        self.heads, self.trainings = heads, trainings
        self.about: dict[str, Any] = {**heads.about, "trials_are": "heads on shared features, and trainings"}

    def of(self, settings: TrainSettings) -> Runner:
        """Return who runs a trial."""
        return self.heads if settings.backbone == "frozen" else self.trainings

    def run(self, number: int, settings: TrainSettings, watch: Watch) -> tuple[Logits, dict[str, Any]]:
        """Fit a head, or train."""
        return self.of(settings).run(number, settings, watch)

    def write_best(self, number: int, settings: TrainSettings, folder: Path) -> None:
        """Write the run."""
        self.of(settings).write_best(number, settings, folder)

    def discard(self, number: int) -> None:
        """Remove what a training left."""
        self.trainings.discard(number)


def shift_of(job: Job, settings: TrainSettings) -> float:
    """Return the prevalence, as a logit, that a balanced loss takes out; 0 where the loss is not balanced."""
    share = job.parts.positive_share
    return float(np.log(share / (1 - share))) if settings.balance else 0.0
