"""Rows gathered, augmented by flips and normalised, beside torchvision's dataset and DataLoader with two processes.

Inside the clock is one pass over all tiles, to float32 batches of 64 in memory, from the same TIFF files; the peer's processes
already run, ours holds the tiles of a packed store in memory (packing is timed by `pack`); one untimed pass of each before. Each
side lives in its own process, so that our allocator settings do not help the peer.
"""

import tempfile
from pathlib import Path

from benchmarks.clock import in_turn, ratio
from benchmarks.peers import BATCH, LOADERS, class_folders
from benchmarks.records import Record, conditions, figure, share
from benchmarks.suite import clock_of, finish, parser, turns
from benchmarks.workers import Worker, serve


def main() -> None:
    options = parser(__doc__ or "", repeats=10)
    options.add_argument("--worker", choices=("sentinode", "torchvision", "copy"), help="be the child that serves this variant")
    chosen = options.parse_args()
    if chosen.worker:
        from benchmarks import ours, peers

        serve({"sentinode": ours.feeding, "torchvision": peers.feeding, "copy": ours.copying}[chosen.worker](chosen.tiles))
        return
    import sentinode

    started = conditions(repeats=chosen.repeats, batch=BATCH, loaders=LOADERS, page_cache="warm")
    with tempfile.TemporaryDirectory() as name:
        folders = class_folders(chosen.tiles / "kaggle", Path(name) / "folders")
        sentinode.pack(chosen.tiles / "kaggle", out=Path(name) / "kaggle.store", quiet=True)
        store = str(Path(name) / "kaggle.store")
        with (
            Worker("benchmarks.feed", "--tiles", store, "--worker", "sentinode") as ours_worker,
            Worker("benchmarks.feed", "--tiles", str(folders), "--worker", "torchvision") as peer,
            Worker("benchmarks.feed", "--tiles", store, "--worker", "copy") as bound,
        ):
            raw = in_turn({"sentinode": ours_worker, "torchvision": peer, "copy": bound}, turns(chosen))
    record = Record(
        suite="feed",
        clock=clock_of(__doc__ or ""),
        variants={
            "sentinode": "resident store: gather, dihedral views, normalise",
            "torchvision": f"torchvision ImageFolder, flips, ToTensor, Normalize, DataLoader(num_workers={LOADERS})",
            "copy": "the bound: rows gathered and made float32, nothing else",
        },
        raw=raw,
        figures={
            "speedup": figure(ratio(raw, "sentinode", "torchvision"), "x", bar=12),
            "share_of_copy": share(raw, "sentinode", "copy"),
        },
        conditions=started | {"n": raw["sentinode"][0]["n"]},
    )
    finish(record, chosen)


if __name__ == "__main__":
    main()
