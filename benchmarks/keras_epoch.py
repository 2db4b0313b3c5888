"""The same epoch beside the reference study's pipeline: Keras `flow_from_dataframe` and the same network on TensorFlow.

Inside the clock is one epoch over the Kaggle training tiles: reading, augmentation, every step; not validation, and not the first
epoch, in which TensorFlow compiles (shown apart). TensorFlow lives in an environment of its own, used for this alone.
"""

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks.clock import in_turn, ratio, spread
from benchmarks.environments import PACKAGES, install, python_of
from benchmarks.epoch import QUICK_STEPS
from benchmarks.peers import BATCH
from benchmarks.records import Record, conditions, figure
from benchmarks.suite import clock_of, finish, parser, turns
from benchmarks.workers import Worker
from sentinode.machine.memory import MALLOC_SETTINGS

VARIANTS = {
    "chosen": "sentinode, the plan's choice, augmented as the peer (views only)",
    "recipe": "sentinode, the plan's choice, its own recipe (colour augmentation too)",
    "keras": "Keras flow_from_dataframe + the same network in Keras on TensorFlow CPU, fp32, Adam, batch 64",
    "keras-switches": "the same with our allocator settings and Keras's mixed_bfloat16",
    "study": "as keras, layers in the study's order: activation, then pooling",
}
"""What each variant is."""


def measure(options: argparse.Namespace) -> Record:
    """Run both in turn."""
    import sentinode

    started = conditions(repeats=options.repeats, batch=BATCH, page_cache="warm", network="simple-cnn, 96 px")
    quick, limit = (["--quick"], ["--limit", str(QUICK_STEPS * BATCH)]) if options.quick else ([], [])
    with tempfile.TemporaryDirectory() as name:
        store = Path(name) / "kaggle.store"
        sentinode.pack(options.tiles / "kaggle", out=store, quiet=True)
        python, kaggle = str(python_of(options.environment)), ["--kaggle", str(options.tiles / "kaggle"), *limit]
        with (
            Worker("benchmarks.epoch", "--tiles", str(store), "--worker", "chosen", *quick) as chosen,
            Worker("benchmarks.epoch", "--tiles", str(store), "--worker", "recipe", *quick) as recipe,
            Worker("benchmarks.keras_peer", *kaggle, python=python) as keras,
            Worker("benchmarks.keras_peer", *kaggle, "--switches", json.dumps(MALLOC_SETTINGS), python=python) as switches,
            Worker("benchmarks.keras_peer", *kaggle, "--study-order", python=python) as study,
        ):
            workers = {"chosen": chosen, "recipe": recipe, "keras": keras, "keras-switches": switches, "study": study}
            raw = in_turn(workers, turns(options))
            first = {variant: worker.first for variant, worker in workers.items()}
    return Record(
        suite="keras_epoch",
        clock=clock_of(__doc__ or ""),
        variants=VARIANTS,
        raw=raw,
        figures={
            "keras_rate": figure(spread([m["n"] / m["seconds"] for m in raw["keras"]]), " tiles/s", digits=0),
            "speedup": figure(ratio(raw, "chosen", "keras"), "x", bar=4),
            "speedup_switches": figure(ratio(raw, "chosen", "keras-switches"), "x", bar=2),
            "speedup_study_order": figure(ratio(raw, "chosen", "study"), "x"),
            "speedup_recipe": figure(ratio(raw, "recipe", "keras"), "x"),
        },
        conditions=started | {"n": raw["chosen"][0]["n"], "children": first},
        notes=[
            f"Keras's first epoch, compiling included: {first['keras']['first_epoch_s']:.1f} s.",
            "Versions of the peer: " + ", ".join(f"{k} {v}" for k, v in first["keras"]["versions"].items()) + ".",
        ],
    )


def main() -> None:
    options = parser(__doc__ or "", repeats=5)
    options.add_argument("--environment", type=Path, required=True, help="the virtual environment that holds TensorFlow")
    options.add_argument("--install", action="store_true", help="make that environment first")
    chosen = options.parse_args()
    if chosen.install:
        install(chosen.environment, PACKAGES["keras"])
    finish(measure(chosen), chosen)


if __name__ == "__main__":
    main()
