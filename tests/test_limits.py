"""Container limits are found at every level, in both versions of the control groups; files are made as the kernel writes them."""

import os
from pathlib import Path

from sentinode.limits import control_folders, cpu_quota, memory_limits, usable_cores


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def test_without_control_groups_nothing_is_limited(tmp_path: Path) -> None:
    assert (control_folders("memory", tmp_path), memory_limits(tmp_path), cpu_quota(tmp_path)) == ([], [], None)


def test_version_2_counts_the_page_cache_as_free(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/a/b/"
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/a/b\n",
            group + "memory.max": "1000\n",
            group + "memory.current": "700\n",
            group + "memory.stat": "anon 300\ninactive_file 250\nactive_file 50\n",
            group + "cpu.max": "150000 100000\n",
        },
    )
    assert memory_limits(root) == [(1000, 600)]
    assert cpu_quota(root) == 1.5


def test_a_level_above_may_be_the_tighter_one(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/b/memory.max": "max\n",
            "sys/fs/cgroup/a/b/memory.current": "10\n",
            "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
            "sys/fs/cgroup/a/memory.max": "500\n",
            "sys/fs/cgroup/a/memory.current": "100\n",
            "sys/fs/cgroup/a/cpu.max": "50000 100000\n",
        },
    )
    assert memory_limits(root) == [(500, 400)]
    assert cpu_quota(root) == 0.5


def test_version_1_and_a_path_that_is_not_mounted(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "4096\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "4000\n",
            "sys/fs/cgroup/memory/memory.stat": "inactive_file 1\ntotal_inactive_file 96\ntotal_active_file 4\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "300000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
    )
    assert memory_limits(root) == [(4096, 196)]
    assert cpu_quota(root) == 3.0


def test_version_1_writes_no_quota_as_minus_one(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "2:cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    assert cpu_quota(root) is None


def test_cores_are_those_of_the_affinity_cut_by_the_quota(tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert usable_cores(tmp_path) == cores
    write(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"})
    assert usable_cores(tmp_path) == 1
