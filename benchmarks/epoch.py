"""A whole training epoch of the simple CNN, beside torchvision's dataset + DataLoader + a plain loop with the same network.

Inside the clock is one epoch over the Kaggle training tiles: reading, augmentation, every step; not validation. The peer is plain
on purpose: batch 64, NCHW, fp32, Adam, binary cross-entropy, flips, two loader processes, the system's allocator. It trains our
own module, whose pooling stands before the activation, and apart from that the order of tutorials (activation, then pooling).
For honesty it runs once more with our allocator settings, and with channels-last and bf16 autocast besides. Every variant lives in its
own process.
"""

import argparse
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks.clock import Measured, in_turn, ratio, spread
from benchmarks.peers import BATCH, LOADERS, class_folders
from benchmarks.records import Record, conditions, figure
from benchmarks.suite import clock_of, finish, parser, turns
from benchmarks.workers import Worker, serve

VARIANTS = {
    "chosen": "sentinode, the plan's choice, augmented as the peer (views only)",
    "fp32": "sentinode, fp32, augmented as the peer",
    "recipe": "sentinode, the plan's choice, its own recipe (colour augmentation too)",
    "plain": "DataLoader + plain loop, same module, fp32 NCHW, system's allocator",
    "tutorial": "the same, network in the order of tutorials: activation, then pooling",
    "plain-allocator": "DataLoader + plain loop, same module, with our allocator settings",
    "plain-switches": "the same, channels-last and in bf16 autocast besides",
}
"""What each variant is."""
QUICK_STEPS = 5
"""Steps of an epoch in a smoke run."""


def child(variant: str, data: Path, steps: int | None) -> None:
    """Serve one variant: `data` is the store for ours, the class folders for the peers."""
    from benchmarks import ours, peers

    first: dict[str, object] = {}
    work: Callable[[], Measured]
    if variant in {"chosen", "fp32", "recipe"}:
        precision = "fp32" if variant == "fp32" else "auto"
        work, first = ours.training(data, precision=precision, recipe="default" if variant == "recipe" else "peer", steps=steps)
    else:
        if variant in {"plain-allocator", "plain-switches"}:
            from sentinode.machine.memory import set_allocator

            first["allocator_set"] = set_allocator()
        work = peers.training(data, usual_order=variant == "tutorial", steps=steps, switches=variant == "plain-switches")
    serve(work, **first)


def measure(options: argparse.Namespace) -> Record:
    """Run all variants in turn."""
    import sentinode

    started = conditions(repeats=options.repeats, batch=BATCH, loaders=LOADERS, page_cache="warm", network="simple-cnn, 96 px")
    quick = ["--quick"] if options.quick else []
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folders = class_folders(options.tiles / "kaggle", Path(name) / "folders")
        sentinode.pack(options.tiles / "kaggle", out=Path(name) / "kaggle.store", quiet=True)
        workers = {}
        for variant in VARIANTS:
            data = Path(name) / "kaggle.store" if variant in {"chosen", "fp32", "recipe"} else folders
            worker = Worker("benchmarks.epoch", "--tiles", str(data), "--worker", variant, *quick)
            workers[variant] = stack.enter_context(worker)
        raw = in_turn(workers, turns(options))
        first = {variant: worker.first for variant, worker in workers.items() if worker.first}
    return Record(
        suite="epoch",
        clock=clock_of(__doc__ or ""),
        variants=VARIANTS,
        raw=raw,
        figures={
            "rate": figure(spread([m["n"] / m["seconds"] for m in raw["chosen"]]), " tiles/s", digits=0),
            "speedup": figure(ratio(raw, "chosen", "plain"), "x", bar=4),
            "speedup_fp32": figure(ratio(raw, "fp32", "plain"), "x", bar=2),
            "speedup_tutorial": figure(ratio(raw, "chosen", "tutorial"), "x"),
            "speedup_recipe": figure(ratio(raw, "recipe", "plain"), "x"),
            "speedup_allocator": figure(ratio(raw, "chosen", "plain-allocator"), "x"),
            "speedup_switches": figure(ratio(raw, "chosen", "plain-switches"), "x", bar=2),
            "share_of_peak": figure(spread([100 * m["share_of_peak"] for m in raw["chosen"]]), " %", bar=65),
            "share_of_peak_fp32": figure(spread([100 * m["share_of_peak"] for m in raw["fp32"]]), " %", bar=65),
            "share_of_peak_recipe": figure(spread([100 * m["share_of_peak"] for m in raw["recipe"]]), " %"),
        },
        conditions=started | {"n": raw["chosen"][0]["n"], "children": first},
        notes=[
            "The convolution peak is measured in the same process right after each epoch, in the precision used.",
            "Work a tile: torch's own count of the forward and backward pass.",
        ],
    )


def main() -> None:
    options = parser(__doc__ or "", repeats=5)
    options.add_argument("--worker", choices=tuple(VARIANTS), help="be the child that serves this variant")
    chosen = options.parse_args()
    if chosen.worker:
        child(chosen.worker, chosen.tiles, QUICK_STEPS if chosen.quick else None)
        return
    finish(measure(chosen), chosen)


if __name__ == "__main__":
    main()
