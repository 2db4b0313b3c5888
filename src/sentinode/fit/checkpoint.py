"""What `--resume` needs: the whole state of training in one file of tensors, replaced whole; nothing in it can run.

Also the two signals that end a run: Ctrl-C and SIGTERM wait for the step to end, so that what is kept is whole.
"""

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sentinode.errors import RunProblem, shown
from sentinode.fit.loop import Progressing
from sentinode.run import write_bytes

FORMAT = 1
"""Version of the checkpoint."""
PLAIN = (
    *("step", "epoch", "step_in_epoch", "loss_sum", "tiles_seen", "seconds", "cpu_seconds", "before", "train_seconds"),
    *("best_epoch", "best_auroc", "history", "stopped_by", "at_once"),
    *("rate_factor", "skipped", "in_a_row"),
)
"""The fields of `Progressing` that JSON holds."""


def write_checkpoint(path: Path, state: Progressing, fingerprint: str) -> None:
    """Write `state` to `path`, whole or not at all; `fingerprint` names the settings and tiles it belongs to."""
    tensors = {f"model.{k}": v for k, v in state.model.state_dict().items()}
    if state.average is not state.model:
        tensors |= {f"average.{k}": v for k, v in state.average.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in state.best.items()}
    optimizer = state.optimizer.state_dict()
    for number, moments in optimizer["state"].items():
        tensors |= {f"optimizer.{number}.{k}": torch.as_tensor(v) for k, v in moments.items() if v is not None}
    if state.tally is not None:
        tensors["tally"] = state.tally
    plain: dict[str, Any] = {name: getattr(state, name) for name in PLAIN}
    plain |= {"format": FORMAT, "fingerprint": fingerprint, "scaler": state.scaler.state_dict()}
    data = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, {"state": json.dumps(plain)})
    write_bytes(path, data)


def read_checkpoint(path: Path, state: Progressing, fingerprint: str) -> None:
    """Put the checkpoint at `path` into `state`, which has been built anew from the same settings.

    Raises RunProblem if the file is cut or foreign, or belongs to other settings or other tiles.
    """
    try:
        with safe_open(path, framework="pt") as file:
            plain = json.loads((file.metadata() or {})["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise RunProblem("a readable checkpoint", f"{shown(path)}: {error}"[:200], "start anew with --overwrite") from error
    if plain.pop("format") != FORMAT or plain.pop("fingerprint") != fingerprint:
        raise RunProblem(
            "a checkpoint of the same settings, tiles and version",
            f"another one in {shown(path.parent)}",
            "resume with the settings it was started with, or start anew with --overwrite",
        )
    state.scaler.load_state_dict(plain.pop("scaler"))
    for name, value in plain.items():
        setattr(state, name, value)
    state.model.load_state_dict(under(tensors, "model."))
    if state.average is not state.model:
        state.average.load_state_dict(under(tensors, "average."))
    device = next(state.model.parameters()).device
    state.best = {k: v.to(device) for k, v in under(tensors, "best.").items()}
    state.tally = tensors["tally"].to(device) if "tally" in tensors else None
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in under(tensors, "optimizer.").items():
        number, key = name.split(".", 1)
        moments.setdefault(int(number), {})[key] = tensor
    state.optimizer.load_state_dict(state.optimizer.state_dict() | {"state": moments})


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose name begins with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


class Interruption:
    """Whether a signal has asked the run to end."""

    def __init__(self) -> None:
        self.asked = False

    def ask(self, _number: int, _frame: FrameType | None) -> None:
        """Note the first signal; a second one interrupts at once."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def interruption() -> Iterator[Interruption]:
    """Hold back Ctrl-C and SIGTERM until the loop looks; outside the main thread, where signals cannot be had, do nothing."""
    asked = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, asked.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
