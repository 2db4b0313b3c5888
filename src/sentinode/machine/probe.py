"""What the machine is, and how fast its arithmetic can go at best. Torch is imported inside the functions that need it."""

import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sentinode.errors import MachineProblem, UsageProblem, nearest, shown
from sentinode.limits import ROOT, usable_cores
from sentinode.machine.memory import limit_bytes, set_allocator

if TYPE_CHECKING:
    import torch

FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "neon", "sve", "bf16", "mps")
"""Abilities of a processor that decide which precision pays; `neon`, `sve` and `bf16` are ARM's."""
PRECISIONS = {"fp32": "float32", "tf32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Arithmetic by name, and the type that tensors then have."""
TF32_SINCE = (8, 0)
"""Compute capability of the first GPUs (Ampere) that multiply fp32 as TF32."""
PEAK_SHAPES = ((64, 64, 24), (32, 64, 48), (64, 128, 24), (128, 128, 12))
"""Convolutions that `convolution_peak` times: channels in, channels out, edge of the maps; 3x3 each, padded."""


@dataclass(frozen=True)
class Gpu:
    """One graphics processor: name, memory in bytes, compute capability (major, minor)."""

    name: str
    memory: int
    capability: tuple[int, int]


@dataclass(frozen=True)
class Machine:
    """What is there: found out, not measured.

    `cores` are those this process may use (affinity and container quota); `features` a part of `FEATURES`; `memory` the bytes it
    may use; `cuda`, `cudnn` and `driver` (NVIDIA's) are "" where there is none.
    """

    cpu: str
    cores: int
    features: tuple[str, ...]
    memory: int
    gpus: tuple[Gpu, ...]
    torch: str
    cuda: str
    cudnn: str
    driver: str
    platform: str
    python: str


def probe() -> Machine:
    """Return what the machine has; nothing is timed."""
    import torch

    gpus = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(index)
            gpus.append(Gpu(found.name, int(found.total_memory), (found.major, found.minor)))
    return Machine(
        cpu=cpu_name(),
        cores=usable_cores(),
        features=cpu_features(),
        memory=limit_bytes(),
        gpus=tuple(gpus),
        torch=str(torch.__version__),
        cuda=str(torch.version.cuda or ""),
        cudnn=str(torch.backends.cudnn.version() or "") if gpus else "",  # type: ignore[no-untyped-call]
        driver=_driver(),
        platform=platform.platform(),
        python=platform.python_version(),
    )


def has_tf32(device: str) -> bool:
    """Return whether `device` ("cpu", "cuda" or "cuda:N") is a GPU that multiplies fp32 as TF32."""
    import torch

    return device.startswith("cuda") and torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= TF32_SINCE


def keep_to_usable_cores() -> None:
    """Keep torch to one thread a usable core at most: it counts the machine's, whatever a container's quota is.

    What OMP_NUM_THREADS says is left as it is.
    """
    import torch

    threads = usable_cores()
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > threads:
        torch.set_num_threads(threads)


@contextmanager
def computing_in(threads: int) -> Iterator[None]:
    """Have torch compute in so many threads, and afterwards in as many as before; 0 changes nothing."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def cpu_name(root: Path = ROOT) -> str:
    """Return the processor's name as the system gives it."""
    if sys.platform == "darwin":
        return _said_by("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor()
    return _cpuinfo(root, "model name") or platform.processor() or platform.machine()


def cpu_features(root: Path = ROOT) -> tuple[str, ...]:
    """Return those of `FEATURES` that the processor has; where the system lists none, those that torch found."""
    listed = set((_cpuinfo(root, "flags") or _cpuinfo(root, "Features")).split())
    if "asimd" in listed:
        listed.add("neon")
    if not listed:
        import torch

        # "DEFAULT", "AVX2", "AVX512" or, on ARM, "NEON", "SVE256".
        best = torch.backends.cpu.get_cpu_capability().lower()
        listed = {"avx2", "avx512f"} if best == "avx512" else {best[:3] if best.startswith("sve") else best}
        if platform.machine() == "arm64":
            listed.add("neon")
        if torch.backends.mps.is_available():
            listed.add("mps")
    return tuple(name for name in FEATURES if name in listed)


def convolution_peak(device: str, precision: str, seconds: float = 1.0) -> float:
    """Return the machine's measured convolution peak in FLOP/s: the best median rate over `PEAK_SHAPES`, forward, channels-last.

    It is the denominator of the share of the peak that a training run reaches; a matrix product may be faster or slower. A
    multiply and an add are two operations, and the zeros of the padding count, as they do where the network's work is counted.

    Parameters
    ----------
    device
        "cpu", "cuda" or "cuda:N".
    precision
        "fp32", "tf32", "bf16" or "fp16": type of tiles, weights and result.
    seconds
        Time for the whole measurement, without one warm-up call a shape.

    Raises
    ------
    UsageProblem
        If there is no such precision.
    MachineProblem
        If the device is not there, or cannot convolve in that precision.
    """
    set_allocator()
    import torch

    if precision not in PRECISIONS:
        raise UsageProblem("a precision", shown(precision), nearest(precision, list(PRECISIONS)))
    kind = getattr(torch, PRECISIONS[precision])
    batch = 64 if device == "cpu" else 512
    rates = []
    try:
        with torch.inference_mode(), torch.backends.cudnn.flags(benchmark=True, allow_tf32=precision == "tf32"):
            for c_in, c_out, edge in PEAK_SHAPES:
                generator = torch.Generator().manual_seed(0)
                x = torch.randn(batch, c_in, edge, edge, generator=generator).to(device, kind, memory_format=torch.channels_last)
                w = torch.randn(c_out, c_in, 3, 3, generator=generator).to(device, kind, memory_format=torch.channels_last)
                flop = 2 * 9 * batch * c_in * c_out * edge * edge
                rates.append(flop / _median_seconds(x, w, seconds / len(PEAK_SHAPES)))
    except (RuntimeError, AssertionError) as error:
        raise MachineProblem(
            f"a device {shown(device)} that convolves in {precision}",
            str(error).splitlines()[0][:200],
            "name another device or precision; `sentinode doctor` lists what is there",
        ) from error
    return max(rates)


def _median_seconds(x: "torch.Tensor", w: "torch.Tensor", seconds: float) -> float:
    """Return the median time of one convolution; calls are timed in packs of some milliseconds, for the clock's sake."""
    import torch
    from torch.nn.functional import conv2d

    def timed(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            conv2d(x, w, padding=1)
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
        return (time.perf_counter() - start) / calls

    timed(1)
    calls = max(1, math.ceil(5e-3 / timed(2)))
    times = [timed(calls)]
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        times.append(timed(calls))
    return statistics.median(times)


def _cpuinfo(root: Path, name: str) -> str:
    """Return the first value of `name` in `/proc/cpuinfo`, or "" where there is no such file or line."""
    try:
        lines = (root / "proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.split(":")[0].strip() == name), "")


def _said_by(*command: str) -> str:
    """Return what a system command prints, or "" where it is not there or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _driver() -> str:
    return (_said_by("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").splitlines() or [""])[0]
