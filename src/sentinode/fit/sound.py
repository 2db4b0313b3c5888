"""Steps that are not finite: skipped, the learning rate lowered, and after three in a row training ends with the best it had.

On a CPU the loss is at hand and one look at the gradients' norm decides. On a GPU reading a number would make the host wait for the
device at every step. So nothing is read there: the fused optimisers leave weights and moments alone where `found_inf` is 1 (the
flag that torch's own loss scaler sets), and a tally is kept on the device. Every `LOOK_EVERY` steps the last one, which has been on
its way to the host since then, is read, and the next is sent off: the device always has work before it. The rate is lowered up to
twice so many steps later than on a CPU, and training ends as much later; no step that is not finite is ever taken.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sentinode.errors import RunProblem

if TYPE_CHECKING:
    from sentinode.fit.loop import Progressing

LOWER = 0.5
"""What is left of the learning rate after a step that was not finite."""
IN_A_ROW = 3
"""So many such steps one after another end the training."""
LOOK_EVERY = 16
"""Steps that a GPU counts in one tally."""
STOPPED = "steps that are not finite"
"""What `stopped_by` then says."""

Sent = tuple[Tensor, torch.cuda.Event | None]
"""A tally in the host's memory, and on a GPU what happens when it has arrived."""
Statistics = list[tuple[Tensor, Tensor]]
"""Buffers, and what they held."""


def learning(model: nn.Module) -> list[_BatchNorm]:
    """Return the batch norms of `model` that learn their statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]


def statistics(model: nn.Module) -> Statistics:
    """Return the running statistics of batch norms that learn them: the one thing that a forward pass changes."""
    return [(buffer, buffer.clone()) for norm in learning(model) for buffer in norm.buffers(recurse=False)]


def on_device(state: "Progressing") -> bool:
    """Return whether the optimiser skips a step by itself, so that nobody has to read whether it should."""
    return bool(state.optimizer.defaults.get("fused"))


@torch.no_grad()
def not_finite(state: "Progressing", loss_sum: Tensor) -> Tensor:
    """Return, as a tensor of one truth value, whether a step's loss or any of its gradients is not finite.

    Under loss scaling gradients overflow in the ordinary course of things, and the scaler sees to them: only the loss counts.
    """
    if state.scaler.is_enabled():
        return ~torch.isfinite(loss_sum)
    gradients = [p.grad for group in state.optimizer.param_groups for p in group["params"] if p.grad is not None]
    return ~torch.isfinite(loss_sum + torch.nn.utils.get_total_norm(gradients))


@torch.no_grad()
def skip(state: "Progressing", n: int, before: Statistics) -> None:
    """Leave all as it was before a step on `n` tiles that is not finite, and count it."""
    for buffer, held in before:
        buffer.copy_(held)
    state.tiles_seen -= n
    state.in_a_row += 1
    lower(state, 1, state.in_a_row)


def lower(state: "Progressing", events: int, longest: int) -> None:
    """Lower the learning rate for so many skipped steps, the most of them in a row `longest`, and say so."""
    state.skipped += events
    state.rate_factor *= LOWER**events
    which = f"step {state.step:,}" if events == 1 else f"{events:,} of the steps up to {state.step:,}"
    rate = f"the learning rate goes on at {state.rate_factor:.3g} of its plan"
    state.news.append(f"{which}: loss or gradients not finite, so not taken; {rate}")
    if longest >= IN_A_ROW:
        state.stopped_by = STOPPED


@torch.no_grad()
def step_blindly(state: "Progressing", bad: Tensor, loss_sum: Tensor, n: int, before: Statistics) -> None:
    """Take the step, or leave all as it was where `bad` is true, without reading it; the tally on the device counts.

    The tally is float64 [5]: sum of losses, tiles skipped, steps skipped, the last of them in a row, the most of them in a row.
    """
    if not state.scaler.is_enabled():  # else the scaler sets both
        state.optimizer.grad_scale, state.optimizer.found_inf = None, bad.float()  # type: ignore[attr-defined]
    state.scaler.step(state.optimizer)
    state.scaler.update()
    for buffer, held in before:
        buffer.copy_(torch.where(bad, held, buffer))
    if state.tally is None:
        state.tally = torch.zeros(5, dtype=torch.float64, device=bad.device)
    loss, tiles, skipped, row, longest = state.tally.unbind()
    wrong = bad.double()
    row = (row + 1) * wrong
    loss = loss + torch.where(bad, 0.0, loss_sum.double())
    state.tally = torch.stack([loss, tiles + n * wrong, skipped + wrong, row, torch.maximum(longest, row)])
    if state.step % LOOK_EVERY == 0:
        hand_over(state, state.tally)


def hand_over(state: "Progressing", tally: Tensor) -> None:
    """Read the tally before this one, send this one off, and begin the next with the steps in a row."""
    read_sent(state)
    state.sent = sent_off(tally)
    row = tally[3:4]
    state.tally = torch.cat([torch.zeros_like(tally[:3]), row, row])


def sent_off(tally: Tensor) -> Sent:
    """Return a copy of the tally in the host's memory, and what happens when it has arrived; nobody waits for it now."""
    if not tally.is_cuda:
        return tally.clone(), None
    there, arrival = torch.empty(tally.shape, dtype=tally.dtype, pin_memory=True), torch.cuda.Event()  # type: ignore[no-untyped-call]
    there.copy_(tally, non_blocking=True)
    arrival.record(torch.cuda.current_stream(tally.device))
    return there, arrival


def arrived(sent: Sent) -> Tensor:
    """Return the tally that was sent off, waited for if need be."""
    tally, arrival = sent
    if arrival is not None:
        arrival.synchronize()
    return tally


def read_sent(state: "Progressing") -> None:
    """Read the tally that was sent off, where there is one; it left many steps ago."""
    if state.sent is None:
        return
    tally, state.sent = arrived(state.sent), None
    read(state, tally)


def read(state: "Progressing", tally: Tensor) -> None:
    """Put what a tally has counted into `state`; one that is on a device is waited for."""
    loss, tiles, skipped, row, longest = tally.tolist()
    state.loss_sum += loss
    state.tiles_seen -= int(tiles)
    if skipped:
        lower(state, int(skipped), int(longest))
    state.in_a_row = int(row)


def look(state: "Progressing") -> None:
    """Read all that was counted, where there is a tally: the host waits for the device here."""
    read_sent(state)
    if state.tally is not None:
        read(state, state.tally)
        state.tally = torch.tensor([0.0, 0.0, 0.0, *[state.in_a_row] * 2], dtype=torch.float64, device=state.tally.device)


def check_begun(state: "Progressing") -> None:
    """Raise RunProblem where no step was finite: there is nothing that training has made."""
    if state.stopped_by == STOPPED and state.skipped >= state.step:
        raise RunProblem(
            "a training whose loss is finite",
            f"not one of its first {state.step:,} steps with such loss and gradients",
            "start anew with a lower --lr or with --precision fp32",
        )
