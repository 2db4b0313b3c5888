"""Exported files beside eager prediction: the largest difference in probability, and speed.

Inside the clock is what a user of each waits for: uint8 tiles in memory to probabilities, batches of 64, preprocessing included, fp32,
two threads; not loading. Eager is `Run.predict_proba` with our allocator settings. The files are run by onnxruntime (its CPU provider)
and by torch.jit, without Sentinode. Every variant lives in its own process. Differences are those that `export` itself found over 1,000
real tiles after reading the file back.
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
from benchmarks.records import Figure, Record, conditions, figure
from benchmarks.suite import clock_of, finish, parser, turns
from benchmarks.workers import Worker, serve

NETWORKS: dict[str, dict[str, Any]] = {
    "simple-cnn": {"epochs": 3, "precision": "fp32"},
    "lite0": {"model": "tf_efficientnet_lite0", "backbone": "frozen"},
}
"""What is trained, briefly, on the Kaggle tiles, and exported: settings of `train`."""
WAYS = {"eager": "eager: Run.predict_proba", "onnx": "onnxruntime", "torchscript": "torch.jit"}
"""How a run is applied."""
THREADS, BATCH = 2, 64
"""Of every variant."""
ENDINGS = {"onnx": ".onnx", "torchscript": ".pt"}
"""Of the files that are timed."""


def applied(way: str, run: Path) -> Callable[[Any], Any]:
    """Return a function from uint8 tiles to probabilities."""
    if way == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        session = onnxruntime.InferenceSession(run.with_name(run.name + ENDINGS[way]), options)
        return lambda tiles: session.run(["probability"], {"tiles": tiles})[0]
    if way == "eager":
        from sentinode.machine.memory import set_allocator

        set_allocator()
    import torch

    torch.set_num_threads(THREADS)
    if way == "torchscript":
        network = torch.jit.load(run.with_name(run.name + ENDINGS[way]))
        return torch.inference_mode()(lambda tiles: network(torch.from_numpy(tiles)).numpy())
    import sentinode

    return sentinode.load(run).predict_proba


def child(way: str, run: Path, store: Path, n: int) -> None:
    """Serve one variant on the first `n` tiles of a store."""
    tiles, apply = np.array(np.load(store / "tiles.npy", mmap_mode="r")[:n]), applied(way, run)

    def work() -> Measured:
        start = time.perf_counter()
        total = sum(float(apply(tiles[first : first + BATCH]).sum()) for first in range(0, len(tiles), BATCH))
        return {"seconds": time.perf_counter() - start, "n": len(tiles), "mean_probability": total / len(tiles)}

    work()
    serve(work)


def measure(options: argparse.Namespace) -> Record:
    """Train, export, and run all variants in turn."""
    import sentinode

    networks = {name: NETWORKS[name] for name in options.networks}
    n = 128 if options.quick else 512
    started = conditions(repeats=options.repeats, n=n, batch=BATCH, threads_a_variant=THREADS, networks=networks)
    figures: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        store = sentinode.pack(options.tiles / "kaggle", out=Path(folder) / "kaggle.store", quiet=True).path
        workers = {}
        for name, settings in networks.items():
            run = Path(folder) / name
            quick = {"epochs": 1, "sample": "10%"} if options.quick else {}
            sentinode.train(store, out=run, quiet=True, **settings | quick)
            for kind in ENDINGS:
                found = sentinode.export(run, to=kind, tiles=store, quiet=True).parity.largest_difference
                figures[f"{name}_{kind}_difference"] = Figure(found, f"{found:.1e}", "", 1e-4, higher_is_better=False)
            for way in WAYS:
                words = ("--tiles", str(store), "--worker", way, "--run", str(run), "--n", str(n))
                workers[f"{name}_{way}"] = stack.enter_context(Worker("benchmarks.export", *words))
        raw = in_turn(workers, turns(options))
    for name in networks:
        figures[f"{name}_onnx_speedup"] = figure(ratio(raw, f"{name}_onnx", f"{name}_eager"), "x", bar=1.0, digits=2)
        figures[f"{name}_torchscript_speedup"] = figure(ratio(raw, f"{name}_torchscript", f"{name}_eager"), "x", digits=2)
    variants = {f"{name}_{way}": f"{name}, {words}" for name in networks for way, words in WAYS.items()}
    return Record("export", clock_of(__doc__ or ""), variants, raw, figures, started)


def main() -> None:
    options = parser(__doc__ or "", repeats=7)
    options.add_argument("--networks", nargs="+", choices=tuple(NETWORKS), default=list(NETWORKS), help="what is exported")
    options.add_argument("--worker", choices=tuple(WAYS), help="be the child that serves this variant")
    options.add_argument("--run", type=Path, help="the child's run; its files lie beside it")
    options.add_argument("--n", type=int, help="the child's tiles")
    chosen = options.parse_args()
    if chosen.worker:
        child(chosen.worker, chosen.run, chosen.tiles, chosen.n)
        return
    finish(measure(chosen), chosen)


if __name__ == "__main__":
    main()
