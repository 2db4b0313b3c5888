"""What the plan chooses beside plain fp32, eager, of the same network: it must never be the slower one.

Inside the clock of training are steps on batches of 64 tiles that lie in memory: ours with views, colour and running mean as
`sentinode train` takes them, plain fp32 without any of these, which makes it the faster for it (NCHW, AdamW). Of applying a network:
batches of normalised tiles, in the form that is the fastest of all, its conversion not included, and as it is. Of `predict`: the whole
command over so many tiles with a trained simple CNN, choosing and conversion included, as it comes and with --precision fp32. Every
variant lives in its own process; plain fp32 runs with the system's allocator and once more with our settings, beside which nothing
that the plan chooses may be slower. Each plan stands with its reasons in the record. Random tiles and weights.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.clock import Measured, in_turn, ratio
from benchmarks.ours import epochs, told
from benchmarks.peers import BATCH
from benchmarks.records import Figure, Record, conditions, figure
from benchmarks.suite import clock_of, finish, parser, turns
from benchmarks.synthetic import write_folder
from benchmarks.workers import Worker, serve

NETWORKS = {"simple-cnn": 96, "p4m-cnn": 96, "resnet18": 96, "tf_efficientnet_lite0": 128}
"""Networks, and the edge of their input."""
JOBS = {"train": "training", "apply": "applying"}
SIDES = {
    "plan": "as planned",
    "eager": "plain fp32, eager",
    "eager-allocator": "plain fp32, eager, with our allocator settings",
}
SIZES, QUICK_SIZES = (64, 1_000, 10_000), (64,)
"""Tiles of the commands."""
COMMANDS = {"plan": "as it comes", "fp32": "with --precision fp32"}
VARIANTS = {
    **{
        f"{job} {network} {side}": f"{JOBS[job]} {network}, {words}"
        for job in JOBS
        for network in NETWORKS
        for side, words in SIDES.items()
    },
    **{f"predict {n} {side}": f"predict {n:,} tiles with simple-cnn, {words}" for n in SIZES for side, words in COMMANDS.items()},
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


def plain(job: str, network: str, n: int, *, allocator: bool) -> Callable[[], Measured]:
    """Return what does the job in plain fp32."""
    if allocator:
        from sentinode.machine.memory import set_allocator

        set_allocator()
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


def predicting(home: Path, n: int, side: str) -> Callable[[], Measured]:
    """Return what scores `n` tiles of the store in `home` with the run there."""
    import sentinode

    precision = "auto" if side == "plan" else side

    def work() -> Measured:
        start = time.perf_counter()
        scores = sentinode.predict(
            home / "run", home / f"{n}.store", out=home / f"{side}.parquet", precision=precision, overwrite=True, quiet=True
        )
        return {"seconds": time.perf_counter() - start, "n": len(scores), "arithmetic": scores.header["plan"]["arithmetic"][0]}

    work()
    return work


def child(variant: str, n: int, home: Path) -> None:
    """Serve one variant."""
    job, network, side = variant.split()
    if job == "predict":
        serve(predicting(home, int(network), side))
    elif side == "plan":
        work, first = planned(job, network, n)
        serve(work, **first)
    else:
        serve(plain(job, network, n, allocator=side == "eager-allocator"))


def measure(options: argparse.Namespace) -> Record:
    """Run all sides of every job in turn, one job after the other."""
    import sentinode

    n, sizes = (QUICK_TILES, QUICK_SIZES) if options.quick else (TILES, SIZES)
    started = conditions(repeats=options.repeats, batch=BATCH, networks=NETWORKS, n=n, sizes=sizes)
    raw: dict[str, list[Measured]] = {}
    first: dict[str, Any] = {}
    figures: dict[str, Figure] = {}
    quick = ["--quick"] if options.quick else []

    def beside(job: str, what: str, sides: Iterable[str], home: str) -> dict[str, str]:
        """Measure the sides of a job; return their names."""
        names = {side: f"{job} {what} {side}" for side in sides}
        with ExitStack() as stack:
            command = ("benchmarks.plan", "--home", home, *quick, "--worker")
            workers = {name: stack.enter_context(Worker(*command, name)) for name in names.values()}
            raw.update(in_turn(workers, turns(options)))
            first.update({name: worker.first for name, worker in workers.items() if worker.first})
        return names

    with tempfile.TemporaryDirectory() as home:
        for job in JOBS:
            for network in NETWORKS:
                names = beside(job, network, SIDES, home)
                figures[f"{job}_{network}"] = figure(ratio(raw, names["plan"], names["eager"]), "x")
                figures[f"{job}_{network}_allocator"] = figure(ratio(raw, names["plan"], names["eager-allocator"]), "x", bar=1)
        for size in sizes:
            store = sentinode.pack(write_folder(Path(home) / f"{size}", size), out=Path(home) / f"{size}.store", quiet=True)
            if not (Path(home) / "run").exists():
                sentinode.train(store, out=Path(home) / "run", epochs=1, quiet=True)
            names = beside("predict", str(size), COMMANDS, home)
            figures[f"predict_{size}"] = figure(ratio(raw, names["plan"], names["fp32"]), "x", digits=2)
    chosen = [f"{name}: {one['plan']}: {one['reasons']}" for name, one in first.items()]
    variants = {name: words for name, words in VARIANTS.items() if name in raw}
    return Record("plan", clock_of(__doc__ or ""), variants, raw, figures, started | {"children": first}, chosen)


def main() -> None:
    options = parser(__doc__ or "", repeats=5, tiles=False)
    options.add_argument("--worker", help="be the child that serves this variant")
    options.add_argument("--home", type=Path, help="where the child finds stores and the run")
    chosen = options.parse_args()
    if chosen.worker:
        child(chosen.worker, QUICK_TILES if chosen.quick else TILES, chosen.home)
        return
    finish(measure(chosen), chosen)


if __name__ == "__main__":
    main()
