"""Steps of fine-tuning a pretrained network, beside timm's own loader and the loop of its script: fp32, NCHW.

Inside the clock is one pass over the tiles: reading (ours from the packed store, the peer from the files), augmentation (views
only, on both sides), resizing, every step; not validation, not the head that is fitted first. Weights are random: time does not
depend on them. The peer is timm's dataset, loader, transform and network, AdamW, batch 64, batch norm in training mode as its script
has it, two loader processes that are kept between turns, and the system's allocator. For honesty it runs once more with our
allocator settings, channels-last and bf16 autocast, the switches that it has. Every variant lives in its own process.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.clock import Measured, in_turn, ratio, spread
from benchmarks.ours import epochs, open_feed, told, with_share
from benchmarks.peers import BATCH, LOADERS, class_folders
from benchmarks.records import Record, conditions, figure, share_of_peak
from benchmarks.suite import clock_of, finish, parser, turns
from benchmarks.workers import Worker, serve

NETWORKS = {"lite0": ("tf_efficientnet_lite0", 192), "resnet18": ("resnet18", 96)}
"""timm's name and the input's edge: what `--backbone finetune` trains unless told otherwise, and the peers' usual small network."""
SIDES = {
    "chosen": "sentinode, the plan's choice",
    "fp32": "sentinode, fp32",
    "timm": "timm's loader and network, fp32 NCHW, system's allocator",
    "timm-switches": "the same with our allocator settings, channels-last and bf16 autocast",
}
VARIANTS = {
    f"{network}-{side}": f"{name} at {px} px: {told}" for network, (name, px) in NETWORKS.items() for side, told in SIDES.items()
}
"""What each variant is."""
TILES, QUICK_TILES = 512, 128
"""Tiles of a turn."""


def ours(store: Path, network: str, px: int, precision: str) -> tuple[Callable[[], Measured], dict[str, Any]]:
    """Return a function that trains once on all tiles as `sentinode train --backbone finetune` does, and what the plan chose."""
    from sentinode.machine.memory import set_allocator

    set_allocator()
    from sentinode.fit.measure import flop_per_tile
    from sentinode.nets.backbone import Classifier, preprocessing_of
    from sentinode.nets.forward import placed
    from sentinode.nets.transform import Transform
    from sentinode.settings import TrainSettings, resolved, settings_from

    options = {"model": network, "backbone": "finetune", "precision": precision, "batch": BATCH, "colour": 0.0}
    settings, feed = resolved(settings_from(TrainSettings, None, options)), open_feed(store)
    model = placed(Classifier(network, input_px=px, dropout=settings.dropout, keep_statistics=True), "cpu")
    transform = Transform(preprocessing_of(model.pooled.backbone.pretrained_cfg, px), 96)  # type: ignore[union-attr]
    work, plan = epochs(model, settings, feed, transform, resident_bytes=feed.tiles.nbytes)
    return with_share(work, flop_per_tile(model, px), plan.precision), told(plan)


def usual(folders: Path, network: str, px: int, *, switches: bool) -> Callable[[], Measured]:
    """Return a function that trains once on all tiles in a loop as timm's script has it, over timm's loader and network."""
    if switches:
        from sentinode.machine.memory import set_allocator

        set_allocator()
    from sentinode.nets.backbone import timm_module

    timm = timm_module()
    import torch
    from timm.data import create_dataset, create_loader
    from timm.data.readers.img_extensions import add_img_extensions
    from torch.nn import functional

    model = timm.create_model(network, pretrained=False, num_classes=1).train()
    layout = torch.channels_last if switches else torch.contiguous_format
    model = model.to(memory_format=layout)
    facts = model.pretrained_cfg
    scaled: dict[str, Any] = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "hflip": 0.5, "vflip": 0.5, "color_jitter": None}
    scaled |= {name: facts[name] for name in ("mean", "std", "interpolation")}
    add_img_extensions(".tif")
    dataset = create_dataset("", str(folders))
    # What its script does without a GPU, for which the prefetcher is.
    batches = create_loader(dataset, px, BATCH, is_training=True, use_prefetcher=False, num_workers=LOADERS, **scaled)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def work() -> Measured:
        start, cpu, n = time.perf_counter(), time.process_time(), 0
        for x, y in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=switches):
                logits = model(x.to(memory_format=layout)).squeeze(1)
            loss = functional.binary_cross_entropy_with_logits(logits.float(), y.float())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            n += len(x)
        return {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu, "n": n}

    return work


def child(variant: str, data: Path) -> None:
    """Serve one variant: `data` is the store for ours, the class folders for the peer."""
    short, _, side = variant.partition("-")
    if side in {"chosen", "fp32"}:
        work, first = ours(data, *NETWORKS[short], "auto" if side == "chosen" else "fp32")
        serve(work, **first)
    else:
        serve(usual(data, *NETWORKS[short], switches=side == "timm-switches"))


def measure(options: argparse.Namespace) -> Record:
    """Run all variants in turn."""
    import sentinode

    tiles = QUICK_TILES if options.quick else TILES
    started = conditions(repeats=options.repeats, batch=BATCH, loaders=LOADERS, page_cache="warm", networks=NETWORKS)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folders = class_folders(options.tiles / "kaggle", Path(name) / "folders", tiles)
        sentinode.pack(folders, out=Path(name) / "some.store", quiet=True)
        workers = {}
        for variant in VARIANTS:
            data = Path(name) / "some.store" if variant.endswith(("chosen", "fp32")) else folders
            workers[variant] = stack.enter_context(Worker("benchmarks.finetune", "--tiles", str(data), "--worker", variant))
        raw = in_turn(workers, turns(options))
        first = {variant: worker.first for variant, worker in workers.items() if worker.first}
    figures = {}
    for short in NETWORKS:
        sides = {side: f"{short}-{side}" for side in SIDES}
        figures |= {
            f"{short}_speedup": figure(ratio(raw, sides["chosen"], sides["timm"]), "x", bar=2.5 if short == "resnet18" else None),
            f"{short}_speedup_fp32": figure(ratio(raw, sides["fp32"], sides["timm"]), "x"),
            f"{short}_speedup_switches": figure(ratio(raw, sides["chosen"], sides["timm-switches"]), "x"),
            f"{short}_share_of_peak": share_of_peak(raw[sides["chosen"]]),
            f"{short}_rate": figure(spread([m["n"] / m["seconds"] for m in raw[sides["chosen"]]]), " tiles/s"),
        }
    return Record(
        suite="finetune",
        clock=clock_of(__doc__ or ""),
        variants=VARIANTS,
        raw=raw,
        figures=figures,
        conditions=started | {"n": tiles, "children": first},
        notes=[
            "Ours keeps batch norm's pretrained statistics, which is its recipe and less work; the peer's norms are trained in full."
        ],
    )


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
