"""Rows gathered, augmented by flips and normalised, beside torchvision's dataset and DataLoader with two processes.

Inside the clock is one pass over all tiles, to float32 batches of 64 in memory, from the same TIFF files; the peer's processes
already run, ours holds the tiles of a packed store in memory (packing is timed by `pack`); one untimed pass of each before. Each
side lives in its own process, so that our allocator settings do not help the peer; it runs once more with them.
"""

import tempfile
from pathlib import Path

from benchmarks.clock import in_turn, ratio
from benchmarks.peers import BATCH, LOADERS, class_folders
from benchmarks.records import Record, conditions, figure, share
from benchmarks.suite import clock_of, finish, parser, turns
from benchmarks.workers import Worker, serve

VARIANTS = {
    "sentinode": "resident store: gather, dihedral views, normalise",
    "torchvision": f"torchvision ImageFolder, flips, ToTensor, Normalize, DataLoader(num_workers={LOADERS})",
    "torchvision-switches": "the same with our allocator settings",
    "copy": "the bound: rows gathered and made float32, nothing else",
}
"""What each variant is."""


def child(variant: str, data: Path) -> None:
    """Serve one variant: `data` is the store for ours and the bound, the class folders for the peers."""
    from benchmarks import ours, peers

    if variant == "torchvision-switches":
        from sentinode.machine.memory import set_allocator

        set_allocator()
    feeding = {"sentinode": ours.feeding, "copy": ours.copying}.get(variant, peers.feeding)
    serve(feeding(data))


def main() -> None:
    options = parser(__doc__ or "", repeats=10)
    options.add_argument("--worker", choices=tuple(VARIANTS), help="be the child that serves this variant")
    chosen = options.parse_args()
    if chosen.worker:
        child(chosen.worker, chosen.tiles)
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
            Worker("benchmarks.feed", "--tiles", str(folders), "--worker", "torchvision-switches") as switched,
            Worker("benchmarks.feed", "--tiles", store, "--worker", "copy") as bound,
        ):
            workers = {"sentinode": ours_worker, "torchvision": peer, "torchvision-switches": switched, "copy": bound}
            raw = in_turn(workers, turns(chosen))
    record = Record(
        suite="feed",
        clock=clock_of(__doc__ or ""),
        variants=VARIANTS,
        raw=raw,
        figures={
            "speedup": figure(ratio(raw, "sentinode", "torchvision"), "x", bar=12),
            "speedup_switches": figure(ratio(raw, "sentinode", "torchvision-switches"), "x"),
            "share_of_copy": share(raw, "sentinode", "copy"),
        },
        conditions=started | {"n": raw["sentinode"][0]["n"]},
    )
    finish(record, chosen)


if __name__ == "__main__":
    main()
