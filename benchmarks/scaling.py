"""How the main jobs scale: tiles a second as the tiles grow from 1,000 to 220,000, on one core and on two.

Inside the clock is of `pack` reading and checking every TIFF of a Kaggle folder; of `train` steps of the simple CNN on batches drawn
from all tiles, which are held in memory (at most 150 steps; feed, augmentation and optimiser included, validation not); of
`predict` a whole table of scores over one view in fp32, the network's loading included. Random tiles, which take the time of real ones.
Each measurement is a process of its own, kept on its cores by the system before torch is imported.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.clock import Measured, rate, spread
from benchmarks.records import Figure, Record, conditions, figure
from benchmarks.suite import clock_of, finish, parser, turns
from benchmarks.synthetic import write_folder
from benchmarks.workers import once, serve
from sentinode.report.style import FLOOR, MODEL, look, new_figure, save

JOBS = ("pack", "train", "predict")
"""What is measured, in this order: each works on what the one before left."""
SIZES, QUICK_SIZES, CORES = (1_000, 10_000, 100_000, 220_000), (300, 3_000), (1, 2)
STEPS = 150
"""Steps of training that are timed."""


def child(job: str, home: Path, cores: int) -> None:
    """Do one job on so many cores and say what it took."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])

    def work() -> Measured:
        import sentinode

        store = home / "tiles.store"
        if job == "train":
            from benchmarks.ours import training

            return training(store, precision="auto", recipe="default", steps=STEPS)[0]()
        start = time.perf_counter()
        if job == "pack":
            n = len(sentinode.pack(home / "kaggle", out=store, overwrite=True, quiet=True).rows)
        else:
            options: dict[str, Any] = {"precision": "fp32", "overwrite": True, "quiet": True}  # one arithmetic for all sizes
            n = len(sentinode.predict(home / "run", store, out=home / "scores.parquet", **options))
        return {"seconds": time.perf_counter() - start, "n": n}

    serve(work)


def measure(options: argparse.Namespace) -> Record:
    """Measure every job at every size on every number of cores, in turn."""
    import sentinode

    sizes = [n for n in (QUICK_SIZES if options.quick else SIZES) if n <= options.n]
    repeats = turns(options)
    cores = [count for count in CORES if count <= (os.cpu_count() or 1)]
    started = conditions(n=sizes, cores=cores, repeats=repeats, steps=STEPS, network="simple-cnn, 96 px")
    raw: dict[str, list[dict[str, Any]]] = {f"{job}_{n}_{count}": [] for n in sizes for job in JOBS for count in cores}
    for n in sizes:
        with tempfile.TemporaryDirectory(dir=options.scratch) as name:
            home = Path(name)
            write_folder(home / "kaggle", n)
            store = sentinode.pack(home / "kaggle", out=home / "tiles.store", quiet=True)
            sentinode.train(store, out=home / "run", epochs=1, sample="128", quiet=True)
            for turn in range(repeats):
                for job in JOBS:
                    for count in cores[:: -1 if turn % 2 else 1]:  # whoever comes first may find files or caches cold
                        found = once("benchmarks.scaling", "--worker", job, "--scratch", name, "--cores", str(count))
                        raw[f"{job}_{n}_{count}"].append(found)
                        print(f"  {n:,} tiles, {job}, {count} cores: {rate(found):,.0f} tiles/s", flush=True)
    return Record(
        suite="scaling",
        clock=clock_of(__doc__ or ""),
        variants={},
        raw=raw,
        figures=figures_of(raw, sizes, cores),
        conditions=started,
        notes=["A core here is what the system calls one: it may be one of two threads of a physical core."],
    )


def figures_of(raw: dict[str, list[dict[str, Any]]], sizes: list[int], cores: list[int]) -> dict[str, Figure]:
    """Return each rate; what the second core brings; and how the rate of the most tiles compares with that of the fewest."""
    figures = {name: figure(spread([rate(m) for m in turns]), " tiles/s", digits=0) for name, turns in raw.items()}
    for job in JOBS:
        most, few, all_cores = sizes[-1], sizes[0], cores[-1]
        for n in sizes:
            if len(cores) > 1:
                gain = [rate(a) / rate(b) for a, b in zip(raw[f"{job}_{n}_{all_cores}"], raw[f"{job}_{n}_1"], strict=True)]
                figures[f"{job}_{n}_cores"] = figure(spread(gain), "x")
        kept = [rate(a) / rate(b) for a, b in zip(raw[f"{job}_{most}_{all_cores}"], raw[f"{job}_{few}_{all_cores}"], strict=True)]
        figures[f"{job}_growth"] = figure(spread(kept), "x")
    return figures


def draw(record: Record, out: Path) -> None:
    """Draw tiles a second against tiles, a panel a job, a line a number of cores, as scaling.svg and scaling.png."""
    sizes, cores = record.conditions["n"], record.conditions["cores"]
    with look():
        picture = new_figure((7.2, 2.6))
        for at, job in enumerate(JOBS, 1):
            axes = picture.add_subplot(1, len(JOBS), at)
            for count, colour, mark in zip(cores, (FLOOR, MODEL), "so", strict=False):
                rates = [record.figures[f"{job}_{n}_{count}"].value for n in sizes]
                axes.plot(sizes, rates, mark + "-", color=colour, ms=4, label=f"{count} core{'s' * (count > 1)}")
            axes.set_xscale("log")
            axes.set_xticks(sizes, [f"{n / 1000:g}k" for n in sizes], rotation=45)
            axes.minorticks_off()
            axes.set_ylim(bottom=0)
            axes.set_title(job)
            axes.set_xlabel("tiles")
        picture.axes[0].set_ylabel("tiles/s")
        picture.axes[0].legend(loc="lower right")
        save(picture, out, "scaling")


def main() -> None:
    options = parser(__doc__ or "", repeats=2, tiles=False)
    options.add_argument("--n", type=int, default=SIZES[-1], help="the largest number of tiles (220,000, as many as Kaggle's)")
    options.add_argument("--scratch", type=Path, help="folder on a disk with room for 60 kB a tile; default: the system's")
    options.add_argument("--worker", choices=JOBS, help="be the child that does this job")
    options.add_argument("--cores", type=int, help="the child's cores")
    chosen = options.parse_args()
    if chosen.worker:
        child(chosen.worker, chosen.scratch, chosen.cores)
        return
    finish(measure(chosen), chosen, draw)


if __name__ == "__main__":
    main()
