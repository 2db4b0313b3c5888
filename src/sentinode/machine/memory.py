"""How much memory there is, how much of it this process may take and has taken, and how blocks of it are handed out. No torch.

What libraries say where none is left is turned into one line here, too.
Linux is read from `/proc` and the control groups, Windows through its own calls, macOS through `sysconf` and `vm_stat`.
"""

import ctypes
import errno
import functools
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sentinode.errors import MachineProblem
from sentinode.limits import ROOT, field, memory_limits

MALLOC_SETTINGS = {-3: 1 << 30, -1: 2**31 - 1, -2: 64 << 20}
"""glibc: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD. Big blocks then stay with the process instead of going back to the system
after every step and being paged in again, which costs a training step on a CPU a third to a half of its time."""

EXHAUSTED = (
    *("not enough memory", "can't allocate memory", "cannot allocate memory", "out of memory", "alloc_failed", "bad_alloc"),
    *("bad allocation", "size calculation overflowed", "array is too big", "maximum allowed dimension"),
)
"""What torch (CPU and GPU), numpy, OpenVINO and C++ say, in lower case, where memory has no room for what was asked for."""
ASKED = re.compile(r"allocate ([0-9.]+) ?([KMGTPE]i?B|bytes)", re.IGNORECASE)
"""How much was asked for, in what most of them say."""


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory was too small: Python's, numpy's, the system's, or torch's, known by its words."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    said = str(error).lower()
    # The whole sentence: with more words behind it, oneDNN means something else. Seen where an address space was full.
    exhausted = said == "could not create a primitive" or any(words in said for words in EXHAUSTED)
    return isinstance(error, (RuntimeError, ValueError)) and exhausted


@contextmanager
def memory_problems(do: str = "use a smaller --batch, --micro-batch or --input-size, or free some memory") -> Iterator[None]:
    """Turn what libraries say where memory is too small into an error in three parts; `do` is the third. Also a decorator."""
    try:
        yield
    except (MemoryError, RuntimeError, ValueError, OSError) as error:
        if not out_of_memory(error):
            raise
        asked = ASKED.search(str(error))
        amount = f"{size_of(asked)} asked for at once" if asked else "more asked for than there is"
        gpu = "cuda" in str(error).lower() or "cublas" in str(error).lower()
        where = "that of the GPU" if gpu else f"{available_bytes() / 1e9:.1f} GB free"
        raise MachineProblem("memory enough for the work", f"{amount} ({where})", do) from error


class _Refusal:
    """How many are inside `refusing` in this process, and the limit as the first of them found it."""

    def __init__(self) -> None:
        self.lock, self.users, self.before = threading.Lock(), 0, (0, 0)


_REFUSAL = _Refusal()


@contextmanager
def refusing(device: str = "cpu", root: Path = ROOT) -> Iterator[None]:
    """Have the system refuse what a container's limit has no room for, where otherwise the kernel would kill the process.

    A refused allocation can be met with fewer tiles at a time. Only for work on a CPU, on Linux, in a container that has a limit.
    Threads and calls within calls share it: the first sets what the last takes back.
    """
    if device != "cpu" or not sys.platform.startswith("linux") or limit_bytes(root) >= _physical_bytes(root):
        yield
        return
    import resource

    with _REFUSAL.lock:
        if not _REFUSAL.users:
            before = _REFUSAL.before = resource.getrlimit(resource.RLIMIT_DATA)
            held = field(Path("/proc/self/status"), "VmData:") * 1024
            known = [limit for limit in before if limit != resource.RLIM_INFINITY]
            resource.setrlimit(resource.RLIMIT_DATA, (min([held + available_bytes(root), *known]), before[1]))
        _REFUSAL.users += 1
    try:
        yield
    finally:
        with _REFUSAL.lock:
            _REFUSAL.users -= 1
            if not _REFUSAL.users:
                resource.setrlimit(resource.RLIMIT_DATA, _REFUSAL.before)


def size_of(asked: re.Match[str]) -> str:
    """Return how much was asked for, as a reader can compare it with what is free: plain bytes from a megabyte on are told in GB."""
    amount, unit = asked.groups()
    return f"{float(amount) / 1e9:,.3f} GB" if unit == "bytes" and float(amount) >= 1e6 else f"{amount} {unit}"


