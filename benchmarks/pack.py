"""Packing the Kaggle folder, beside a loop of Pillow open + numpy array and one np.save of them all.

Inside the clock is the whole function in a process that has imported everything, files warm. Ours also checks every file, digests
every tile and the whole, reads labels and writes the table of rows; the peer writes the array alone. It runs once more in a process
with our allocator settings, reading in as many threads as ours does.
"""

import functools
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from benchmarks.clock import Measured, in_turn, ratio
from benchmarks.peers import pillow_pack
from benchmarks.records import Record, conditions, figure
from benchmarks.suite import finish, parser, turns
from benchmarks.workers import Worker, serve
from sentinode.limits import usable_cores


def same_pixels(store: Path, saved: Path) -> bool:
    """Return whether both hold the same tiles, whatever their order."""
    ours, theirs = np.load(store / "tiles.npy", mmap_mode="r"), np.load(saved, mmap_mode="r")
    return ours.shape == theirs.shape and sorted(t.tobytes() for t in ours) == sorted(t.tobytes() for t in theirs)


def peer(kaggle: Path, out: Path, threads: int = 1) -> Measured:
    """Pack as the peer does."""
    start = time.perf_counter()
    n = pillow_pack(kaggle, out, threads)
    return {"seconds": time.perf_counter() - start, "n": n}


def child(kaggle: Path, out: Path) -> None:
    """Serve the peer with every switch."""
    from sentinode.machine.memory import set_allocator

    set_allocator()
    serve(functools.partial(peer, kaggle, out, usable_cores()))


def main() -> None:
    import sentinode

    given = parser(__doc__ or "", repeats=10)
    given.add_argument(
        "--worker", type=Path, metavar="FILE", help="be the child that is the peer with every switch and writes FILE"
    )
    options = given.parse_args()
    kaggle, started = options.tiles / "kaggle", conditions(repeats=options.repeats, page_cache="warm")
    if options.worker:
        child(kaggle, options.worker)
        return
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder, count = Path(name), 0

        def ours() -> Measured:
            nonlocal count
            count += 1
            start = time.perf_counter()
            sentinode.pack(kaggle, out=folder / f"{count}.store", quiet=True)
            seconds = time.perf_counter() - start
            return {"seconds": seconds, "n": len(np.load(folder / f"{count}.store" / "tiles.npy", mmap_mode="r"))}

        variants = {
            "sentinode": ours,
            "pillow": functools.partial(peer, kaggle, folder / "peer.npy"),
            "pillow-switches": stack.enter_context(
                Worker("benchmarks.pack", "--tiles", str(options.tiles), "--worker", str(folder / "switches.npy"))
            ),
        }
        for run in variants.values():
            run()
        if not all(same_pixels(folder / "1.store", folder / saved) for saved in ("peer.npy", "switches.npy")):
            sys.exit("expected the same pixels from both; found others; the figures would compare different work")
        raw = in_turn(variants, turns(options))
    record = Record(
        suite="pack",
        clock="the whole function, in a process that has imported everything; files warm; one untimed run of each before",
        variants={
            "sentinode": "sentinode pack",
            "pillow": "Pillow open + numpy array in a loop, np.stack, np.save",
            "pillow-switches": "the same in a thread a core, with our allocator settings",
        },
        raw=raw,
        figures={
            "speedup": figure(ratio(raw, "sentinode", "pillow"), "x", bar=8),
            "speedup_switches": figure(ratio(raw, "sentinode", "pillow-switches"), "x"),
        },
        conditions=started | {"n": raw["pillow"][0]["n"]},
        notes=["All gave the same pixels, compared tile by tile."],
    )
    finish(record, options)


if __name__ == "__main__":
    main()
