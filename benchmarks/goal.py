"""Time from image files to AUROC 0.90 on other slides, and the AUROC reached by a deadline, beside the usual ways.

Inside the clock is all from files on disk to a model that can predict: imports, reading (ours packs into a store), extraction,
training and the choice of the epoch; not the judging. Everything trains on `kaggle/` and `pcam/train` and is judged on
`pcam/valid`, which chooses nothing on our side. The peers are judged as they go, four times an epoch and when the time is over,
with the clock stopped, and are done when a look is good enough: generous to them, since nobody could look. Both start from the
same pretrained weights of EfficientNet-Lite0; the peers see the tiles at their own 96 px, which is faster than their
documentation's 224. Ours is `sentinode pack` and `sentinode train --backbone frozen` as a user types them; fastai its
documentation's `fine_tune`; timm's network trains in a plain loop, and once more in bf16, channels-last and with our allocator
settings; the small CNN begins with random weights. fastai has no reduced precision on a CPU.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.clock import Measured, ratio, spread
from benchmarks.environments import PACKAGES, install_beside_our_torch, python_of
from benchmarks.goal_peers import NETWORK
from benchmarks.peers import class_folders
from benchmarks.records import Figure, Record, conditions, figure
from benchmarks.suite import clock_of, finish, parser, turns
from benchmarks.workers import once
from sentinode.errors import RunProblem
from sentinode.run import read_json

GOAL, LIMIT = 0.90, 6.0
"""AUROC on pcam/valid; minutes after which a peer gives up."""
EPOCHS, FROM_NOTHING = 3, 12
"""Epochs that the peers plan their schedules for: in fastai's fine_tune after one of the head alone; and those of the small CNN, which
needs more (after 3 it had seen 0.8943)."""
VARIANTS = {
    "ours": "sentinode pack + train --backbone frozen",
    "fastai": "fastai: vision_learner, fine_tune, fp32",
    "fastai-switches": "the same with our allocator settings; fastai has no other switch on a CPU",
    "timm": "DataLoader + timm's network, all weights, fp32 NCHW",
    "timm-switches": "the same with our allocator settings, channels-last and bf16 autocast",
    "cnn": "DataLoader + plain loop, the small CNN from nothing, fp32",
    "cnn-switches": "the same with our allocator settings, channels-last and bf16 autocast",
}
"""What each variant is."""
PEERS = tuple(variant for variant in VARIANTS if variant != "ours")
MINUTES = (1, 2, 5)
"""At which the AUROC so far is read off."""


def sentinode(*words: str) -> None:
    """Run one command line of ours."""
    subprocess.run([sys.executable, "-m", "sentinode", *words, "--quiet"], check=True)


def ours(tiles: Path, home: Path, more: list[str], minutes: float | None = None) -> Measured:
    """Pack and train as a user would; judge with the clock stopped. What packing leaves of `minutes` goes to training."""
    import numpy as np
    import pandas as pd
    from sklearn.metrics import roc_auc_score

    start = time.perf_counter()
    store, run = home / "train.store", home / "run"
    sentinode("pack", str(tiles / "kaggle"), str(tiles / "pcam/train"), "--out", str(store))
    packed = time.perf_counter() - start
    left = [] if minutes is None else ["--minutes", f"{minutes - packed / 60:.3f}"]
    sentinode("train", str(store), "--out", str(run), *more, *left)
    seconds = time.perf_counter() - start
    sentinode("predict", str(run), str(tiles / "pcam/valid"), "--out", str(home / "scores.parquet"))
    scores = pd.read_parquet(home / "scores.parquet")
    auroc = float(roc_auc_score(scores["label"].to_numpy(), scores["logit"].to_numpy()))
    n, settings = len(np.load(store / "tiles.npy", mmap_mode="r")), read_json(run / "run.json", RunProblem)["settings"]
    trained = f"{settings['model']}, {settings['backbone']}"
    found = {"seconds": seconds, "n": n, "packed": packed, "trained": trained}
    return found | {"reached": auroc >= GOAL, "curve": [(seconds, auroc)]}


def all_folders(tiles: Path, home: Path, part: str = "train") -> Path:
    """Lay Kaggle's training set and a part of PCam out together as class folders, of links."""
    folders = class_folders(tiles / "kaggle", home / "folders")
    for file in (tiles / "pcam" / part).glob("*/*.*"):
        (folders / file.parent.name / file.name).symlink_to(file.resolve())
    return folders


