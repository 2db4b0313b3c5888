"""Prediction over eight views with a ResNet18 at 96 px, beside TIAToolbox's PatchPredictor on the same image files.

Inside the clock is all from image files on disk (`kaggle/` and `pcam/valid`) to a table of probabilities: reading (ours packs into a
temporary store first), preprocessing, network, eight dihedral views on our side; of the peer not loading the network. PatchPredictor
has no views: it runs once over the files, and a tile in one view is the unit of the rates on both sides, which is generous to ours,
since it reads a file once for eight. For fairness ours runs with one view, too. Ours loads its network, chooses a form of it (auto) or
calibrates it (int8) inside the clock; it was trained for a moment on `kaggle/`, since int8 is judged by the spread of the logits. The
peer's ResNet18 has random weights, on which time does not depend. It runs with its defaults (batch 8, no loader process), and once
more with batch 64, two loader processes and our allocator settings; it has no switch for reduced precision. TIAToolbox lives in an
environment of its own, with the same torch. Quick runs score fewer tiles, and int8 by a network that learned nothing.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks.clock import Measured, in_turn, ratio, spread
from benchmarks.environments import PACKAGES, install_beside_our_torch, python_of
from benchmarks.goal import all_folders
from benchmarks.peers import class_folders
from benchmarks.records import Record, conditions, figure, share_of_peak
from benchmarks.suite import clock_of, finish, parser, turns
from benchmarks.workers import Worker, serve
from sentinode.machine.memory import MALLOC_SETTINGS

VIEWS = 8
"""Of our side."""
QUICK_TILES, WARM_TILES = 1024, 64
"""Tiles that are scored in a quick run, and of each side before its first turn."""
EPOCHS = 3
"""Of our network's training: after fewer its logits hardly differ from tile to tile."""
VARIANTS = {
    "int8": "sentinode predict RUN FOLDER --views 8 --precision int8",
    "auto": "sentinode predict RUN FOLDER --views 8 --precision auto",
    "fp32": "sentinode predict RUN FOLDER --views 8 --precision fp32",
    "one-view": "sentinode predict RUN FOLDER --precision auto, one view",
    "tia": "TIAToolbox PatchPredictor, its defaults, one view",
    "tia-switches": "the same with batch 64, two loader processes and our allocator settings",
}
"""What each variant is."""
OURS = {"int8": ("int8", VIEWS), "auto": ("auto", VIEWS), "fp32": ("fp32", VIEWS), "one-view": ("auto", 1)}
"""Precision and views of ours."""


def ours(run: Path, folder: Path, variant: str, *, quick: bool) -> Callable[[], Measured]:
    """Return a function that scores a folder of images, some beside it (`warm`) first."""
    from sklearn.metrics import roc_auc_score

    import sentinode
    from benchmarks.ours import with_share
    from sentinode.fit.measure import forward_flop
    from sentinode.nets import engine
    from sentinode.nets.backbone import timm_module

    network = timm_module().create_model("resnet18", pretrained=False, num_classes=0)
    (precision, views), home = OURS[variant], tempfile.TemporaryDirectory()
    if quick:
        engine.WHOLE_BOUND = math.inf  # time does not depend on the weights

    def work(folder: Path = folder) -> Measured:
        out, start = Path(home.name) / "scores.parquet", time.perf_counter()
        scores = sentinode.predict(run, folder, out=out, views=views, precision=precision, overwrite=True, quiet=True)
        seconds = time.perf_counter() - start
        auroc = float(roc_auc_score(scores.table["label"], scores.table["logit"]))
        return {"seconds": seconds, "n": len(scores) * views, "tiles": len(scores), "auroc": auroc}

    work(folder.parent / "warm")
    return with_share(work, forward_flop(network, 96), *(("fp32", "bf16") if precision == "auto" else ("fp32",)))


def measure(options: argparse.Namespace) -> Record:
    """Train for a moment, then score in turn."""
    import sentinode

    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        home = Path(name)
        kaggle, quick = options.tiles / "kaggle", options.quick
        class_folders(kaggle, home / "warm", WARM_TILES)
        folder = class_folders(kaggle, home / "folders", QUICK_TILES) if quick else all_folders(options.tiles, home, "valid")
        n = sum(1 for _ in folder.glob("*/*"))
        started = conditions(repeats=turns(options), n=n, views=VIEWS, network="resnet18, 96 px")
        store = sentinode.pack(kaggle, out=home / "kaggle.store", quiet=True)
        how = {"model": "resnet18", "backbone": "finetune", "weights": "none", "input_size": 96}
        how |= {"epochs": 1, "sample": "48"} if quick else {"epochs": EPOCHS}
        sentinode.train(store, out=home / "run", quiet=True, **how)
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
                words += ["--quick"] if quick else []
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
            **{f"auroc_moved_{name}": figure(moved(raw, name), "", digits=5) for name in ("int8", "auto") if not quick},
            "tiles": figure({key: value / VIEWS for key, value in rates["auto"].items()}, " tiles/s over 8 views", digits=0),
        },
        conditions=started | {"peer": told},
        notes=[
            "A rate counts tiles times views.",
            "Of the tiles whose AUROC int8 and auto move, the network was trained on those of Kaggle.",
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
        serve(ours(chosen.run, chosen.tiles, chosen.worker, quick=chosen.quick))
        return
    if chosen.install:
        install_beside_our_torch(chosen.environment, *PACKAGES["tiatoolbox"])
    finish(measure(chosen), chosen)


if __name__ == "__main__":
    main()
