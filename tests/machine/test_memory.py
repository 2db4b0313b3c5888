"""Memory figures agree with what the system says by another way, and with containers made of files."""

import os
import platform
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sentinode.errors import MachineProblem
from sentinode.machine.memory import (
    available_bytes,
    free_of_vm_stat,
    limit_bytes,
    memory_problems,
    peak_bytes,
    refusing,
    set_allocator,
)

MIB = 1 << 20


def fake(root: Path, limit: str, used: int) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemTotal: 8192 kB\nMemFree: 1 kB\nMemAvailable: 4096 kB\n", encoding="utf-8")
    (root / "proc/self/cgroup").write_text("0::/\n", encoding="utf-8")
    (root / "sys/fs/cgroup").mkdir(parents=True)
    (root / "sys/fs/cgroup/memory.max").write_text(limit, encoding="utf-8")
    (root / "sys/fs/cgroup/memory.current").write_text(str(used), encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [("max", 0, (8 * MIB, 4 * MIB)), (str(2 * MIB), MIB, (2 * MIB, MIB)), (str(1 << 40), 0, (8 * MIB, 4 * MIB))],
)
def test_the_smaller_of_container_and_machine_counts(tmp_path: Path, limit: str, used: int, expected: tuple[int, int]) -> None:
    root = fake(tmp_path, limit, used)
    assert (limit_bytes(root), available_bytes(root)) == expected


def test_limit_and_available_of_this_machine_are_ordered() -> None:
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 1 << 50
    assert 0 < available_bytes() <= limit_bytes() <= physical


def test_the_peak_is_what_the_system_bills_a_child_for() -> None:
    """A process that touched 200 MiB and gave them back says so, and so does the resource usage that the parent sees."""
    code = (
        "import resource; from sentinode.machine.memory import peak_bytes; before = peak_bytes(); block = bytearray(200 << 20); "
        "block[::4096] = b'1' * len(block[::4096]); del block; "
        "print(before, peak_bytes(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after, billed = map(int, done.stdout.split())
    assert 195 * MIB <= after - before < 230 * MIB
    if sys.platform.startswith("linux"):
        # The bill may include what the parent had before exec, never less than the child's own.
        assert after <= billed * 1024 + 2 * MIB


def test_the_peak_never_falls() -> None:
    first = peak_bytes()
    assert 0 < first <= peak_bytes()


def test_without_the_status_file_the_bill_is_taken(tmp_path: Path) -> None:
    assert peak_bytes(tmp_path) >= peak_bytes() - 2 * MIB


def test_big_blocks_stay_with_the_process_once_the_allocator_is_set() -> None:
    """Without the settings, glibc maps a 64 MiB block and every new one faults its 16,384 pages in again; with them, once."""
    code = """
import ctypes, resource, sys
from sentinode.machine.memory import set_allocator
agreed = set_allocator() if sys.argv[1] == "set" else False
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, (ctypes.c_size_t,), (ctypes.c_void_p,)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    block = libc.malloc(64 << 20); ctypes.memset(block, 1, 64 << 20); libc.free(block)
print(int(agreed), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

    def faults(mode: str) -> tuple[int, int]:
        done = subprocess.run([sys.executable, "-c", code, mode], capture_output=True, text=True, check=True)
        agreed, count = map(int, done.stdout.split())
        return agreed, count

    if platform.libc_ver()[0] == "glibc":
        (agreed, kept), (_, given_back) = faults("set"), faults("default")
        assert agreed == 1
        assert kept * 2 < given_back
    else:
        assert set_allocator() is False


def test_memory_needs_no_torch() -> None:
    code = "import sys, sentinode.machine.memory as m; m.set_allocator(); m.available_bytes(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="control groups are Linux's")
def test_threads_and_calls_within_calls_share_a_containers_limit(tmp_path: Path) -> None:
    """One that enters later and leaves later than another must not take its limit for that of before."""
    import resource

    root = fake(tmp_path, str(1 << 50), 0)
    (root / "proc/meminfo").write_text(f"MemTotal: {1 << 42} kB\nMemAvailable: {1 << 42} kB\n", encoding="utf-8")
    before = resource.getrlimit(resource.RLIMIT_DATA)
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with refusing("cpu", root):
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=other)
    with refusing("cpu", root):
        limit = resource.getrlimit(resource.RLIMIT_DATA)
        assert limit != before
        thread.start()
        assert entered.wait(30)
        with refusing("cpu", root):
            pass
        assert resource.getrlimit(resource.RLIMIT_DATA) == limit, "the outer one is not done yet"
    assert resource.getrlimit(resource.RLIMIT_DATA) == limit, "the thread is not done yet"
    leave.set()
    thread.join()
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_vm_stat_of_a_mac_is_understood() -> None:
    text = (
        "Mach Virtual Memory Statistics: (page size of 16384 bytes)\nPages free:                               10.\n"
        "Pages active:                            900.\nPages inactive:                           20.\n"
        "Pages speculative:                         3.\nPages purgeable:                           7.\n"
        '"Translation faults":                 123456.\n'
    )
    assert free_of_vm_stat(text) == 40 * 16384


@pytest.mark.parametrize(
    ("asks", "amount"),
    [
        (lambda: np.empty(1 << 50), "8.00 PiB asked for at once"),
        (lambda: torch.empty(1 << 50), "4,503,599.627 GB asked for at once"),
        (lambda: bytearray(1 << 60), "more asked for than there is"),
        (lambda: np.empty((1 << 40, 1 << 40)), "more asked for than there is"),
        (lambda: torch.empty(1, 3, 2 * 10**9, 2 * 10**9), "more asked for than there is"),
    ],
)
def test_real_requests_beyond_all_memory_are_told_in_three_parts(asks: Callable[[], object], amount: str) -> None:
    with pytest.raises(MachineProblem) as caught, memory_problems():
        asks()
    assert caught.value.expected == "memory enough for the work"
    assert caught.value.found.startswith(amount)
    assert caught.value.found.endswith("GB free)")
    assert "--input-size" in caught.value.do


def test_a_gpu_that_is_full_is_told_apart_and_other_errors_are_left_alone() -> None:
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 8 GiB")
    with (
        pytest.raises(MachineProblem, match=r"found 2.50 GiB asked for at once \(that of the GPU\); use less"),
        memory_problems("use less"),
    ):
        raise full
    for error in (RuntimeError("shapes do not match"), ValueError("no such value"), OSError(2, "No such file")):
        with pytest.raises(type(error), match=str(error.args[-1])), memory_problems():
            raise error