def peer(variant: str, folders: Path, options: argparse.Namespace, weights: Path) -> Measured:
    """Train one peer in a process of its own until the goal, the limit of minutes or of looks, or the end of its epochs."""
    from sentinode.machine.memory import MALLOC_SETTINGS

    name, _, switches = variant.partition("-")
    words = [name, "--folders", str(folders), "--judge", str(options.tiles / "pcam/valid"), "--weights", str(weights)]
    epochs = options.epochs or (FROM_NOTHING if name == "cnn" else EPOCHS)
    words += ["--goal", str(options.goal), "--minutes", str(options.minutes), "--epochs", str(epochs)]
    words += ["--switches", json.dumps(MALLOC_SETTINGS)] if switches else []
    words += ["--at", *map(str, options.at)] if options.at else []
    words += ["--looks", str(options.looks)] if options.looks else []
    python = str(python_of(options.environment)) if name == "fastai" else sys.executable
    return once("benchmarks.goal_peers", *words, python=python)


def timm_weights(home: Path) -> Path:
    """Write the pretrained weights of the installed package under timm's names, which is how both sides begin with the same."""
    from safetensors.torch import save_file

    from sentinode.nets.backbone import timm_module
    from sentinode.nets.weights import find, load_into

    model = timm_module().create_model(NETWORK, pretrained=False)
    load_into(model, find(NETWORK))
    save_file(model.state_dict(), home / "weights.safetensors")
    return home / "weights.safetensors"


def measure(options: argparse.Namespace) -> Record:
    """Take turns, each until the goal is reached or the limit is."""
    repeats = turns(options)
    started = conditions(repeats=repeats, goal=GOAL, minutes=options.minutes, epochs=EPOCHS, epochs_from_nothing=FROM_NOTHING)
    raw: dict[str, list[Measured]] = {variant: [] for variant in ("ours", *options.peers)}
    with tempfile.TemporaryDirectory() as name:
        folders, weights = all_folders(options.tiles, Path(name)), timm_weights(Path(name))
        for turn in range(repeats):
            with tempfile.TemporaryDirectory() as home:
                raw["ours"].append(ours(options.tiles, Path(home), ["--backbone", "frozen"]))
            for variant in options.peers:
                raw[variant].append(peer(variant, folders, options, weights))
            for variant in raw:
                last = raw[variant][-1]
                print(f"  {turn + 1}/{repeats} {variant}: {last['seconds']:.0f} s, {told(last)}", flush=True)
    return Record(
        suite="goal",
        clock=clock_of(__doc__ or ""),
        variants={},
        raw=raw,
        figures=figures_of(raw),
        conditions=started | {"n": raw["ours"][0]["n"]},
        notes=notes_of(raw),
    )


def told(measured: Measured) -> str:
    """Return in words whether a training reached the goal, and the best it was seen to reach."""
    return f"{'reached' if measured['reached'] else 'NOT reached'}, at most {max(auroc for _, auroc in measured['curve']):.4f}"


def figures_of(raw: dict[str, list[Measured]]) -> dict[str, Figure]:
    """Return seconds until the goal, how many times faster ours was than each peer and than the fastest, and AUROC at minutes."""
    figures: dict[str, Figure] = {}
    for variant, taken in raw.items():
        seconds = figure(spread([turn["seconds"] for turn in taken]), " s", digits=0)
        never = "" if all(turn["reached"] for turn in taken) else ", not reached by then in each turn"
        figures[f"{variant}_seconds"] = Figure(seconds.value, seconds.text + never, "s", span=seconds.span)
    peers = [variant for variant in raw if variant != "ours"]
    for variant in peers:
        figures[f"speedup_{variant}"] = figure(ratio(raw, "ours", variant), "x")
    fastest = min(peers, key=lambda variant: figures[f"{variant}_seconds"].value)
    figures["speedup"] = figure(ratio(raw, "ours", fastest), "x", bar=4)
    for variant, taken in raw.items():
        for minutes in MINUTES:
            so_far = [auroc for seconds, auroc in taken[0]["curve"] if seconds <= 60 * minutes]
            if so_far:
                figures[f"{variant}_at_{minutes}"] = figure(max(so_far), "", digits=4)
    return figures


def notes_of(raw: dict[str, list[Measured]]) -> list[str]:
    """Return what a reader must know of the peers."""
    return [
        "A peer's AUROC at a minute is the best of its looks until then, chosen on the tiles that judge; it ends at the goal.",
        "Ours is judged once, when its command has ended.",
        *(
            f"{VARIANTS[variant]}: {told(turn)} (turn {at})"
            for variant, taken in raw.items()
            for at, turn in enumerate(taken, 1)
            if not turn["reached"]
        ),
    ]


def main() -> None:
    options = parser(__doc__ or "", repeats=3)
    options.add_argument("--environment", type=Path, required=True, help="the virtual environment that holds fastai")
    options.add_argument("--install", action="store_true", help="make that environment first")
    options.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), help="whom ours is set beside")
    options.add_argument("--minutes", type=float, default=LIMIT, help=f"after which a peer gives up ({LIMIT:g})")
    options.set_defaults(goal=GOAL, epochs=None, at=[], looks=None)
    chosen = options.parse_args()
    if chosen.install:
        install_beside_our_torch(chosen.environment, *PACKAGES["fastai"])
    finish(measure(chosen), chosen)


if __name__ == "__main__":
    main()
