"""What `--resume` needs: the whole state of training in one file of tensors, replaced whole; nothing in it can run.

Also the two signals that end a run: Ctrl-C and SIGTERM wait for the step to end, so that what is kept is whole.
"""

import json
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from sentinode.errors import RunProblem, shown
from sentinode.fit.loop import Progressing
from sentinode.fit.sound import arrived
from sentinode.machine.ranks import started
from sentinode.nets.sealed import sealed, unsealed
from sentinode.run import replacing

FORMAT = 2
"""Version of the checkpoint."""
PREVIOUS = "previous.safetensors"
"""The checkpoint before the last one, beside it."""
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
    if state.sent is not None:
        tensors["sent"] = arrived(state.sent)
    plain: dict[str, Any] = {name: getattr(state, name) for name in PLAIN}
    plain |= {"format": FORMAT, "fingerprint": fingerprint, "scaler": state.scaler.state_dict()}
    data = sealed(tensors, json.dumps(plain))
    with replacing(path) as temporary:
        temporary.write_bytes(data)
        if path.exists():  # and not before there was room for the new one, or two names would be all there is of one checkpoint
            keep_previous(path)


def keep_previous(path: Path) -> None:
    """Give the checkpoint a second name before the next one takes its first, so that there is one to go back to."""
    with replacing(path.with_name(PREVIOUS)) as temporary:
        try:
            temporary.hardlink_to(path)
        except OSError:  # a file system without such links
            shutil.copyfile(path, temporary)


def read_checkpoint(path: Path, state: Progressing, fingerprint: str) -> str:
    """Put the checkpoint at `path` into `state`, which has been built anew from the same settings.

    Where it is damaged, the one before it is taken: training from there ends with the same bytes. Returns what there is to say of
    that, or ''. Raises RunProblem if both are cut or foreign, or belong to other settings or other tiles.
    """
    said, previous = "", path.with_name(PREVIOUS)
    try:
        tensors, plain = contents(path)
    except RunProblem as problem:
        if not previous.exists():
            raise
        said = f"a damaged checkpoint ({problem.found}): training goes on from the one before it"
        tensors, plain = contents(previous)
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
    state.sent = (tensors["sent"], None) if "sent" in tensors else None
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in under(tensors, "optimizer.").items():
        number, key = name.split(".", 1)
        moments.setdefault(int(number), {})[key] = tensor
    state.optimizer.load_state_dict(state.optimizer.state_dict() | {"state": moments})
    for parameter, held in state.optimizer.state.items():
        for key, value in held.items():
            if value is not None and value.ndim and value.shape == parameter.shape:
                # In the parameter's order in memory, which a fused optimiser takes for granted and a file does not keep.
                held[key] = torch.empty_like(parameter).copy_(value)
    return said


def contents(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what a checkpoint holds, tensors and the rest; RunProblem if it is cut, changed or foreign."""
    try:
        tensors, note = unsealed(path)
        plain: dict[str, Any] = json.loads(note)
    except (OSError, SafetensorError, ValueError) as error:
        raise RunProblem("a readable checkpoint", f"{shown(path)}: {error}"[:200], "start anew with --overwrite") from error
    return tensors, plain


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose name begins with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


class Interruption:
    """Whether a signal has asked the run to end."""

    def __init__(self) -> None:
        self.asked = False

    def ask(self, _number: int, _frame: FrameType | None) -> None:
        """Note the first signal; a second one interrupts at once, but not one of several processes.

        There torchrun hands on what it is sent, and a cluster may send the same to all of them: two may mean one. The step is
        brought to its end, and torchrun kills those that take too long.
        """
        if self.asked and started().world == 1:
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
