"""The study's grid on a frozen backbone, 3 learning rates x 3 batch sizes, beside nine plain trainings of the same epochs.

Inside the clock of ours is the whole of `sentinode tune`: extraction (cold: no feature is there; warm: all are), nine heads, the
table, the picture, the best run. The peer is how a frozen backbone is usually trained: torchvision's dataset and DataLoader with
two processes, timm's network in evaluation mode under no_grad, a linear head with Adam, batch 64. One epoch of it is timed, without
validation, and counts for nine trainings of all epochs: a tile in one epoch of one trial is one tile of the rates below.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.clock import Measured, in_turn, ratio, spread
from benchmarks.peers import LOADERS, class_folders, import_torchvision, loader
from benchmarks.records import Record, conditions, figure
from benchmarks.suite import clock_of, finish, parser
from benchmarks.workers import Worker, serve

RATES, BATCHES = (1e-2, 1e-3, 1e-4), (32, 64, 128)
"""The grid."""
VARIANTS = {
    "cold": "sentinode tune, features extracted inside the clock",
    "warm": "sentinode tune, features there from an earlier study",
    "plain": "DataLoader + frozen timm network + linear head, one epoch for all",
}
"""What each variant is."""
QUICK_TILES, QUICK_EPOCHS = 256, 2
"""Of a smoke run."""


def tuning(store: Path, options: argparse.Namespace, *, cold: bool) -> Callable[[], Measured]:
    """Return a function that runs the whole grid; `cold`: into a feature store of its own."""
    import sentinode

    home = tempfile.TemporaryDirectory()  # lives as long as `work`
    epochs, kept = epochs_of(options), Path(home.name) / "features"
    settings: dict[str, Any] = {"model": options.model, "backbone": "frozen", "head": "linear", "input_size": options.px}
    settings |= {"weights": options.weights, "epochs": epochs, "quiet": True}
    turn = 0

    def work() -> Measured:
        nonlocal turn
        turn += 1
        features = Path(home.name) / f"features{turn}" if cold else kept
        start = time.perf_counter()
        grid = {"lr": RATES, "batch": BATCHES}
        study = sentinode.tune(store, out=Path(home.name) / f"study{turn}", grid=grid, features=str(features), **settings)
        seconds = time.perf_counter() - start
        data = sentinode.load(study.path / "best").record["data"]
        told = {"seconds": seconds, "n": data["train"]["n"] * epochs * len(study.trials), "tiles": data["train"]["n"]}
        about = {"about": study.record["about"], "optimism": study.record["optimism"]}
        return told | about | {"trials": [[trial.options, trial.auroc, trial.seconds] for trial in study.trials]}

    if not cold:
        work()
    return work


def plain(folders: Path, options: argparse.Namespace) -> Callable[[], Measured]:
    """Return a function that trains a linear head on a frozen network for one epoch, as tutorials do."""
    import_torchvision()
    import timm
    import torch
    from torch.nn import functional

    backbone = timm.create_model(options.model, pretrained=False, num_classes=0).eval()
    head = torch.nn.Linear(backbone.num_features, 1)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
    batches = loader(folders)

    def work() -> Measured:
        start, n, total = time.perf_counter(), 0, 0.0
        for x, y in batches:
            with torch.no_grad():
                features = backbone(x)
            optimizer.zero_grad()
            loss = functional.binary_cross_entropy_with_logits(head(features).squeeze(1), y.float())
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += float(loss.item()) * len(y)
            n += len(x)
        return {"seconds": time.perf_counter() - start, "n": n, "loss": total / n}

    return work


def epochs_of(options: argparse.Namespace) -> int:
    """Return the epochs of every trial."""
    return QUICK_EPOCHS if options.quick else int(options.epochs)


def child(options: argparse.Namespace) -> None:
    """Serve one variant: --tiles is the store for ours, the class folders for the peer."""
    if options.worker == "plain":
        serve(plain(options.tiles, options))
    else:
        serve(tuning(options.tiles, options, cold=options.worker == "cold"))


def measure(options: argparse.Namespace) -> Record:
    """Run all variants in turn."""
    import sentinode

    started = conditions(repeats=options.repeats, model=options.model, px=options.px, epochs=epochs_of(options), loaders=LOADERS)
    passed = ["--model", options.model, "--weights", options.weights, "--px", str(options.px), "--epochs", str(options.epochs)]
    passed += ["--quick"] if options.quick else []
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        folders = class_folders(options.tiles / "kaggle", folder / "folders", QUICK_TILES if options.quick else None)
        if not options.quick:
            for path in sorted((options.tiles / "pcam/train").glob("[01]/*")):
                (folders / path.parent.name / f"pcam-{path.name}").symlink_to(path.resolve())
        sentinode.pack(folders, out=folder / "all.store", quiet=True)
        workers = {}
        for variant in VARIANTS:
            data = folders if variant == "plain" else folder / "all.store"
            workers[variant] = stack.enter_context(Worker("benchmarks.grid", "--tiles", str(data), "--worker", variant, *passed))
        raw = in_turn(workers, 1 if options.quick else options.repeats)
    seconds = {variant: spread([m["seconds"] for m in raw[variant]]) for variant in VARIANTS}
    return Record(
        suite="grid",
        clock=clock_of(__doc__ or ""),
        variants=VARIANTS,
        raw=raw,
        figures={
            "speedup": figure(ratio(raw, "cold", "plain"), "x", bar=100),
            "speedup_warm": figure(ratio(raw, "warm", "plain"), "x"),
            "seconds": figure(seconds["cold"], " s"),
            "seconds_warm": figure(seconds["warm"], " s"),
            "seconds_plain_epoch": figure(seconds["plain"], " s"),
        },
        conditions=started | {"n": raw["cold"][0]["tiles"]},
        notes=["Ours validates after every epoch and writes the study inside its clock; the peer does neither."],
    )


def main() -> None:
    options = parser(__doc__ or "", repeats=5)
    options.add_argument("--model", default="tf_efficientnet_lite0", help="timm's name of the network")
    options.add_argument("--weights", default="auto", help="of the network; time does not depend on them")
    options.add_argument("--px", type=int, default=96, help="edge of the input, of both sides")
    options.add_argument("--epochs", type=int, default=20, help="of every trial")
    options.add_argument("--worker", choices=tuple(VARIANTS), help="be the child that serves this variant")
    chosen = options.parse_args()
    if chosen.worker:
        child(chosen)
        return
    finish(measure(chosen), chosen)


if __name__ == "__main__":
    main()
