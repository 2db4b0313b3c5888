"""What to do with the machine, and why: decided once before a job, printed, saved with the run, each choice open to override."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sentinode.errors import MachineProblem, UsageProblem, shown
from sentinode.limits import usable_cores
from sentinode.machine.memory import available_bytes
from sentinode.machine.probe import has_tf32
from sentinode.machine.ranks import ALONE, Ranks, started
from sentinode.settings import TrainSettings

GAIN = 1.15
"""How much faster reduced precision must be to be chosen: far from both 1 and the 2 it gives where hardware has it, so that noise
does not turn the choice and the same seed gives the same model."""
ROUNDS = 3
"""How often the precisions are timed in turn."""
LOOK_S, PROBE_S = 1.0, 5.0
"""Seconds of steps after which a look at one precision ends, and of looks after which none is begun again: the longer a step takes,
the less of it is noise."""
LONG_S = 1800.0
"""Seconds of steps from which on compiling is tried on a GPU: the try takes a minute or so, and as much again if it is taken."""
SHORT_MIN = 10
"""A run of fewer minutes has no time for so many looks: one decides, and its seed does not give the same model anyway."""
RESIDENT_SHARE = 0.6
"""Share of the free memory that tiles may fill."""
CPU_MICRO = 32
"""Tiles of a micro-batch. With the allocator set, 16 to 64 tiles of 96x96 are within 5 % of each other; fewer need less memory. A
fine-tuned network handles all its weights once a micro-batch: at 160x160, 32 tiles are a third faster than 11."""
CPU_MICRO_PIXELS = CPU_MICRO * 224 * 224
"""Most pixels of a micro-batch: beyond, memory would grow without being faster."""


@dataclass(frozen=True)
class Plan:
    """The choices; `reasons` says for each why.

    `at_once` is 0 until memory turns out too small for a micro-batch; then it is how many of its tiles go through the network.
    `accumulation` micro-batches sum to the optimiser's batch. `device` and `threads` are each process's own where `processes` of
    them divide the work. `step_s` is what a step took where precisions were timed, seconds; 0 where none was.
    """

    device: str
    precision: str
    micro_batch: int
    threads: int
    resident: bool
    positive_share: float = 0.5
    at_once: int = 0
    accumulation: int = 1
    memory_format: str = "channels_last"
    compile: bool = False
    processes: int = 1
    step_s: float = 0.0
    reasons: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return one line a choice, with its reason."""
        return reasoned(vars(self), self.reasons)


def reasoned(choices: Mapping[str, Any], reasons: Mapping[str, str]) -> list[str]:
    """Return one line for each choice that has a reason."""
    return [f"  {name}: {choices[name]} ({why})" for name, why in reasons.items()]


def choose_device(device: str) -> tuple[str, str]:
    """Return the device and why; of several processes on a machine each has its own GPU. MachineProblem for one that is not there."""
    import torch

    here = started()
    if here.local_world > 1 and device != "cpu" and (device != "auto" or torch.cuda.is_available()):
        return own_gpu(device, here, torch.cuda.device_count())
    if device == "auto":
        found = torch.cuda.is_available()
        return ("cuda", "a GPU is there") if found else ("cpu", "no GPU that torch can use")
    try:
        asked = torch.device(device)
    except RuntimeError as error:
        raise MachineProblem("device auto, cpu, cuda or cuda:N", shown(device), "change --device") from error
    if asked.type == "cuda" and (asked.index or 0) >= torch.cuda.device_count():
        raise MachineProblem(
            f"device {device}", f"{torch.cuda.device_count()} GPUs", "use --device cpu, or see 'sentinode doctor'"
        )
    return device, "asked for"


def check_precision(precision: str, device: str) -> None:
    """Raise MachineProblem for TF32 on a device that has none."""
    if precision == "tf32" and not has_tf32(device):
        found = "a CPU" if not device.startswith("cuda") else "a GPU without it"
        raise MachineProblem(
            "a GPU that has TF32 (NVIDIA's since Ampere)", found, "leave --precision out: auto takes what pays here"
        )


