"""Which form of a network is the fastest on this machine: measured, and only among those that agree with plain fp32."""

import time
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from sentinode.errors import MachineProblem, nearest, shown
from sentinode.machine.plan import GAIN
from sentinode.nets.forms import eager, forms
from sentinode.nets.forward import Call, placed
from sentinode.nets.openvino import quantised, runner

ROUNDS = 3
"""How often the forms are timed in turn."""
HOPELESS = 2.0
"""A form that took so many times the least of all in every round so far is not timed again. On shared machines one call has been
seen to take half as long again as the next."""
SHARE = 0.2
"""Share of the work in plain fp32 that choosing may take: then no further form is tried."""
CONVERSION_S = 3.0
"""Seconds that OpenVINO takes to convert and compile a network of the usual size (ResNet18: 2.4 s on two cores)."""
FEW = 8
"""Tiles by which the work of a network is guessed before anything is measured in earnest."""
SETTLED = 1.5
"""A reduced form that is so many times as fast as plain fp32 leaves the other forms in fp32 no chance: none gained as much."""
FAILURES = (
    MachineProblem,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    ImportError,
    OSError,
)
"""What libraries raise of a network that they cannot convert."""
WHOLE_BOUND = 0.15
"""Largest root mean square difference that 8-bit whole numbers may make, as a share of the standard deviation of the logits. If it is
noise, an AUROC of 0.93 falls by 0.005 (normal logits). Seen: simple-cnn 0.01, ResNet18 0.05 to 0.12, EfficientNet-Lite0 0.06 to
0.12."""
BOUNDS = {"fp32": 1e-3, "bf16": 0.1, "fp16": 0.1}
"""Largest disagreement with plain fp32, by precision. bf16 has 8 bits: networks of 20 to 200 layers are 0.003 to 0.03 away."""


@dataclass(frozen=True)
class Engine:
    """A network in its fastest form.

    `call` takes normalised float32 [k, 3, p, p], channels-last, and gives float32 [k, d] or [k]; k is at most the batch it was made
    for, or any number. `name` is "FORM PRECISION"; `reasons` says what each form took, and which were left out and why.
    """

    name: str
    precision: str
    call: Call
    reasons: str


def fastest(
    module: nn.Module,
    example: Tensor,
    *,
    allowed: Literal["auto", "fp32"] = "auto",
    tiles: int | None = None,
    worth_s: float = 0.0,
) -> Engine:
    """Return the form of `module` that takes the least time for `example`.

    The forms are timed in turn, the least of several counts, and less than fp32 is taken only where it is `GAIN` times faster. The
    weights are taken as they are now: train on, and make another engine.

    Parameters
    ----------
    module
        Maps network input to [k, d] or [k]. It is left in evaluation mode, in channels-last order.
    example
        Input [b, 3, p, p], channels-last, on the device to compute on: real tiles, since agreement is judged on them.
    allowed
        "fp32" leaves out all reduced arithmetic.
    tiles
        How many are to come; choosing stops when it would take too large a share of them. None: all forms are tried.
    worth_s
        Seconds: what plain fp32 does with all `tiles` in less is left to it.
    """
    module = placed(module.eval(), example.device)
    made = forms(module, example)
    plain = next(iter(made))
    calls: dict[str, Call] = {plain: made[plain]()}
    if worth_s and tiles is not None and work_seconds(calls[plain], example, tiles) < worth_s:
        return Engine(plain, "fp32", calls[plain], f"less than {worth_s:.0f} s of work")
    reference = calls[plain](example)
    times = {plain: seconds(calls[plain], example)}
    left_out: dict[str, str] = {}
    away: dict[str, float] = {}
    ends = time.perf_counter() + (float("inf") if tiles is None else SHARE * times[plain] * tiles / len(example))
    for name, make in list(made.items())[1:]:
        precision = name.split()[1]
        if allowed == "fp32" and precision != "fp32":
            continue
        if time.perf_counter() + CONVERSION_S * name.startswith("openvino") > ends:
            left_out[name] = "not tried: too few tiles to pay for it"
            continue
        if tiles is not None and precision == "fp32" and min(times.values()) * SETTLED < times[plain]:
            left_out[name] = "not tried: less precision is faster by far"
            continue
        try:
            call = make()
            error = disagreement(call(example), reference)
        except FAILURES as problem:
            left_out[name] = f"{type(problem).__name__}: {problem}".splitlines()[0][:200]
            continue
        if not error <= BOUNDS[precision]:
            left_out[name] = f"{error:.2g} away from {plain}"
            continue
        calls[name], times[name], away[name] = call, seconds(call, example), error
    for _ in range(ROUNDS - 1):
        if time.perf_counter() > ends:
            break
        for name in [n for n in times if times[n] <= HOPELESS * min(times.values())]:
            times[name] = min(times[name], seconds(calls[name], example))
    chosen = choose(times)
    return Engine(chosen, chosen.split()[1], calls[chosen], told(times, away, left_out, len(example)))


