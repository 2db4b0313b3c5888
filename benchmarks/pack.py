"""Packing the Kaggle folder, beside a loop of Pillow open + numpy array and one np.save of them all.

Inside the clock is the whole function in a process that has imported everything, files warm. Ours also checks every file, digests
every tile and the whole, reads labels and writes the table of rows; the peer writes the array alone.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.clock import Measured, in_turn, ratio
from benchmarks.peers import pillow_pack
from benchmarks.records import Record, conditions, figure
from benchmarks.suite import finish, parser, turns


def same_pixels(store: Path, saved: Path) -> bool:
    """Return whether both hold the same tiles, whatever their order."""
    ours, theirs = np.load(store / "tiles.npy", mmap_mode="r"), np.load(saved, mmap_mode="r")
    return ours.shape == theirs.shape and sorted(t.tobytes() for t in ours) == sorted(t.tobytes() for t in theirs)


def main() -> None:
    import sentinode

    options = parser(__doc__ or "", repeats=10).parse_args()
    kaggle, started = options.tiles / "kaggle", conditions(repeats=options.repeats, page_cache="warm")
    with tempfile.TemporaryDirectory() as name:
        folder, count = Path(name), 0

        def ours() -> Measured:
            nonlocal count
            count += 1
            start = time.perf_counter()
            sentinode.pack(kaggle, out=folder / f"{count}.store", quiet=True)
            seconds = time.perf_counter() - start
            return {"seconds": seconds, "n": len(np.load(folder / f"{count}.store" / "tiles.npy", mmap_mode="r"))}

        def peer() -> Measured:
            start = time.perf_counter()
            n = pillow_pack(kaggle, folder / "peer.npy")
            return {"seconds": time.perf_counter() - start, "n": n}

        variants = {"sentinode": ours, "pillow": peer}
        for run in variants.values():
            run()
        if not same_pixels(folder / "1.store", folder / "peer.npy"):
            sys.exit("expected the same pixels from both; found others; the figures would compare different work")
        raw = in_turn(variants, turns(options))
    record = Record(
        suite="pack",
        clock="the whole function, in a process that has imported everything; files warm; one untimed run of each before",
        variants={
            "sentinode": "sentinode pack",
            "pillow": "Pillow open + numpy array in a loop, np.stack, np.save",
        },
        raw=raw,
        figures={
            "speedup": figure(ratio(raw, "sentinode", "pillow"), "x", bar=8),
        },
        conditions=started | {"n": raw["pillow"][0]["n"]},
        notes=["Both gave the same pixels, compared tile by tile."],
    )
    finish(record, options)


if __name__ == "__main__":
    main()