@functools.cache
def set_allocator() -> bool:
    """Tell glibc to keep big blocks; return whether it agreed. Call before the first tensor. Elsewhere nothing is done."""
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    # musl has neither; a preloaded jemalloc leaves glibc's symbols in place and is not touched by them.
    if not hasattr(library, "gnu_get_libc_version") or not hasattr(library, "mallopt"):
        return False
    agreed = [library.mallopt(name, value) == 1 for name, value in MALLOC_SETTINGS.items()]
    return all(agreed)


def limit_bytes(root: Path = ROOT) -> int:
    """Return the bytes of memory this process may ever use: the container's limit or the machine's memory."""
    return min([_physical_bytes(root), *(limit for limit, _ in memory_limits(root))])


def available_bytes(root: Path = ROOT) -> int:
    """Return the bytes that can be taken now without swapping or being killed; the page cache counts as available."""
    return min([_free_bytes(root), *(free for _, free in memory_limits(root))])


def peak_bytes(root: Path = ROOT) -> int:
    """Return the most memory, in bytes, that this process has had resident so far (pages of mapped files included)."""
    if sys.platform == "win32":
        return _windows_peak()
    # Not ru_maxrss first: Linux hands that one on from the parent through exec.
    high = field(root / "proc/self/status", "VmHWM:") * 1024
    if high:
        return high
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024


def peak_gpu_bytes(device: str) -> int:
    """Return the most memory, in bytes, that torch has taken of a GPU so far; 0 for a CPU."""
    import torch

    return torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else 0


def _physical_bytes(root: Path) -> int:
    if sys.platform == "win32":
        return _windows_memory()[0]
    total = field(root / "proc/meminfo", "MemTotal:") * 1024
    return total or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _free_bytes(root: Path) -> int:
    if sys.platform == "win32":
        return _windows_memory()[1]
    if sys.platform == "darwin":
        return free_of_vm_stat(subprocess.run(["vm_stat"], capture_output=True, text=True, check=True).stdout)
    free = field(root / "proc/meminfo", "MemAvailable:") * 1024
    return free or os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def free_of_vm_stat(text: str) -> int:
    """Return the available bytes that macOS's `vm_stat` reports: free, inactive, speculative and purgeable pages."""
    page = int(text.split("page size of ")[1].split()[0])
    pages = dict(line.split(":", 1) for line in text.splitlines()[1:] if ":" in line)
    kinds = ("Pages free", "Pages inactive", "Pages speculative", "Pages purgeable")
    return page * sum(int(pages.get(kind, "0").strip().rstrip(".")) for kind in kinds)


if sys.platform == "win32":
    from ctypes import wintypes

    class _MemoryStatus(ctypes.Structure):
        """MEMORYSTATUSEX."""

        _fields_ = (
            ("length", wintypes.DWORD),
            ("load", wintypes.DWORD),
            ("total", ctypes.c_uint64),
            ("available", ctypes.c_uint64),
            ("others", ctypes.c_uint64 * 5),
        )

    class _ProcessMemory(ctypes.Structure):
        """PROCESS_MEMORY_COUNTERS."""

        _fields_ = (
            ("length", wintypes.DWORD),
            ("faults", wintypes.DWORD),
            ("peak", ctypes.c_size_t),
            ("others", ctypes.c_size_t * 7),
        )

    def _windows_memory() -> tuple[int, int]:
        status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
        if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
            raise ctypes.WinError()
        return status.total, status.available

    def _windows_peak() -> int:
        kernel = ctypes.windll.kernel32
        kernel.GetCurrentProcess.restype = wintypes.HANDLE
        kernel.K32GetProcessMemoryInfo.argtypes = (wintypes.HANDLE, ctypes.POINTER(_ProcessMemory), wintypes.DWORD)
        counters = _ProcessMemory(length=ctypes.sizeof(_ProcessMemory))
        if not kernel.K32GetProcessMemoryInfo(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.length):
            raise ctypes.WinError()
        return counters.peak