def work_seconds(call: Call, example: Tensor, tiles: int) -> float:
    """Return about how many seconds `call` takes for so many tiles, judged by a few of them."""
    few = example[:FEW]
    call(few)
    return min(seconds(call, few) for _ in range(2)) * tiles / len(few)


def choose(times: dict[str, float]) -> str:
    """Return the fastest form in fp32, or the fastest of all where that is `GAIN` times faster. `times`: seconds by name."""
    full = min((name for name in times if name.endswith("fp32")), key=times.__getitem__)
    best = min(times, key=times.__getitem__)
    return best if times[full] >= GAIN * times[best] else full


def named(name: str, module: nn.Module, example: Tensor) -> Engine:
    """Return the form of that name, not measured; MachineProblem if this machine has none or cannot make it."""
    module = placed(module.eval(), example.device)
    made = forms(module, example)
    if name not in made:
        raise MachineProblem("a form of a network that this machine has", shown(name), nearest(name, list(made)))
    return Engine(name, name.split()[1], made[name](), "asked for")


def in_whole_numbers(module: nn.Module, calibration: Tensor, others: Tensor, batch: int) -> Engine:
    """Return OpenVINO's form of `module` in 8-bit whole numbers, where its logits on `others` are near enough those in fp32.

    Parameters
    ----------
    module
        Maps network input to logits [k], on a CPU.
    calibration
        Input [n, 3, p, p], channels-last, whose ranges the maps then have: of the tiles that are to come.
    others
        Further such input, on which the difference is judged.
    batch
        Tiles a call.

    Raises
    ------
    MachineProblem
        Where the device is none of OpenVINO's, a package is missing, the network cannot be quantised, or the logits move too
        far.
    """
    if calibration.device.type != "cpu":
        raise MachineProblem(
            "a CPU for precision int8", shown(str(calibration.device)), "add --device cpu, or leave --precision out"
        )
    module = placed(module.eval(), "cpu")
    call = runner(quantised(module, calibration), batch, "f32")
    plain = eager(module, "fp32")
    # A batch at a time: the maps of all of them would take gigabytes where a network sees large tiles.
    wanted, whole = (torch.cat([form(some) for some in torch.split(others, batch)]) for form in (plain, call))
    moved = float((whole - wanted).square().mean().sqrt() / wanted.std(correction=0).clamp_min(1e-12))
    if not moved <= WHOLE_BOUND:
        found = f"{moved:.3f} on {len(others)} tiles"
        do = "this network does not stand it; use --precision auto"
        raise MachineProblem(f"logits within {WHOLE_BOUND} standard deviations of those in fp32", found, do)
    why = f"asked for; logits of {len(others)} tiles that did not calibrate it move by {moved:.3f} of their standard deviation"
    return Engine("openvino int8", "int8", call, why)


def seconds(call: Call, example: Tensor) -> float:
    """Return the seconds that one call takes."""
    began = time.perf_counter()
    call(example)
    if example.is_cuda:
        torch.cuda.synchronize(example.device)
    return time.perf_counter() - began


def disagreement(result: Tensor, reference: Tensor) -> float:
    """Return the root mean square difference of results [b, d] or [b], as a share of the reference's own; inf for other shapes."""
    if result.shape != reference.shape or result.dtype != reference.dtype:
        return float("inf")
    return float((result - reference).norm() / reference.norm().clamp_min(1e-12))


def told(times: dict[str, float], away: dict[str, float], left_out: dict[str, str], batch: int) -> str:
    """Return the forms with their tiles/s, fastest first, reduced ones with how far they are from fp32; then those left out, and why."""
    far = {name: f" ({error:.1g} away from fp32)" for name, error in away.items() if not name.endswith("fp32")}
    order = sorted(times, key=times.__getitem__)
    parts = [", ".join(f"{name} {batch / times[name]:,.0f} tiles/s{far.get(name, '')}" for name in order)]
    return "; ".join([*parts, *(f"{name} left out ({why})" for name, why in left_out.items())])
