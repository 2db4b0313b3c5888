"""Features of a frozen ResNet50 at 96x96, beside the usual timm loop: `model.eval()`, ImageFolder, DataLoader, NCHW fp32, batch 64.

Inside the clock is one pass over the tiles: reading (ours from the packed store, the peer from the files), preprocessing, network,
features in an array (ours also digested, journalled and on disk). Weights are random, the same on both sides; choosing our form of
the network comes before the clock and its seconds are in the record. The peer has timm's own evaluation transform, two loader
processes that are kept between turns, and the system's allocator; for honesty it runs once more with our allocator settings, and
with channels-last and bf16 autocast besides. Every variant lives in its own process.

Apart from that: whether reduced precision costs anything. Features of EfficientNet-Lite0 (ImageNet weights, own preprocessing, 128
px) of `kaggle/` + `pcam/train`, exact and as the plan chooses, then the same logistic regression on each: its AUROC on a random
fifth that it was not fitted on, and on `pcam/valid`. A quick run leaves this part out.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.clock import Measured, in_turn, ratio
from benchmarks.ours import with_share
from benchmarks.peers import BATCH, LOADERS, class_folders
from benchmarks.records import Figure, Record, conditions, figure, share_of_peak
from benchmarks.suite import clock_of, finish, parser, turns
from benchmarks.workers import Worker, serve

VARIANTS = {
    "chosen": "sentinode, the form and precision that measuring chose",
    "fp32": "sentinode, the fastest form in fp32",
    "timm": "timm's usual loop: DataLoader, NCHW, fp32, batch 64, system's allocator",
    "timm-allocator": "the same with our allocator settings",
    "timm-switches": "the same with our allocator settings, channels-last and bf16 autocast",
}
"""What each variant is."""
TILES, QUICK_TILES = 1024, 256
"""Tiles of a turn."""
LITE, LITE_PX, STRENGTH = "tf_efficientnet_lite0", 128, 1e-3
"""The network whose features are judged, the edge it sees, and the logistic regression's C (on standardised features)."""


def resnet() -> Any:
    """Return ResNet50 without its head, pooled by timm, with the same random weights every time."""
    import torch

    from sentinode.nets.backbone import timm_module

    timm = timm_module()
    torch.manual_seed(0)
    return timm.create_model("resnet50", pretrained=False, num_classes=0).eval()


def ours(store: Path, variant: str) -> tuple[Callable[[], Measured], dict[str, Any]]:
    """Return a function that extracts a store's features into an empty feature store, and what was chosen."""
    from sentinode.machine.memory import set_allocator

    set_allocator()
    from sentinode.fit.features import Extraction, Source, extract
    from sentinode.fit.measure import forward_flop
    from sentinode.nets.backbone import preprocessing_of
    from sentinode.nets.engine import fastest
    from sentinode.nets.transform import Transform
    from sentinode.tiles.store import open_store

    opened, model = open_store(store), resnet()
    how = Extraction(preprocessing_of(model.pretrained_cfg, opened.px), {}, precision="fp32" if variant == "fp32" else "auto")
    rows = np.arange(len(opened))
    source = Source(opened, rows, model, how, None)
    began = time.perf_counter()
    engine = fastest(model, Transform(how.preprocessing, opened.px)(source.tiles(0, source.batch)), allowed=how.precision)
    chosen = {"engine": engine.name, "reasons": engine.reasons, "choosing_s": time.perf_counter() - began, "batch": source.batch}

    def work() -> Measured:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            found = extract(opened, model, how, rows=rows, folder=folder, engine=engine)
            seconds = time.perf_counter() - start
            return {"seconds": seconds, "n": len(found.values), "mean": float(found.values.mean()), "engine": found.engine}

    return with_share(work, forward_flop(model, opened.px), "bf16" if "bf16" in engine.name else "fp32"), chosen


def usual(folders: Path, *, switches: bool = False) -> Callable[[], Measured]:
    """Return a function that runs timm's network over class folders in the usual loop; `switches`: channels-last, bf16."""
    import torch
    from torch.utils.data import DataLoader

    layout = torch.channels_last if switches else torch.contiguous_format
    model = resnet().to(memory_format=layout)
    from timm.data import create_transform  # type: ignore[attr-defined]
    from torchvision.datasets import ImageFolder

    config = model.pretrained_cfg
    transform = create_transform(
        input_size=96, interpolation="bicubic", mean=config["mean"], std=config["std"], crop_pct=1.0, is_training=False
    )
    dataset = ImageFolder(str(folders), transform)
    batches: Any = DataLoader(dataset, batch_size=BATCH, num_workers=LOADERS, persistent_workers=True)

    def work() -> Measured:
        start, parts = time.perf_counter(), []
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=switches):
            for x, _ in batches:
                parts.append(model(x.to(memory_format=layout)).float().numpy())
        values = np.concatenate(parts)
        return {"seconds": time.perf_counter() - start, "n": len(values), "mean": float(values.mean())}

    work()
    return work


def child(variant: str, data: Path) -> None:
    """Serve one variant: `data` is the store for ours, the class folders for the peers."""
    if variant in {"chosen", "fp32"}:
        work, chosen = ours(data, variant)
        serve(work, **chosen)
        return
    first = {}
    if variant != "timm":
        from sentinode.machine.memory import set_allocator

        first["allocator_set"] = set_allocator()
    serve(usual(data, switches=variant == "timm-switches"), **first)