def own_gpu(device: str, here: Ranks, gpus: int) -> tuple[str, str]:
    """Return the GPU of this process, one of several on its machine, and why."""
    if device not in {"auto", "cuda"}:
        raise UsageProblem("device auto, cpu or cuda for several processes on a machine", shown(device), "leave --device out")
    if here.local_world > gpus:
        do = "start as many processes as there are GPUs (--nproc-per-node), or use --device cpu"
        raise MachineProblem(f"a GPU for each of {here.local_world} processes on this machine", f"{gpus} GPUs", do)
    return f"cuda:{here.local}", f"each of {here.local_world} processes has a GPU"


def make_plan(
    settings: TrainSettings,
    *,
    px: int,
    resident_bytes: int,
    positive_share: float,
    step_seconds: Callable[[Plan], float],
    ranks: Ranks = ALONE,
) -> Plan:
    """Decide how to train.

    Parameters
    ----------
    settings
        What the user asked for; anything but "auto" or 0 is taken as it is.
    px
        Edge length of a tile.
    resident_bytes
        What the tiles take up in memory.
    positive_share
        Share of positives among the training tiles, for the class weights.
    step_seconds
        Measures a training step under a plan, seconds; called only where precision is to be chosen.
    ranks
        This process among those that divide each step.
    """
    import torch

    device, why_device = choose_device(settings.device)
    on_gpu = device.startswith("cuda")
    threads = settings.threads or torch.get_num_threads()
    fitting = max(1, min(CPU_MICRO, CPU_MICRO_PIXELS // (px * px)))
    share = -(-settings.batch // ranks.world)
    micro = settings.micro_batch or min(share, share if on_gpu else fitting)
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else available_bytes()
    resident_bytes *= 1 if on_gpu else ranks.local_world  # each keeps the tiles
    resident = {"yes": True, "no": False}.get(settings.resident, resident_bytes <= RESIDENT_SHARE * free)
    parts = max(1, -(-settings.batch // max(micro, 1)))
    plan = Plan(
        device=device,
        precision=settings.precision,
        micro_batch=micro,
        accumulation=parts,
        memory_format="channels_last" if settings.memory_format == "auto" else settings.memory_format,
        threads=threads,
        resident=resident,
        positive_share=positive_share,
        processes=ranks.world,
        reasons={
            "device": why_device,
            "precision": "asked for",
            "micro_batch": why_micro(settings, micro, on_gpu=on_gpu, ranks=ranks),
            "accumulation": f"so many make the optimiser's batch of {settings.batch}",
            "memory_format": "asked for"
            if settings.memory_format != "auto"
            else "the order in which tiles arrive, and the faster one for convolutions",
            "compile": "not tried",
            "threads": why_threads(settings.threads, threads, ranks),
            **(
                {"processes": f"torchrun's, {ranks.local_world} on this machine; micro-batches go round"}
                if ranks.world > 1
                else {}
            ),
            "resident": "asked for"
            if settings.resident != "auto"
            else f"tiles take {resident_bytes / 1e9:.2f} GB, {free / 1e9:.1f} GB are free",
        },
    )
    if settings.precision != "auto":
        return plan
    return choose_precision(plan, step_seconds, 1 if settings.minutes and settings.minutes < SHORT_MIN else ROUNDS)


def why_micro(settings: TrainSettings, micro: int, *, on_gpu: bool, ranks: Ranks) -> str:
    """Return why a micro-batch has so many tiles."""
    if settings.micro_batch:
        return "asked for"
    if ranks.world > 1 and micro == -(-settings.batch // ranks.world):
        return "each process has one a step"
    return "a GPU takes the whole batch, and halves it where that does not fit" if on_gpu else "memory stays small at full speed"


def why_threads(asked: int, threads: int, ranks: Ranks) -> str:
    """Return why so many threads compute; `asked`: 0 where nobody did."""
    cores = usable_cores()
    if asked:
        return "asked for"
    if ranks.local_world > 1:
        return f"{cores} usable cores divided by the processes of this machine, or OMP_NUM_THREADS"
    return "one a usable core" if threads == cores else f"set outside, as by OMP_NUM_THREADS; {cores} cores are usable"


def choose_precision(plan: Plan, step_seconds: Callable[[Plan], float], rounds: int = ROUNDS) -> Plan:
    """Return the plan with a reduced precision where a measured training step is at least `GAIN` times faster, else with fp32.

    bf16 is tried everywhere, fp16 on GPUs alone, where older ones have no other, and TF32 where there is that. From the most exact
    on, each must be `GAIN` times faster than what was chosen before it: noise then does not choose among those that are about alike.
    """
    tried = ["fp32", *(["tf32"] if has_tf32(plan.device) else []), "bf16", *(["fp16"] if plan.device.startswith("cuda") else [])]
    # In turn and the least of several: a busy moment then slows none alone.
    found: list[dict[str, float]] = []
    began = time.perf_counter()
    while len(found) < rounds and (not found or time.perf_counter() - began < PROBE_S):
        found.append({p: step_seconds(dataclasses.replace(plan, precision=p)) for p in tried})
    times = {p: min(seconds[p] for seconds in found) for p in tried}
    chosen = "fp32"
    for precision in tried[1:]:
        chosen = precision if times[chosen] >= GAIN * times[precision] else chosen
    seen = (f"{seconds * 1e3:.0f} ms in {p}" if seconds < math.inf else f"{p} not tried" for p, seconds in times.items())
    why = "a step takes " + ", ".join(seen)
    return dataclasses.replace(plan, precision=chosen, step_s=times[chosen], reasons=plan.reasons | {"precision": why})


def choose_compile(plan: Plan, settings: TrainSettings, steps: int, step_seconds: Callable[[Plan], float]) -> Plan:
    """Return the plan with torch.compile as asked for, or on a GPU where it is measured to earn its warm-up.

    `steps` are to come, unless `settings.minutes` says for how long; they are timed in one process, and take a share of that where
    several divide them. Compiling must make a step `GAIN` times faster, and save more than it takes twice: batches come in two sizes,
    and are compiled for each.
    """

    def chosen(compiled: bool, why: str) -> Plan:
        return dataclasses.replace(plan, compile=compiled, reasons=plan.reasons | {"compile": why})

    if settings.compile != "auto":
        return chosen(settings.compile == "yes", "asked for")
    if not plan.device.startswith("cuda"):
        return chosen(False, "not tried on a CPU: where it was, steps were slower, after a minute of warm-up")
    to_come = 60 * settings.minutes if settings.minutes else math.inf
    eager = plan.step_s or (step_seconds(plan) if to_come >= LONG_S else 0.0)  # a short clock has no time for a look
    to_come = to_come if settings.minutes else steps * eager / plan.processes
    if to_come < LONG_S:
        return chosen(False, f"not tried: {to_come / 60:.0f} minutes of steps are few for its warm-up")
    began = time.perf_counter()
    try:
        compiled = step_seconds(dataclasses.replace(plan, compile=True))
    except (RuntimeError, ImportError, OSError, MachineProblem) as error:
        return chosen(False, f"torch.compile fails here: {type(error).__name__}")
    warm_up, saved = 2 * (time.perf_counter() - began), to_come * (1 - compiled / eager)
    why = (
        f"a step takes {eager * 1e3:.0f} ms, compiled {compiled * 1e3:.0f} ms: {saved:.0f} s saved for {warm_up:.0f} s of warm-up"
    )
    return chosen(eager >= GAIN * compiled and saved > warm_up, why)


def with_reading(plan: Plan, batch: int, rate: float, how: str, local_world: int = 1) -> Plan:
    """Return the plan with what reading tiles gives told beside `resident`: `rate` tiles/s, by `how` they were read.

    It is compared with what the `local_world` processes of this machine train, `batch` tiles a step each, where a step was timed.
    """
    trained = local_world * batch / plan.step_s if plan.step_s else 0.0
    said = f"{plan.reasons['resident']}; {how} gives {rate:,.0f} tiles/s"
    if rate < trained:
        said += f", fewer than the {trained:,.0f} that could be trained: put the store on a faster disk"
    return dataclasses.replace(plan, reasons=plan.reasons | {"resident": said})
