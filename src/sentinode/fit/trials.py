"""What a trial leaves behind, who works on it, and the way a trial is run: settings in, validation logits out."""

import contextlib
import csv
import dataclasses
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import xxhash
from filelock import FileLock

from sentinode.errors import MachineProblem, RunProblem, SentinodeError, shown
from sentinode.fit.parts import choose_parts
from sentinode.fit.start import Job, start
from sentinode.fit.train import Claim, plan_for, train_watched
from sentinode.machine.memory import memory_problems
from sentinode.nets.forward import Logits
from sentinode.progress import Progress
from sentinode.run import BROKEN, FULL_DISK, UNWRITABLE, read_json, replacing, write_bytes, write_json
from sentinode.settings import TrainSettings, resolved
from sentinode.tiles.store import Store

Watch = Callable[[int, float], None]
"""Told of each epoch (1 is the first) and its validation AUROC; raises Pruned to end the trial."""


class Pruned(Exception):
    """A trial was ended because others were better at the same epoch."""


@dataclass(frozen=True)
class Trial:
    """One trial: its settings that differ, and how it ended: "done", "pruned" or "failed" (then without AUROC; `note` says why)."""

    number: int
    options: dict[str, Any]
    state: str
    auroc: float | None = None
    loss: float | None = None
    epochs: int = 0
    seconds: float = 0.0
    note: str = ""


class Runner(Protocol):
    """A way to run trials; all of them are judged on the same validation tiles. `about` is what study.json says of it."""

    about: dict[str, Any]

    def run(self, number: int, settings: TrainSettings, watch: Watch) -> tuple[Logits, dict[str, Any]]:
        """Return validation logits [m] (prevalence put back) and what is known: auroc, loss, epochs; seconds, where not all are its own."""

    def write_best(self, number: int, settings: TrainSettings, folder: Path) -> None:
        """Write trial `number` as a whole run into `folder`."""

    def discard(self, number: int) -> None:
        """Remove what a pruned trial left."""


class Trainings:
    """Trials that are trainings: each is a run folder in `folder`/NNNN, and a killed one goes on from its checkpoint."""

    def __init__(self, folder: Path, store: str | Path | Store, valid: str | Path | None, progress: Progress) -> None:
        self.folder, self.store, self.valid, self.progress = folder, store, valid, progress
        self.about: dict[str, Any] = {"trials_are": "trainings"}

    def run(self, number: int, settings: TrainSettings, watch: Watch) -> tuple[Logits, dict[str, Any]]:
        """Train, or go on, or open what was finished."""
        where, settings = self.folder / f"{number:04d}", self.with_precision(settings)
        run = train_watched(self.store, where, self.valid, settings, Claim(resume=True, quiet=True), watch)
        logits = pd.read_parquet(where / "valid.parquet", columns=["logit"])["logit"].to_numpy(np.float32)
        told = run.record["valid"]
        return logits, {"auroc": told["auroc"], "loss": told["loss"], "epochs": run.record["cost"]["epochs"]}

    def with_precision(self, settings: TrainSettings) -> TrainSettings:
        """Return `settings` with arithmetic and compiler of all trainings chosen once, by measurement: else trials would differ in more.

        Where the arithmetic was named, compiling is each trial's own choice.
        """
        if settings.precision != "auto":
            return settings
        path = self.folder / "precision.json"
        with FileLock(self.folder / "precision.lock"):
            if not path.exists():
                parts = choose_parts(self.store, self.valid, settings)
                job = Job(self.folder, settings, parts, *start(settings, parts), "", self.progress)
                plan = plan_for(job)
                write_json(path, {"precision": plan.precision, "compile": "yes" if plan.compile else "no"})
        return dataclasses.replace(settings, **read_json(path))

    def write_best(self, number: int, settings: TrainSettings, folder: Path) -> None:
        """Copy the trial's run."""
        del settings
        shutil.copytree(self.folder / f"{number:04d}", folder, copy_function=copied)

    def discard(self, number: int) -> None:
        """Remove the unfinished run of a pruned trial."""
        shutil.rmtree(self.folder / f"{number:04d}", ignore_errors=True)


