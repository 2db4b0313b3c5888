"""The end of a run: the best weights, the threshold they need, and a record that is enough to repeat it."""

import csv
import dataclasses
import functools
import io
import platform
import shutil
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from sentinode.errors import masked
from sentinode.fit.loop import Progressing
from sentinode.fit.measure import flop_per_tile
from sentinode.judge.recalibrate import Recalibration, recalibrate
from sentinode.judge.threshold import youden_threshold
from sentinode.machine.memory import peak_bytes, peak_gpu_bytes
from sentinode.machine.plan import Plan
from sentinode.machine.probe import convolution_peak, probe
from sentinode.nets.forward import Logits
from sentinode.nets.trained import ModelFacts, Run, load, save_model, weights_digest
from sentinode.run import FORMAT, remove_leftovers, write_bytes, write_json
from sentinode.scores import Scores, probability_of, write_scores
from sentinode.tiles.split import write_split

if TYPE_CHECKING:
    from sentinode.fit.start import Job

PACKAGES = ("sentinode", "torch", "numpy", "pandas", "scikit-learn", "safetensors", "pillow", "timm", "openvino")
"""Packages whose versions a record names."""
MODULES = {"scikit-learn": "sklearn", "pillow": "PIL"}
"""What is imported of packages by another name."""


def write_history(path: Path, history: list[dict[str, Any]]) -> None:
    """Write one line an epoch as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_bytes(path, text.getvalue().encode())


def auroc_so_far(history: list[dict[str, Any]]) -> list[list[float]]:
    """Return [seconds since the start, validation AUROC] of each epoch that was better than all before it."""
    best, found = -1.0, []
    for line in history:
        if line["valid_auroc"] > best:
            best = line["valid_auroc"]
            found.append([line["seconds"], best])
    return found


def finish(job: "Job", weights: dict[str, Tensor], raw: Logits, found: dict[str, Any]) -> Run:
    """Write the model, the validation scores, the split and run.json, in this order; then the run is finished.

    Parameters
    ----------
    weights
        The state of the network that is kept.
    raw
        Its logits [n] of the validation part, in the arithmetic that prediction uses: they choose the threshold.
    found
        What is this training's own in run.json: best_epoch, stopped_by, valid, cost, plan.
    """
    folder, parts = job.folder, job.parts
    store, rows = parts.valid
    labels = store.rows["label"].to_numpy()[rows]
    groups = store.rows["group"].astype(str).to_numpy()[rows]
    plain = raw.astype(np.float64) + job.facts.logit_shift
    mended = recalibrate(labels, plain, groups)
    calibrated = with_calibration(job.facts, mended)
    logits = (raw.astype(np.float64) + calibrated.logit_shift) / calibrated.temperature
    probability = probability_of(logits)
    facts = dataclasses.replace(
        calibrated,
        threshold=float(youden_threshold(labels, probability)),
        threshold_rule="highest sensitivity + specificity on valid",
        training=job.facts.training | {"best_epoch": found["best_epoch"], "tiles": len(parts.train[1])},
    )
    save_model(folder, weights, facts)
    table = store.rows.iloc[rows][["id", "group", "label"]].assign(logit=logits, probability=probability)
    header = {"runs": [weights_digest(folder)], "store": store.digest, "protocol": parts.split.how, "views": 1}
    write_scores(folder / "valid.parquet", Scores(pd.DataFrame(table).reset_index(drop=True), header))
    write_split(folder / "split.parquet", parts.passport())
    write_json(folder / "run.json", record(job, found) | {"calibration": mended.as_dict(), "digest": weights_digest(folder)})
    shutil.rmtree(folder / "resume", ignore_errors=True)
    remove_leftovers(folder)
    (folder / "unfinished.json").unlink(missing_ok=True)
    return load(folder)


def with_calibration(facts: ModelFacts, mended: Recalibration) -> ModelFacts:
    """Return the facts with a map of logits, scale * logit + shift, put into shift and temperature; unchanged where none helps."""
    if mended.kind == "none":
        return facts
    return dataclasses.replace(
        facts, logit_shift=facts.logit_shift + mended.shift / mended.scale, temperature=facts.temperature / mended.scale
    )


def record(job: "Job", found: dict[str, Any]) -> dict[str, Any]:
    """Return run.json's content: settings resolved, data, weights, versions, machine, plan, cost, best epoch, valid scores."""
    parts = job.parts
    return {
        "format": FORMAT,
        "settings": dataclasses.asdict(job.settings),
        "data": {
            "train": {"store": parts.train[0].digest, "n": len(parts.train[1])},
            "valid": {"store": parts.valid[0].digest, "n": len(parts.valid[1])},
            "classes": list(parts.train[0].classes),
            "px": parts.train[0].px,
            "split": parts.split.how,
        },
        "warnings": list(parts.split.warnings),
        **found,
        **({"picked": dataclasses.asdict(job.picked)} if job.picked.changes else {}),
        "valid": found["valid"] | {"n": len(parts.valid[1]), "chose_the_epoch": True},
        "preprocessing": dataclasses.asdict(job.facts.preprocessing),
        "weights": {name: job.facts.training.get(name, "") for name in ("weights", "weights_digest", "guard")},
        "machine": dataclasses.asdict(probe()),
        "versions": versions() | {"python": platform.python_version()},
        "command": command_of(sys.argv),
    }


def command_of(argv: list[str]) -> list[str]:
    """Return the command that was typed, as `sentinode` or `python -m sentinode`; ["python"] where it was called from Python."""
    program = Path(argv[0])
    typed = program.stem == "sentinode" or program.parts[-2:] == ("sentinode", "__main__.py")
    return ["sentinode", *map(masked, argv[1:])] if typed else ["python"]


def versions() -> dict[str, str]:
    """Return the versions of the packages a record names, of those that are installed."""
    return {name: version(name) for name in PACKAGES if find_spec(MODULES.get(name, name))}


@functools.cache
def peak_of(device: str, precision: str, threads: int) -> float:
    """Return the measured convolution peak, flop/s; measured once a process, as it takes longer than many a fold of few tiles."""
    del threads  # the peak depends on how many there are
    return convolution_peak(device, precision)


def cost(state: Progressing, network: nn.Module, plan: Plan, px: int) -> dict[str, Any]:
    """Return what training `network` cost: seconds, tiles/s, peak memory, and the share of the measured convolution peak."""
    epochs = len(state.history)
    tiles = sum(line["tiles"] for line in state.history)
    rate = tiles / state.train_seconds
    flop = flop_per_tile(network, px)
    peak = plan.processes * peak_of(plan.device, plan.precision, torch.get_num_threads())
    return {
        "seconds": round(state.seconds, 2),
        "cpu_minutes": round(state.cpu_seconds / 60, 2),
        "train_seconds": round(state.train_seconds, 2),
        "epochs": epochs,
        "auroc_so_far": auroc_so_far(state.history),
        "steps_skipped": state.skipped,
        "tiles_per_s": round(rate, 1),
        "peak_memory_bytes": peak_bytes(),
        "peak_gpu_bytes": peak_gpu_bytes(plan.device),
        "flop_per_tile": flop,
        "peak_flop_per_s": round(peak),
        "share_of_peak": round(rate * flop / peak, 4),
    }
