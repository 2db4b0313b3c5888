"""Prediction over eight views with a ResNet18 at 96 px, beside TIAToolbox's PatchPredictor on the same image files.

Inside the clock is all from image files on disk to a table of probabilities: reading (ours packs into a temporary store first),
preprocessing, network, eight dihedral views on our side; of the peer not loading the network. PatchPredictor has no views: it runs once
over the files, and a tile in one view is the unit of the rates on both sides, which is generous to ours, since it reads a file once for
eight. For fairness ours runs with one view, too. Ours loads its network, chooses a form of it (auto) or calibrates it (int8) inside the
clock; it was trained for a moment on these tiles, since int8 is judged by the spread of the logits. The peer's ResNet18 has random
weights, on which time does not depend. It runs with its defaults (batch 8, no loader process), and once more with batch 64, two loader
processes and our allocator settings; it has no switch for reduced precision. TIAToolbox lives in an environment of its own, with the
same torch.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks.clock import Measured, in_turn, ratio, spread
from benchmarks.environments import PACKAGES, install_beside_our_torch, python_of
from benchmarks.peers import class_folders
from benchmarks.records import Record, conditions, figure, share_of_peak
from benchmarks.suite import clock_of, finish, parser, turns
from benchmarks.workers import Worker, serve
from sentinode.machine.memory import MALLOC_SETTINGS

VIEWS = 8
"""Of our side."""
TILES, QUICK_TILES = 2000, 512
"""Tiles that are scored."""
EPOCHS = 3
"""Of our network's training: after fewer its logits hardly differ from tile to tile."""
VARIANTS = {
    "int8": "sentinode predict RUN FOLDER --views 8 --precision int8",
    "auto": "sentinode predict RUN FOLDER --views 8 --precision auto",
    "fp32": "sentinode predict RUN FOLDER --views 8, as it comes (fp32)",
    "one-view": "sentinode predict RUN FOLDER --precision auto, one view",
    "tia": "TIAToolbox PatchPredictor, its defaults, one view",
    "tia-switches": "the same with batch 64, two loader processes and our allocator settings",
}
"""What each variant is."""
OURS = {"int8": ("int8", VIEWS), "auto": ("auto", VIEWS), "fp32": ("fp32", VIEWS), "one-view": ("auto", 1)}
"""Precision and views of ours."""


def ours(run: Path, folder: Path, variant: str) -> Callable[[], Measured]:
    """Return a function that scores a folder of images."""
    from sklearn.metrics import roc_auc_score

    import sentinode
    from benchmarks.ours import with_share
    from sentinode.fit.measure import forward_flop
    from sentinode.nets.backbone import timm_module

    network = timm_module().create_model("resnet18", pretrained=False, num_classes=0)
    (precision, views), home, turn = OURS[variant], tempfile.TemporaryDirectory(), 0

    def work() -> Measured:
        nonlocal turn
        turn += 1
        out, start = Path(home.name) / f"{turn}.parquet", time.perf_counter()
        scores = sentinode.predict(run, folder, out=out, views=views, precision=precision, quiet=True)
        seconds = time.perf_counter() - start
        auroc = float(roc_auc_score(scores.table["label"], scores.table["logit"]))
        return {"seconds": seconds, "n": len(scores) * views, "tiles": len(scores), "auroc": auroc}

    work()
    return with_share(work, forward_flop(network, 96), *(("fp32", "bf16") if precision == "auto" else ("fp32",)))


def measure(options: argparse.Namespace) -> Record:
    """Train for a moment, then score in turn."""
    import sentinode

    n = QUICK_TILES if options.quick else TILES
    started = conditions(repeats=options.repeats, n=n, views=VIEWS, network="resnet18, 96 px")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        home = Path(name)
        folder = class_folders(options.tiles / "kaggle", home / "folders", n)
        store = sentinode.pack(class_folders(options.tiles / "kaggle", home / "all"), out=home / "all.store", quiet=True)
        how = {"model": "resnet18", "backbone": "finetune", "weights": "none", "input_size": 96}
        sentinode.train(store, out=home / "run", quiet=True, epochs=EPOCHS, **how)
        workers = {}
        for variant in VARIANTS:
            if variant.startswith("tia"):
                words = [
                    "--folder",
                    str(folder),
                    *(["--switches", json.dumps(MALLOC_SETTINGS)] if variant == "tia-switches" else []),
                ]
                workers[variant] = stack.enter_context(
                    Worker("benchmarks.tia_peer", *words, python=str(python_of(options.environment)))
                )
            else:
                words = ["--tiles", str(folder), "--worker", variant, "--run", str(home / "run"), "--environment", "none"]
                workers[variant] = stack.enter_context(Worker("benchmarks.predict", *words))
        raw = in_turn(workers, turns(options))
        told = workers["tia"].first
    rates = {variant: spread([m["n"] / m["seconds"] for m in raw[variant]]) for variant in VARIANTS}
    return Record(
        suite="predict",
        clock=clock_of(__doc__ or ""),
        variants=VARIANTS,
        raw=raw,
        figures={
            "speedup": figure(ratio(raw, "auto", "tia"), "x", bar=5),
            "speedup_int8": figure(ratio(raw, "int8", "tia"), "x", bar=5),
            "speedup_int8_switches": figure(ratio(raw, "int8", "tia-switches"), "x"),
            "speedup_fp32": figure(ratio(raw, "fp32", "tia"), "x"),
            "speedup_switches": figure(ratio(raw, "auto", "tia-switches"), "x"),
            "share_of_peak": share_of_peak(raw["auto"]),
            "share_of_peak_fp32": share_of_peak(raw["fp32"]),
            "speedup_one_view": figure(ratio(raw, "one-view", "tia"), "x"),
            **{f"auroc_moved_{name}": figure(moved(raw, name), "", digits=5) for name in ("int8", "auto")},
            "tiles": figure({key: value / VIEWS for key, value in rates["auto"].items()}, " tiles/s over 8 views", digits=0),
        },
        conditions=started | {"peer": told},
        notes=[
            "A rate counts tiles times views.",
            "The AUROC that int8 and auto move is over the tiles that the network was trained on.",
            "Versions of the peer: " + ", ".join(f"{k} {v}" for k, v in told.items()) + ".",
        ],
    )


def moved(raw: dict[str, list[Measured]], variant: str) -> float:
    """Return the most that a variant's AUROC lies beside that of fp32 over the same views."""
    return max(abs(one["auroc"] - other["auroc"]) for one, other in zip(raw[variant], raw["fp32"], strict=True))


def main() -> None:
    options = parser(__doc__ or "", repeats=5)
    options.add_argument("--environment", type=Path, required=True, help="the virtual environment that holds TIAToolbox")
    options.add_argument("--install", action="store_true", help="make that environment first")
    options.add_argument("--worker", choices=tuple(OURS), help="be the child that serves this variant")
    options.add_argument("--run", type=Path, help="the child's run")
    chosen = options.parse_args()
    if chosen.worker:
        serve(ours(chosen.run, chosen.tiles, chosen.worker))
        return
    if chosen.install:
        install_beside_our_torch(chosen.environment, *PACKAGES["tiatoolbox"])
    finish(measure(chosen), chosen)


if __name__ == "__main__":
    main()
