"""When and under which conditions each rung was trained, attempt by attempt: minutes are worth what is known of how they came about.

DIR/conditions/NAME.json holds one entry an attempt, written before it begins and again when it ends. An attempt without seconds was
killed. A ladder that is opened next week then still says on which machine, under what load and from which code its rungs came.
"""

import os
import platform
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sentinode.fit.record import versions
from sentinode.machine.probe import probe
from sentinode.run import read_json, write_json

Attempts = list[dict[str, Any]]


def conditions() -> dict[str, Any]:
    """Return what minutes depend on: the time, machine, threads, load, versions, and the commit where the code is a checkout."""
    return {
        "started": now(),
        "machine": asdict(probe()),
        "threads": torch.get_num_threads(),
        "load_average": load(),
        "versions": versions() | {"python": platform.python_version()},
        **commit_of(Path(__file__).parents[3]),
    }


def now() -> str:
    """Return the time, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def load() -> list[float] | None:
    """Return how many processes wanted a core in the last 1, 5 and 15 minutes, where the system says."""
    return [round(one, 2) for one in os.getloadavg()] if hasattr(os, "getloadavg") else None


def commit_of(root: Path) -> dict[str, Any]:
    """Return the commit that is checked out at `root` and whether files differ from it; "" where there is no checkout or no git."""
    if not (root / ".git").exists():
        return {"commit": "", "changed": False}
    said = []
    for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return {"commit": "", "changed": False}
        said.append(done.stdout.strip())
    return {"commit": said[0], "changed": bool(said[1])}


def attempts_at(folder: Path, name: str) -> Attempts:
    """Return what was noted of the attempts at a rung, the first one first; none where nothing was noted."""
    path = folder / "conditions" / f"{name}.json"
    return list(read_json(path)["attempts"]) if path.exists() else []


@contextmanager
def attempt(folder: Path, name: str, features: Sequence[Path] = ()) -> Iterator[None]:
    """Note an attempt at a rung: its conditions before, its seconds after, and how many tiles its `features` folders gained."""
    path, before = folder / "conditions" / f"{name}.json", attempts_at(folder, name)
    this, there, began = conditions() | {"seconds": None}, tiles_in(features), time.perf_counter()
    write_json(path, {"attempts": [*before, this]})
    try:
        yield
    finally:
        this["seconds"] = round(time.perf_counter() - began, 2)
        this |= {"ended": now(), "load_average_at_end": load(), "extracted": tiles_in(features) - there}
        write_json(path, {"attempts": [*before, this]})


def tiles_in(features: Sequence[Path]) -> int:
    """Return how many tiles have whole features, of all networks together: the first bytes of each file say so."""
    files = [path for folder in features for path in folder.glob("*/features.npy")]
    return sum(len(np.load(path, mmap_mode="r", allow_pickle=False)) for path in files)


def extracted_all(attempts: Attempts, needed: int) -> bool:
    """Return whether the attempts extracted all `needed` tiles that a backbone trains and chooses on: their seconds hold it then."""
    return sum(int(one.get("extracted", 0)) for one in attempts) >= needed


def seconds_of(cost: dict[str, Any], attempts: Attempts, needed: int) -> tuple[float, str]:
    """Return the seconds that a run took over all its attempts, and what they lack ("" nothing).

    A network's cost goes on where its checkpoint stood. A head on frozen features has none: its earlier attempts are added here, and
    it lacks what somebody else extracted of the `needed` tiles, and what was killed with its time.
    """
    if "cached" not in cost:
        return float(cost["seconds"]), ""
    earlier = attempts[:-1]
    seconds = cost["seconds"] + sum(one["seconds"] or 0.0 for one in earlier)
    if any(one["seconds"] is None for one in earlier):
        return seconds, "an attempt was killed before its time could be noted"
    if cost["cached"] if not attempts else not extracted_all(attempts, needed):
        return seconds, "its features were there already, extracted by other work"
    return seconds, ""
