"""Peak memory of `pack` and `train` as the number of tiles grows tenfold: flat, apart from the tiles that are held resident.

Synthetic tiles, each job in a process of its own. What is measured is the most memory the process had resident, imports included;
and the most of it that was its own, without the pages of mapped files, which the system takes back when it needs them (looked at
every 20 ms, Linux only). `train` runs for --minutes: once with the tiles held in memory, once gathered from disk.
"""

import argparse
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.records import Figure, Record, conditions
from benchmarks.suite import finish, parser
from benchmarks.synthetic import BYTES, write_folder
from benchmarks.workers import once, serve
from sentinode.limits import field

JOBS = ("pack", "train-resident", "train-from-disk")
"""What is measured."""
FLAT = 1.1
"""How much the peak may grow, apart from resident tiles, to count as flat while the tiles grow tenfold."""


def child(job: str, folder: Path, minutes: float) -> None:
    """Do one job and say what it took."""

    def work() -> dict[str, Any]:
        import sentinode
        from sentinode.machine.memory import peak_bytes

        start, imported = time.perf_counter(), peak_bytes()
        with OwnMemory() as own:
            if job == "pack":
                sentinode.pack(folder / "kaggle", out=folder / "tiles.store", quiet=True)
            else:
                held = "yes" if job == "train-resident" else "no"
                settings = {"model": "simple-cnn", "sample": "100%", "minutes": minutes, "resident": held}
                sentinode.train(folder / "tiles.store", out=folder / job, quiet=True, **settings)
        seconds = time.perf_counter() - start
        return {"job_seconds": seconds, "peak_bytes": peak_bytes(), "own_bytes": own.peak, "imported_bytes": imported}

    serve(work)


class OwnMemory:
    """Watches, from a thread, how much memory of this process is no page of a mapped file; `peak` stays 0 where none can say."""

    def __init__(self) -> None:
        self.peak = 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        status = Path("/proc/self/status")
        while status.exists() and not self.over.wait(0.02):
            self.peak = max(self.peak, field(status, "RssAnon:") * 1024)

    def __enter__(self) -> "OwnMemory":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()


def growth(small: dict[str, Any], large: dict[str, Any], resident: bool, kind: str) -> float:
    """Return how many times larger the second peak is once the tiles that are held in memory are taken from both."""
    held = [m["n"] * BYTES if resident else 0 for m in (small, large)]
    return float((large[kind] - held[1]) / (small[kind] - held[0]))


def measure(options: argparse.Namespace) -> Record:
    """Run every job at both sizes."""
    sizes = (300, 3000) if options.quick else (options.n // 10, options.n)
    started = conditions(n=list(sizes), minutes=options.minutes, tile_bytes=BYTES)
    raw: dict[str, list[dict[str, Any]]] = {job: [] for job in JOBS}
    for n in sizes:
        with tempfile.TemporaryDirectory(dir=options.scratch) as name:
            write_folder(Path(name) / "kaggle", n)
            for job in JOBS:
                minutes = 0.1 if options.quick else options.minutes
                arguments = ("--worker", job, "--scratch", name, "--minutes", str(minutes))
                raw[job].append(once("benchmarks.memory", *arguments) | {"n": n})
                print(f"  {n:,} tiles, {job}: {raw[job][-1]['peak_bytes'] / 1e6:,.0f} MB", flush=True)
    figures: dict[str, Figure] = {}
    for job in JOBS:
        small, large = raw[job]
        for size, measured in (("small", small), ("large", large)):
            value = measured["peak_bytes"] / 1e6
            figures[f"{job}_{size}"] = Figure(value, f"{value:,.0f} MB at {measured['n']:,} tiles", "MB")
        apart = " apart from the resident tiles" if job == "train-resident" else ""
        for kind, words in (("peak_bytes", "growth"), ("own_bytes", "own_growth")):
            value = growth(small, large, job == "train-resident", kind) if small[kind] else 0.0
            bar = FLAT if kind == "own_bytes" else None
            figures[f"{job}_{words}"] = Figure(value, f"{value:.2f}x{apart}", "x", bar, higher_is_better=False)
    return Record(
        suite="memory",
        clock="not time: peak resident memory of a whole process, imports and mapped files included",
        variants={},
        raw=raw,
        figures=figures,
        conditions=started,
        notes=[
            f"Resident tiles are {BYTES:,} bytes each; training holds those that train and those that choose.",
            "own: without pages of mapped files, which the system takes back when it needs them.",
        ],
    )


def main() -> None:
    options = parser(__doc__ or "", repeats=1, tiles=False)
    options.add_argument("--n", type=int, default=220_000, help="the larger number of tiles (220,000, as many as Kaggle's)")
    options.add_argument("--minutes", type=float, default=5.0, help="training stops after this long (5)")
    options.add_argument("--scratch", type=Path, help="folder on a disk with room for 60 kB a tile; default: the system's")
    options.add_argument("--worker", choices=JOBS, help="be the child that does this job")
    chosen = options.parse_args()
    if chosen.worker:
        child(chosen.worker, chosen.scratch, chosen.minutes)
        return
    finish(measure(chosen), chosen)


if __name__ == "__main__":
    main()
