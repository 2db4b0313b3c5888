"""What a judgement was made of and by, and what its page shows beside the numbers: curves' bands, slides, the surest mistakes."""

import dataclasses
import os
import platform
import shlex
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sentinode.errors import RunProblem, masked
from sentinode.judge.bands import curve_bands, slide_rows
from sentinode.judge.judgement import Judgement
from sentinode.judge.statement import slides_of
from sentinode.progress import Progress
from sentinode.report.gallery import Gallery, surest_of_both
from sentinode.run import read_json
from sentinode.settings import EvaluateSettings, JudgeSettings
from sentinode.tiles.store import Store
from sentinode.tiles.units import true_slides

PACKAGES = ("sentinode", "numpy", "pandas", "scikit-learn", "matplotlib", "pillow")
"""Packages whose versions a judgement names; where runs are judged, torch too."""
WITHOUT_MODEL = "No saliency: predictions came without the model that made them"
"""Stands under mistakes that no model can explain."""


def record_of(named: tuple[str, ...], out: Path, settings: EvaluateSettings, store: Store, runs: list[Path]) -> dict[str, Any]:
    """Return what goes into judgement.json as `record`: command, versions, machine, store, runs, and how saliency was made."""
    command = command_line(["evaluate", *named, "--out", str(out)], settings)
    return made_by(command, store, runs) | {"saliency": saliency_method(settings, runs)}


def made_by(command: str, store: Store, runs: list[Path]) -> dict[str, Any]:
    """Return what made a result: `command` and those that trained `runs`, versions, machine, store, runs."""
    return {
        "command": [*filter(None, map(training_command, runs)), command],
        "versions": versions((*PACKAGES, "torch") if runs else PACKAGES) | {"python": platform.python_version()},
        "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count() or 1},
        "store": store_facts(store),
        "runs": [run_facts(run) for run in runs],
    }


def command_line(words: Sequence[str], settings: JudgeSettings) -> str:
    """Return the command of `words` with every setting that is not the default."""
    words, plain = ["sentinode", *words], type(settings)()
    for one in dataclasses.fields(settings):
        value = getattr(settings, one.name)
        if value == getattr(plain, one.name):
            continue
        flag = one.name.replace("_", "-")
        words += [f"--{'' if value else 'no-'}{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return masked(shlex.join(words))


def training_command(run: Path) -> str:
    """Return the command that trained a run, where it was typed; nothing where it was trained from Python."""
    words = run_record(run).get("command", [])
    return shlex.join(map(str, words)) if len(words) > 1 else ""


def versions(names: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of packages, without importing them; those that are not installed are left out."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def store_facts(store: Store) -> dict[str, Any]:
    """Return what a reader wants to know of the store that was judged on."""
    return {
        "name": store.path.name,
        "digest": store.digest,
        "n": len(store),
        "px": store.px,
        "classes": list(store.classes),
        "sources": [{name: one.get(name) for name in ("name", "kind", "listed")} for one in store.record.get("sources", [])],
        "quarantined": len(store.record.get("quarantined", [])),
    }


def run_record(run: Path) -> dict[str, Any]:
    """Return run.json; nothing where a run came without it."""
    return read_json(run / "run.json", RunProblem) if (run / "run.json").is_file() else {}


def run_facts(run: Path) -> dict[str, Any]:
    """Return what a reader wants to know of a run; None stands for what its record does not say."""
    facts, told = read_json(run / "model.json", RunProblem), run_record(run)
    data, preprocessing = told.get("data", {}), facts.get("preprocessing", {})
    seconds = told.get("cost", {}).get("seconds")
    return {
        "name": run.name,
        "network": facts.get("network"),
        "px": facts.get("px"),
        "classes": facts.get("classes"),
        "temperature": facts.get("temperature"),
        "mean": preprocessing.get("mean"),
        "std": preprocessing.get("std"),
        "backbone": told.get("settings", {}).get("backbone"),
        "settings": told.get("settings", {}),
        "n_train": data.get("train", {}).get("n"),
        "n_valid": data.get("valid", {}).get("n"),
        "split": data.get("split"),
        "best_epoch": told.get("best_epoch"),
        "weights": told.get("weights", {}).get("weights"),
        "minutes": None if seconds is None else seconds / 60,
        "versions": told.get("versions", {}),
        "machine": told.get("machine", {}),
        "digest": told.get("digest", "unknown"),
        "calibration": told.get("calibration", {}),
    }


def saliency_method(settings: EvaluateSettings, runs: list[Path]) -> str:
    """Say how the maps over the mistakes are made; nothing where none are shown."""
    if not settings.mistakes:
        return ""
    if not runs:
        return WITHOUT_MODEL
    from sentinode.infer.saliency import METHOD

    return METHOD[0].upper() + METHOD[1:]


def gallery_of(
    table: pd.DataFrame, judgement: Judgement, store: Store, runs: list[Path], settings: EvaluateSettings, progress: Progress
) -> Gallery | None:
    """Return the surest mistakes with what moved the runs, if there are runs; None where none are asked for.

    `table` are the scores in the store's order.
    """
    if not settings.mistakes:
        return None
    known = np.flatnonzero(table["label"].to_numpy() >= 0)
    labels = table["label"].to_numpy(np.int64)[known]
    probability = table["probability"].to_numpy(np.float64)[known]
    chosen = surest_of_both(labels, probability, judgement.threshold, settings.mistakes)
    rows = known[chosen]
    tiles = np.array(store.tiles[rows]) if len(rows) else np.zeros((0, store.px, store.px, 3), np.uint8)
    saliency = None
    if runs and len(rows):
        from sentinode.infer.saliency import occlusion
        from sentinode.nets.trained import load

        progress.say(f"the {len(rows)} surest mistakes: what moved the model")
        saliency = occlusion([load(run) for run in runs], tiles)
    return Gallery(
        tiles,
        table["id"].astype(str).to_numpy()[rows].tolist(),
        table["group"].astype(str).to_numpy()[rows].tolist(),
        labels[chosen],
        probability[chosen],
        saliency,
        saliency_method(settings, runs),
        int(((probability >= judgement.threshold) != (labels == 1)).sum()),
    )


def write_report(folder: Path, table: pd.DataFrame, judgement: Judgement, gallery: Gallery | None) -> list[Path]:
    """Write figures/ and report.html from a judgement, its scores (floor_probability among them where known) and the gallery."""
    from sentinode.report.figures import judgement_pictures, write_judgement_figures
    from sentinode.report.gallery import write_mistakes
    from sentinode.report.page import Evidence, write_page

    known = table[table["label"].to_numpy() >= 0]
    labels, probability = known["label"].to_numpy(), known["probability"].to_numpy()
    floor = known["floor_probability"].to_numpy() if "floor_probability" in known else None
    groups = true_slides(known["group"].to_numpy())
    bands = curve_bands(labels, probability, slides_of(groups), judgement.resamples, judgement.seed)
    values = judgement.as_dict()
    written = write_judgement_figures(folder / "figures", labels, probability, floor, values, bands)
    if gallery is not None:
        written += write_mistakes(folder / "figures", gallery)
    pictures = judgement_pictures(labels, probability, floor, values, bands)
    slides = slide_rows(labels, probability, groups, judgement.threshold)
    write_page(folder / "report.html", values, Evidence(pictures, bands.method, slides, gallery))
    return [*written, folder / "report.html"]
