"""What happens between steps of training: checkpoints, the history file, bar and lines, and the end that a signal asks for."""

import functools
import time
from contextlib import AbstractContextManager
from pathlib import Path

from sentinode.fit.checkpoint import Interruption, write_checkpoint
from sentinode.fit.loop import Progressing
from sentinode.fit.record import write_history
from sentinode.fit.sound import STOPPED
from sentinode.progress import Progress, Tick
from sentinode.settings import TrainSettings


def training_bar(progress: Progress, settings: TrainSettings, n_train: int) -> AbstractContextManager[Tick]:
    """Return a bar over all tiles to be trained, or over the seconds of `minutes`; off a terminal the line an epoch is enough."""
    if settings.minutes is not None:
        return progress.track("training", round(60 * settings.minutes), "s", lines=False)
    return progress.track("training", settings.epochs * n_train, lines=False)


class Keeper:
    """What happens between steps: checkpoints, the history file, bar and lines, and the end that a signal asks for."""

    def __init__(
        self,
        folder: Path,
        fingerprint: str,
        settings: TrainSettings,
        progress: Progress,
        asked: Interruption,
        n_train: int,
        tick: Tick,
    ) -> None:
        self.checkpoint = functools.partial(write_checkpoint, folder / "resume" / "state.safetensors", fingerprint=fingerprint)
        self.folder, self.settings, self.progress, self.asked, self.n_train = folder, settings, progress, asked, n_train
        self.tick, self.ticked, self.saved = tick, 0, time.monotonic()

    def __call__(self, state: Progressing, when: str) -> None:
        """Keep `state` after a step or an epoch."""
        while state.news:
            self.progress.say(state.news.pop(0), always=True)
        by_clock = self.settings.minutes is not None
        at = int(state.seconds) if by_clock else state.epoch * self.n_train + state.tiles_seen
        self.tick(at - self.ticked)
        self.ticked = at
        due = when == "epoch" or time.monotonic() - self.saved >= self.settings.checkpoint_s
        if due or self.asked.asked:
            self.checkpoint(state=state)
            self.saved = time.monotonic()
        if when == "epoch" and not state.step_in_epoch:  # closed: its line is there
            write_history(self.folder / "history.csv", state.history)
            self.progress.say(self.line(state), always=bool(state.stopped_by))
        if state.stopped_by == STOPPED:
            self.progress.say(f"training stops: the best epoch so far, {state.best_epoch + 1}, is kept", always=True)
        if self.asked.asked and not state.stopped_by:
            self.progress.say("interrupted: nothing is lost; the same command with --resume goes on", always=True)
            raise KeyboardInterrupt

    def line(self, state: Progressing) -> str:
        """Return the epoch's line."""
        last = state.history[-1]
        best = " (best)" if state.best_epoch + 1 == last["epoch"] else ""
        of = "" if self.settings.minutes is not None else f"/{self.settings.epochs}"
        return (
            f"epoch {last['epoch']}{of}: train loss {last['train_loss']:.4f}, valid loss {last['valid_loss']:.4f}, "
            f"valid AUROC {last['valid_auroc']:.4f}{best}, {state.seconds:.0f} s"
        )
