"""220,000 tiles resident on a GPU: an epoch of the simple CNN, features of a frozen ResNet50, an epoch of fine-tuning it, all at 96 px.

Inside the clock is one pass over all tiles, which lie on the device as uint8: gathering, augmentation or preprocessing, network,
optimiser; not validation, and of the features not the feature store. The device is waited for before and after. Random tiles and
weights, which take the time of real ones. Beside each stands its share of the convolution peak, measured in the same process in the
precision used: the bound. There is no peer here: `epoch`, `extraction` and `finetune` have those, on a CPU.

With --device cpu, and few tiles, it shows that it runs.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.clock import Measured, spread
from benchmarks.ours import epochs, told
from benchmarks.peers import MEAN, STD
from benchmarks.records import Figure, Record, conditions, figure
from benchmarks.suite import clock_of, finish, parser, turns
from benchmarks.workers import Worker, serve

PX, TILES, QUICK_TILES = 96, 220_000, 256
VARIANTS = {
    "cnn": "simple-cnn, a training epoch",
    "frozen": "ResNet50, features of all tiles",
    "finetune": "ResNet50, a fine-tuning epoch",
}
"""What is measured."""
BARS = {"cnn": 1.0, "frozen": 3.0, "finetune": 8.0}
"""Seconds on an H100 or H200."""
PEAK_S = 1.0
"""Seconds that the convolution peak is measured after each turn."""


def resident(n: int, device: str) -> Any:
    """Return a feed of random tiles on the device, made there."""
    import torch

    from sentinode.fit.feed import Feed

    tiles = torch.randint(0, 256, (n, PX, PX, 3), dtype=torch.uint8, device=device)
    return Feed(tiles, np.arange(n), torch.randint(0, 2, (n,), device=device).float())


def trained(job: str, n: int, device: str) -> tuple[Callable[[], Measured], dict[str, Any]]:
    """Return a function that trains for one epoch as `sentinode train` does, and what the plan chose."""
    from sentinode.fit.measure import flop_per_tile
    from sentinode.machine.probe import convolution_peak
    from sentinode.nets.backbone import Classifier
    from sentinode.nets.forward import placed
    from sentinode.nets.trained import build
    from sentinode.nets.transform import Preprocessing, Transform
    from sentinode.settings import TrainSettings, resolved, settings_from

    wishes = {"device": device} | ({} if job == "cnn" else {"model": "resnet50", "backbone": "finetune"})
    settings, feed = resolved(settings_from(TrainSettings, None, wishes)), resident(n, device)
    network: Any = build(settings.model, {"dropout": settings.dropout}) if job == "cnn" else None
    model = placed(network or Classifier("resnet50", input_px=PX, dropout=settings.dropout, keep_statistics=True), device)
    operations, transform = flop_per_tile(model, PX), Transform(Preprocessing(MEAN, STD), PX).to(device)
    one, plan = epochs(model, settings, feed, transform)  # the tiles are there already: nothing more to hold

    def work() -> Measured:
        found = one()
        share = operations * found["n"] / found["seconds"] / convolution_peak(device, plan.precision, PEAK_S)
        return found | {"share_of_peak": share}

    return work, told(plan) | {"host_waits_an_epoch": waits(one, device), "steps_an_epoch": -(-n // settings.batch)}


def waits(one: Callable[[], Measured], device: str) -> int | None:
    """Return how often the host waited for the GPU in an epoch, as torch tells it; None on a CPU."""
    import torch

    if not device.startswith("cuda"):
        return None
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            one()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in seen)


def extracted(n: int, device: str) -> tuple[Callable[[], Measured], dict[str, Any]]:
    """Return a function that computes the features of all tiles in the fastest form, and which that is."""
    import torch

    from benchmarks.extraction import resnet
    from sentinode.fit.features import BATCH_PIXELS
    from sentinode.fit.measure import forward_flop
    from sentinode.machine.probe import convolution_peak
    from sentinode.nets.engine import fastest
    from sentinode.nets.forward import placed
    from sentinode.nets.transform import Preprocessing, Transform

    feed, model, batch = resident(n, device), placed(resnet(), device), max(1, BATCH_PIXELS // PX**2)
    operations, transform = forward_flop(model, PX), Transform(Preprocessing(MEAN, STD), PX).to(device)
    engine = fastest(model, transform(feed.tiles[:batch]))

    def work() -> Measured:
        start = time.perf_counter()
        for tiles in feed.in_order(batch):
            engine.call(transform(tiles))
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
        share = operations * n / seconds / convolution_peak(device, engine.precision, PEAK_S)
        return {"seconds": seconds, "n": n, "share_of_peak": share}

    work()
    return work, {"engine": engine.name, "reasons": engine.reasons, "batch": batch}


def measure(options: argparse.Namespace) -> Record:
    """Measure each job, one after another, in a process of its own: a GPU has room for one set of tiles."""
    n = QUICK_TILES if options.quick else options.n
    started = conditions(n=n, repeats=turns(options), device=options.device)
    raw: dict[str, list[Measured]] = {}
    chosen: dict[str, Any] = {}
    for job in VARIANTS:
        with Worker("benchmarks.gpu", "--worker", job, "--n", str(n), "--device", options.device) as worker:
            chosen[job], raw[job] = worker.first, [worker() for _ in range(turns(options))]
        print(f"  {job}: {raw[job][-1]['seconds']:.2f} s", flush=True)
    figures: dict[str, Figure] = {}
    for job, found in raw.items():
        seconds = figure(spread([turn["seconds"] for turn in found]), " s", digits=2)
        bar = BARS[job] if n == TILES else None
        figures[f"{job}_seconds"] = Figure(seconds.value, seconds.text, "s", bar, higher_is_better=False, span=seconds.span)
        figures[f"{job}_share_of_peak"] = figure(spread([100 * turn["share_of_peak"] for turn in found]), " %")
    return Record(
        suite="gpu",
        clock=clock_of(__doc__ or ""),
        variants=VARIANTS,
        raw=raw,
        figures=figures,
        conditions=started | {"chosen": chosen},
        notes=[
            "The bars are those of an H100 or H200; at the usual batch of 64, 220,000 tiles are 3,438 steps: 0.3 ms each for a second.",
            "In a training epoch the host waits for nothing: what it reads was sent off 16 steps before (host_waits_an_epoch).",
        ],
    )


def main() -> None:
    options = parser(__doc__ or "", repeats=5, tiles=False)
    options.add_argument("--n", type=int, default=TILES, help="tiles (220,000, as many as Kaggle's)")
    options.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu to try it (cuda)")
    options.add_argument("--worker", choices=tuple(VARIANTS), help="be the child that does this job")
    chosen = options.parse_args()
    if chosen.worker:
        size = chosen.n, chosen.device
        work, first = extracted(*size) if chosen.worker == "frozen" else trained(chosen.worker, *size)
        serve(work, **first)
        return
    finish(measure(chosen), chosen)


if __name__ == "__main__":
    main()
