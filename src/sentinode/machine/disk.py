"""How fast a disk takes and gives back: big blocks, the way a store is written, and pieces here and there, the way it is trained on."""

import os
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sentinode.run import disk_problems

BLOCK = 8 << 20
"""Bytes written or read at once."""


@dataclass(frozen=True)
class DiskSpeed:
    """Bytes per second. `read_cold` is False where the system would not forget the file, so that memory was read and not the disk."""

    write: float
    read: float
    read_cold: bool


def disk_speed(folder: Path, size: int = 64 << 20) -> DiskSpeed:
    """Write, flush and read back `size` bytes in `folder`; the file is removed. MachineProblem for a full or unwritable disk."""
    block = os.urandom(BLOCK)
    blocks = max(1, size // BLOCK)
    with disk_problems(folder), tempfile.TemporaryDirectory(dir=folder) as name:
        path = Path(name) / "blocks"
        start = time.perf_counter()
        with path.open("wb", buffering=0) as handle:
            for _ in range(blocks):
                handle.write(block)
            os.fsync(handle.fileno())
            written = time.perf_counter() - start
            cold = forgotten(handle.fileno(), 0, 0)
        start = time.perf_counter()
        with path.open("rb", buffering=0) as handle:
            while handle.read(BLOCK):
                pass
        read = time.perf_counter() - start
    return DiskSpeed(write=blocks * BLOCK / written, read=blocks * BLOCK / read, read_cold=cold)


def forgotten(file: int, start: int, length: int) -> bool:
    """Have the system forget `length` bytes of an open file from `start` on (0: all), so that they are read anew; False if it cannot."""
    if not hasattr(os, "posix_fadvise"):
        return False
    os.posix_fadvise(file, start, length, os.POSIX_FADV_DONTNEED)
    return True


def scattered_speed(path: Path, places: Iterable[int], size: int, seconds: float = 0.5) -> tuple[float, bool]:
    """Read `size` bytes at each of `places` of a file, for at most `seconds`; return how many pieces a second, and whether cold.

    Only what is read is forgotten before. Raises OSError.
    """
    read, spent, cold = 0, 0.0, False
    began = time.perf_counter()
    with path.open("rb", buffering=0) as handle:
        for place in places:
            cold = forgotten(handle.fileno(), place, size)
            handle.seek(place)
            start = time.perf_counter()
            handle.read(size)
            now = time.perf_counter()
            read, spent = read + 1, spent + now - start
            if now - began >= seconds:
                break
    return read / max(spent, 1e-9), cold