def aurocs(stores: tuple[Path, Path], folder: Path, precision: str) -> dict[str, Any]:
    """Return the AUROC of a logistic regression over Lite0's features: on a random fifth, and on the judge's tiles."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from sentinode.fit.features import Extraction, extract
    from sentinode.nets.backbone import Pooled, preprocessing_of
    from sentinode.nets.weights import find, load_into
    from sentinode.tiles.store import open_store

    weights, model = find(LITE), Pooled(LITE, LITE_PX)
    load_into(model.backbone, weights)
    how = Extraction(preprocessing_of(weights.config, LITE_PX), {"network": LITE}, precision=precision)  # type: ignore[arg-type]
    (train, judge), opened = (extract(open_store(s), model, how, folder=folder) for s in stores), [open_store(s) for s in stores]
    labels = [store.rows["label"].to_numpy()[found.rows] for store, found in zip(opened, (train, judge), strict=True)]
    order = np.random.default_rng(0).permutation(len(train.rows))
    fitted, held = np.split(order, [len(order) * 4 // 5])

    def fit(rows: Any) -> Any:
        chain = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=1000))
        return chain.fit(train.values[rows, 0], labels[0][rows])

    random = roc_auc_score(labels[0][held], fit(fitted).decision_function(train.values[held, 0]))
    judged = roc_auc_score(labels[1], fit(order).decision_function(judge.values[:, 0]))
    return {"precision": precision, "engine": train.engine, "random": float(random), "judged": float(judged), "n": len(order)}


def measure(options: argparse.Namespace) -> Record:
    """Run all variants in turn, then compare the precisions."""
    import sentinode

    started = conditions(repeats=options.repeats, batch=BATCH, loaders=LOADERS, page_cache="warm", network="resnet50, 96 px")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        where = Path(name)
        folders = class_folders(options.tiles / "kaggle", where / "folders", QUICK_TILES if options.quick else TILES)
        store, train, judge = (where / f"{part}.store" for part in ("some", "train", "judge"))
        sentinode.pack(folders, out=store, quiet=True)
        if not options.quick:
            sentinode.pack(options.tiles / "kaggle", options.tiles / "pcam/train", out=train, quiet=True)
            sentinode.pack(options.tiles / "pcam/valid", out=judge, quiet=True)
        workers = {}
        for variant in VARIANTS:
            data = store if variant in {"chosen", "fp32"} else folders
            worker = Worker("benchmarks.extraction", "--tiles", str(data), "--worker", variant)
            workers[variant] = stack.enter_context(worker)
        raw = in_turn(workers, turns(options))
        first = {variant: worker.first for variant, worker in workers.items() if worker.first}
        compared = () if options.quick else ("fp32", "auto")
        judged = [aurocs((train, judge), where / "features", precision) for precision in compared]
    for result in judged:
        print(f"  {result['engine']}: AUROC {result['random']:.4f} random, {result['judged']:.4f} judged", flush=True)
    return Record(
        suite="extraction",
        clock=clock_of(__doc__ or ""),
        variants=VARIANTS,
        raw=raw,
        figures={
            "speedup": figure(ratio(raw, "chosen", "timm"), "x", bar=3.5),
            "speedup_fp32": figure(ratio(raw, "fp32", "timm"), "x", bar=1.7),
            "speedup_allocator": figure(ratio(raw, "chosen", "timm-allocator"), "x"),
            "speedup_fp32_allocator": figure(ratio(raw, "fp32", "timm-allocator"), "x"),
            "share_of_peak": share_of_peak(raw["chosen"]),
            "share_of_peak_fp32": share_of_peak(raw["fp32"]),
            "speedup_switches": figure(ratio(raw, "chosen", "timm-switches"), "x"),
            **precision_figures(judged),
        },
        conditions=started | {"n": raw["chosen"][0]["n"], "children": first, "precision": judged},
        notes=[
            f"Chosen: {first['chosen']['engine']}; in fp32: {first['fp32']['engine']}.",
            "`mean` in `run.json` is the mean feature: the same network on the same tiles, whoever reads them.",
            "auroc_difference is the larger of the two differences; the judge's tiles chose nothing.",
        ],
    )


def precision_figures(judged: list[dict[str, Any]]) -> dict[str, Figure]:
    """Return AUROC in each precision, and the larger of the two differences; nothing where none was compared."""
    if not judged:
        return {}
    lost = max(abs(judged[1][part] - judged[0][part]) for part in ("random", "judged"))
    return {
        "auroc_difference": Figure(lost, f"{lost:.5f}", "AUROC", 0.002, higher_is_better=False),
        **{
            f"auroc_{part}_{result['precision']}": Figure(result[part], f"{result[part]:.4f} ({result['engine']})", "AUROC")
            for result in judged
            for part in ("random", "judged")
        },
    }


def main() -> None:
    options = parser(__doc__ or "", repeats=5)
    options.add_argument("--worker", choices=tuple(VARIANTS), help="be the child that serves this variant")
    chosen = options.parse_args()
    if chosen.worker:
        child(chosen.worker, chosen.tiles)
        return
    finish(measure(chosen), chosen)


if __name__ == "__main__":
    main()
