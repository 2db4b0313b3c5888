"""What the system allows this process: cores, and a Linux container's control-group files, version 2 and 1.

A limit may stand at any level above the process, and inside a container the path that the kernel names is often not the one that
is mounted. So every level that can be found is read, from the process's own group up to the root of the mount.
"""

import math
import os
from pathlib import Path, PurePosixPath

ROOT = Path("/")
"""Where the system's files hang; tests hang others elsewhere."""


def control_folders(controller: str, root: Path = ROOT) -> list[Path]:
    """Return the existing control-group folders of this process for `controller` ("memory", "cpu"), innermost first."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    mounts = root / "sys/fs/cgroup"
    found: list[Path] = []
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            tops = [mounts, mounts / "unified"]
        elif controller in controllers.split(","):
            tops = [mounts / controller, mounts / controllers]
        else:
            continue
        path = PurePosixPath(name.lstrip("/"))
        for top in tops:
            found += [folder for level in (path, *path.parents) if (folder := top / level).is_dir() and folder not in found]
    return found


def number(path: Path) -> int | None:
    """Return the whole number that a control file holds, or None where there is no such file, or no limit ("max")."""
    try:
        return int(path.read_text(encoding="utf-8").split()[0])
    except (OSError, ValueError, IndexError):
        return None


def field(path: Path, name: str) -> int:
    """Return the number beside `name` in a control file of `name number` lines; 0 where there is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), 0)


def memory_limits(root: Path = ROOT) -> list[tuple[int, int]]:
    """Return (limit, free) in bytes of every level that has a limit; what the page cache holds counts as free."""
    limits = []
    for folder in control_folders("memory", root):
        limit, used = number(folder / "memory.max"), number(folder / "memory.current")
        prefix = ""
        if limit is None:
            limit, used = number(folder / "memory.limit_in_bytes"), number(folder / "memory.usage_in_bytes")
            prefix = "total_"
        if limit is None or limit <= 0:
            continue
        statistics = folder / "memory.stat"
        cached = field(statistics, prefix + "inactive_file") + field(statistics, prefix + "active_file")
        limits.append((limit, max(0, limit - max(0, (used or 0) - cached))))
    return limits


def cpu_quota(root: Path = ROOT) -> float | None:
    """Return how many cores' worth of time the tightest level allows, or None where nothing is limited."""
    quotas = []
    for folder in control_folders("cpu", root):
        quota, period = number(folder / "cpu.cfs_quota_us"), number(folder / "cpu.cfs_period_us")
        if quota is None and (quota := number(folder / "cpu.max")) is not None:
            period = int((folder / "cpu.max").read_text(encoding="utf-8").split()[1])
        if quota is not None and quota > 0 and period:
            quotas.append(quota / period)
    return min(quotas, default=None)


def usable_cores(root: Path = ROOT) -> int:
    """Return how many cores this process may keep busy: its affinity, cut to whole cores of the container's quota; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(root)
    return cores if quota is None else max(1, min(cores, math.floor(quota)))
