"""What the plan chooses beside plain fp32, eager, of the same network: it must never be the slower one.

Inside the clock of training are steps on batches of 64 tiles that lie in memory: ours with views, colour and running mean as
`sentinode train` takes them, plain fp32 without any of these, which makes it the faster for it (NCHW, AdamW, the system's allocator).
Of applying a network: batches of normalised tiles, in the form that was chosen, its conversion not included, and as it is. Every
variant lives in its own process; each plan stands with its reasons in the record. Random tiles and weights: time depends on neither.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from benchmarks.clock import Measured, in_turn, ratio
from benchmarks.ours import epochs, told
from benchmarks.peers import BATCH
from benchmarks.records import Record, conditions, figure
from benchmarks.suite import clock_of, finish, parser, turns
from benchmarks.workers import Worker, serve

NETWORKS = {"simple-cnn": 96, "p4m-cnn": 96, "resnet18": 96, "tf_efficientnet_lite0": 128}
"""Networks, and the edge of their input."""
JOBS = {"train": "training", "apply": "applying"}
SIDES = {"plan": "as planned", "eager": "plain fp32, eager"}
VARIANTS = {
    f"{job} {network} {side}": f"{JOBS[job]} {network}, {words}"
    for job in JOBS
    for network in NETWORKS
    for side, words in SIDES.items()
}
"""What each variant is."""
TILES, QUICK_TILES = 512, 128
"""Tiles of a turn."""


def made(network: str) -> Any:
    """Return the network, in NCHW order on the CPU."""
    from sentinode.nets.backbone import Classifier
    from sentinode.nets.trained import build

    if network.endswith("-cnn"):
        return build(network, {"dropout": 0.0})
    return Classifier(network, input_px=NETWORKS[network], dropout=0.0, keep_statistics=True)


def transform_of(network: str) -> Any:
    """Return what makes input of tiles."""
    from sentinode.fit.measure import GREY
    from sentinode.nets.transform import Preprocessing, Transform

    px = NETWORKS[network]
    return Transform(GREY if px == 96 else Preprocessing(GREY.mean, GREY.std, input_px=px), 96)


def some_tiles(n: int) -> Any:
    """Return uint8 [n, 96, 96, 3]."""
    import torch

    return torch.randint(0, 256, (n, 96, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def planned(job: str, network: str, n: int) -> tuple[Callable[[], Measured], dict[str, Any]]:
    """Return what does the job as planned, and the plan."""
    from sentinode.machine.memory import set_allocator

    set_allocator()
    import numpy as np
    import torch

    from sentinode.fit.feed import Feed
    from sentinode.nets.engine import fastest
    from sentinode.nets.forward import leaving_cores
    from sentinode.settings import TrainSettings, resolved, settings_from

    transform, tiles = transform_of(network), some_tiles(n)
    if job == "train":
        own = {"model": network} | ({} if network.endswith("-cnn") else {"backbone": "finetune"})
        settings = resolved(settings_from(TrainSettings, None, own | {"batch": BATCH}))
        feed = Feed(tiles, np.arange(n), (torch.arange(n) % 2).float())
        work, plan = epochs(made(network), settings, feed, transform, resident_bytes=tiles.nbytes)
        return work, told(plan)
    inputs = [transform(part) for part in tiles.split(BATCH)]
    engine = fastest(made(network).eval(), inputs[0])

    def apply() -> Measured:
        start = time.perf_counter()
        with leaving_cores(engine.call):
            for x in inputs:
                engine.call(x)
        return {"seconds": time.perf_counter() - start, "n": n}

    apply()
    return apply, {"plan": engine.name, "reasons": engine.reasons}


def plain(job: str, network: str, n: int) -> Callable[[], Measured]:
    """Return what does the job in plain fp32."""
    import torch
    from torch.nn import functional

    transform, model = transform_of(network), made(network)
    inputs = [transform(part).contiguous() for part in some_tiles(n).split(BATCH)]
    if job == "apply":
        model.eval()

        @torch.inference_mode()
        def apply() -> Measured:
            start = time.perf_counter()
            for x in inputs:
                model(x)
            return {"seconds": time.perf_counter() - start, "n": n}

        apply()
        return apply
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def train() -> Measured:
        start = time.perf_counter()
        for x in inputs:
            loss = functional.binary_cross_entropy_with_logits(model(x).flatten(), torch.arange(len(x)).remainder(2).float())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return {"seconds": time.perf_counter() - start, "n": n}

    train()
    return train


def child(variant: str, n: int) -> None:
    """Serve one variant."""
    job, network, side = variant.split()
    if side == "plan":
        work, first = planned(job, network, n)
        serve(work, **first)
    else:
        serve(plain(job, network, n))


def measure(options: argparse.Namespace) -> Record:
    """Run both sides of every job in turn, one job after the other."""
    n = QUICK_TILES if options.quick else TILES
    started = conditions(repeats=options.repeats, batch=BATCH, networks=NETWORKS, n=n)
    raw: dict[str, list[Measured]] = {}
    first: dict[str, Any] = {}
    figures = {}
    quick = ["--quick"] if options.quick else []
    for job in JOBS:
        for network in NETWORKS:
            names = {side: f"{job} {network} {side}" for side in SIDES}
            with ExitStack() as stack:
                workers = {
                    name: stack.enter_context(Worker("benchmarks.plan", "--worker", name, *quick)) for name in names.values()
                }
                raw |= in_turn(workers, turns(options))
                first[names["plan"]] = workers[names["plan"]].first
            figures[f"{job}_{network}"] = figure(ratio(raw, names["plan"], names["eager"]), "x", bar=1)
    chosen = [f"{name}: {one['plan']}: {one['reasons']}" for name, one in first.items()]
    return Record("plan", clock_of(__doc__ or ""), VARIANTS, raw, figures, started | {"children": first}, chosen)


def main() -> None:
    options = parser(__doc__ or "", repeats=5, tiles=False)
    options.add_argument("--worker", choices=tuple(VARIANTS), help="be the child that serves this variant")
    chosen = options.parse_args()
    if chosen.worker:
        child(chosen.worker, QUICK_TILES if chosen.quick else TILES)
        return
    finish(measure(chosen), chosen)


if __name__ == "__main__":
    main()
