"""How fast a folder's disk takes and gives back: big blocks, the way a store is written and read."""

import os
import tempfile
import time
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
            cold = hasattr(os, "posix_fadvise")
            if cold:
                os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        start = time.perf_counter()
        with path.open("rb", buffering=0) as handle:
            while handle.read(BLOCK):
                pass
        read = time.perf_counter() - start
    return DiskSpeed(write=blocks * BLOCK / written, read=blocks * BLOCK / read, read_cold=cold)