def run_trial(number: int, options: dict[str, Any], settings: TrainSettings, runner: Runner, folder: Path, watch: Watch) -> Trial:
    """Run one trial of `settings` with `options` over them and keep what it leaves: NNNN.npy first, then NNNN.json.

    One that diverges or cannot be trained has failed and the others go on. A disk that is full or cannot be written ends the study
    instead: no setting is to blame, and it goes on once there is room.
    """
    began, seen = time.perf_counter(), [(0, float("nan"))]

    def watched(epoch: int, auroc: float) -> None:
        seen.append((epoch, auroc))
        watch(epoch, auroc)

    trial, failure, kept = Trial(number, options, "failed"), "", b""
    try:
        with memory_problems():
            logits, told = runner.run(number, resolved(dataclasses.replace(settings, **options)), watched)
        with io.BytesIO() as file:
            np.save(file, logits.astype(np.float32), allow_pickle=False)
            kept = file.getvalue()
        write_bytes(folder / f"{number:04d}.npy", kept)
        trial = dataclasses.replace(trial, state="done", **told)
    except Pruned:
        best = max((auroc for _, auroc in seen[1:]), default=None)
        trial = dataclasses.replace(trial, state="pruned", auroc=best, epochs=seen[-1][0])
        runner.discard(number)
    except SentinodeError as error:
        if of_the_disk(error):
            raise
        failure = str(error)
    if failure:
        trial = dataclasses.replace(trial, note=failure)
        runner.discard(number)
    if not trial.seconds:
        trial = dataclasses.replace(trial, seconds=round(time.perf_counter() - began, 3))
    write_trial(folder, trial, kept)
    return trial


def write_trial(folder: Path, trial: Trial, logits: bytes = b"") -> None:
    """Write how a trial ended, with digests of that and of its .npy: a flipped bit would make another the best."""
    said = dataclasses.asdict(trial)
    digests = {"digest": xxhash.xxh3_128_hexdigest(json.dumps(said).encode()), "logits": xxhash.xxh3_128_hexdigest(logits)}
    write_json(folder / f"{trial.number:04d}.json", said | digests)


def copied(source: str, target: str) -> None:
    """Copy a file, whole or not at all."""
    with replacing(Path(target)) as temporary:
        shutil.copyfile(source, temporary)


def of_the_disk(error: BaseException | None) -> bool:
    """Return whether a full disk, or one that fails or cannot be written, is behind a problem of the machine."""
    behind = isinstance(error, MachineProblem)
    while behind and error is not None:
        if isinstance(error, OSError) and error.errno in FULL_DISK | UNWRITABLE | BROKEN:
            return True
        error = error.__cause__
    return False


def read_trials(folder: Path) -> list[Trial]:
    """Return the trials that have ended, by number."""
    found = []
    for path in sorted(folder.glob("[0-9]*.json")):
        try:
            said = read_json(path)
            digest, _ = said.pop("digest", None), said.pop("logits", None)
            if digest not in {None, xxhash.xxh3_128_hexdigest(json.dumps(said).encode())}:
                raise ValueError("it is not what was written")
            found.append(Trial(**said))
        except (TypeError, ValueError) as error:
            raise RunProblem(f"a trial in {shown(path)}", f"{error}"[:200], "remove the file and go on with --resume") from error
    return sorted(found, key=lambda trial: trial.number)


def read_logits(folder: Path, trial: Trial, n: int) -> npt.NDArray[np.float32]:
    """Return the validation logits float32 [n] of a trial that is done."""
    path = folder / f"{trial.number:04d}.npy"
    try:
        data, told = path.read_bytes(), read_json(path.with_suffix(".json")).get("logits")
        if told not in {None, xxhash.xxh3_128_hexdigest(data)}:
            raise ValueError("they are not what was written")
        logits = np.load(io.BytesIO(data), allow_pickle=False)
    except (OSError, ValueError) as error:
        raise RunProblem(
            f"the scores of a trial in {shown(path)}", f"{error}"[:200], "remove the trial's .json and --resume"
        ) from error
    if logits.shape != (n,):
        raise RunProblem(f"{n:,} scores in {shown(path)}", f"{logits.shape}", "remove the trial's .json and --resume")
    return np.asarray(logits, np.float32)


def write_table(path: Path, trials: list[Trial]) -> None:
    """Write one line a trial as CSV: number, state, the settings that differ, valid_auroc, valid_loss, epochs, seconds, note."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.options))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["number", "state", *names, "valid_auroc", "valid_loss", "epochs", "seconds", "note"])
    for trial in trials:
        values = [trial.options.get(name, "") for name in names]
        figures = ["" if value is None else value for value in (trial.auroc, trial.loss)]
        writer.writerow([trial.number, trial.state, *values, *figures, trial.epochs, trial.seconds, trial.note])
    write_bytes(path, text.getvalue().encode())


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Yield whether this process now holds `path` against all others; the system lets go when a process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        yield lock(file.fileno())


def lock(handle: int) -> bool:
    """Return whether the open file could be locked at once."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
