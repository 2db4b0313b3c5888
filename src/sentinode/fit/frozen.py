"""A head on a frozen network: features once, the head in moments; the run that comes of it predicts like any other."""

import dataclasses
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from sentinode.fit.features import Extraction, Features, Source, extracted, help_extract
from sentinode.fit.heads import Fitted, check_room, fit_head
from sentinode.fit.measure import forward_flop
from sentinode.fit.probe import keep_floor_sample
from sentinode.fit.record import auroc_so_far, finish, write_history
from sentinode.fit.start import Job, classifier_of, unwatched
from sentinode.machine.memory import peak_bytes, peak_gpu_bytes
from sentinode.machine.plan import choose_device, reasoned, why_threads
from sentinode.nets.trained import Run
from sentinode.run import write_json
from sentinode.settings import TrainSettings

Values = npt.NDArray[np.float32]


def sources_of(job: Job) -> tuple[Source, Source]:
    """Return where the features of the training and of the validation tiles come from.

    Those of the validation tiles are in fp32, as `evaluate` computes: they choose, and the threshold must hold there.
    """
    device, _ = choose_device(job.settings.device)
    pooled = classifier_of(job.network).pooled.to(device)
    if job.settings.head == "logistic":
        check_room(len(job.parts.train[1]), pooled.width)  # before hours of extraction, not after
    facts = {"network": job.facts.network, "arguments": job.facts.arguments["model_args"]}
    sources = []
    for (store, rows), views, exact in (
        (job.parts.train, job.settings.feature_views, job.settings.precision == "fp32"),
        (job.parts.valid, 1, True),
    ):
        how = Extraction(job.facts.preprocessing, facts, views, "fp32" if exact else "auto")
        sources.append(Source(store, rows, pooled, how, None, ranks=job.ranks))
    return sources[0], sources[1]


def features_of(job: Job) -> tuple[Features, Features]:
    """Return the features of the training and of the validation tiles, from the feature store or extracted now."""
    train, valid = (extracted(source, job.settings.features, job.progress) for source in sources_of(job))
    return train, valid


def help_features(job: Job) -> None:
    """Help the first process to extract: it alone fits the head, and needs them all."""
    for source in sources_of(job):
        help_extract(source)


def fitted_head(job: Job, settings: TrainSettings, features: tuple[Features, Features]) -> Fitted:
    """Return the head that `settings` ask for, fitted to `features` of the training and validation tiles."""
    train, valid = (part.table for part in features)
    return fit_head(settings.head, train, job.parts.labels("train"), valid, job.parts.labels("valid"), settings, job.watch)


def train_frozen(job: Job) -> Run | None:
    """Extract features, fit the head, write the run; None where another process writes it."""
    if not job.ranks.first:
        help_features(job)
        return None
    kept = {"fingerprint": job.fingerprint, "settings": dataclasses.asdict(job.settings)}
    kept |= {"picked": dataclasses.asdict(job.picked)} if job.picked.changes else {}
    write_json(job.folder / "unfinished.json", kept)
    keep_floor_sample(job.folder / "floor.npz", *job.parts.train)
    for told in ("plan:", *reasoned(*basis_of(job))):
        job.progress.say(told)
    features = features_of(job)
    before, fitted = time.perf_counter() - job.began, fitted_head(job, job.settings, features)
    for line in fitted.history:  # as everywhere, seconds count from the start of the command
        line["seconds"] = round(before + line["seconds"], 3)
    job.progress.say(f"head: {fitted.note}, valid AUROC {fitted.auroc:.4f}", always=True)
    return finish_frozen(job, features, fitted)


def fit_head_first(job: Job) -> None:
    """Fit the head to the features of the network as it came: random weights above good features would spoil them at first."""
    head = classifier_of(job.network).head
    if job.ranks.first:
        fitted = fitted_head(dataclasses.replace(job, watch=unwatched), job.settings, features_of(job))
        head.load_state_dict(fitted.head.state_dict())
        job.progress.say(f"head first: {fitted.note}, valid AUROC {fitted.auroc:.4f}")
    else:
        help_features(job)
    job.ranks.spread(*head.state_dict().values())


def finish_frozen(job: Job, features: tuple[Features, Features], fitted: Fitted) -> Run:
    """Write the run of a head that was fitted to `features`."""
    train, _ = features
    classifier_of(job.network).head.load_state_dict(fitted.head.state_dict())
    write_history(job.folder / "history.csv", fitted.history)
    chosen, reasons = basis_of(job)
    best = max(range(len(fitted.history)), key=lambda at: fitted.history[at]["valid_auroc"])
    found: dict[str, Any] = {
        "best_epoch": best + 1,
        "stopped_by": stopped_by(job.settings, fitted),
        "valid": {"auroc": fitted.auroc, "loss": fitted.history[best]["valid_loss"]},
        "head": fitted.note,
        "plan": {
            **chosen,
            "precision": train.engine.split()[1],
            "engine": train.engine,
            "reasons": {**reasons, "precision": "that of the engine", "engine": train.reasons},
        },
        "cost": cost(job, features, fitted.history),
    }
    return finish(job, job.network.state_dict(), fitted.valid_logits, found)


def basis_of(job: Job) -> tuple[dict[str, Any], dict[str, str]]:
    """Return device and threads of a frozen run, and why; the engine is chosen by what is to be extracted."""
    device, why_device = choose_device(job.settings.device)
    threads = torch.get_num_threads()
    reasons = {"device": why_device, "threads": why_threads(job.settings.threads, threads, job.ranks)}
    return {"device": device, "threads": threads}, reasons


def stopped_by(settings: TrainSettings, fitted: Fitted) -> str:
    """Return why the fit of the head was over: a path of strengths that was walked, its epochs, or patience."""
    if settings.head == "logistic":
        return "strengths"
    return "epochs" if len(fitted.history) >= settings.epochs else "patience"


def cost(job: Job, features: tuple[Features, Features], history: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the run cost: seconds in all and of the extraction, and whether the features were there already."""
    extract_s = sum(part.seconds for part in features)
    passes = sum((part.made or len(part.table)) * part.table.shape[1] for part in features)
    return {
        "seconds": round(time.perf_counter() - job.began, 2),
        "cpu_minutes": round((time.process_time() - job.cpu_began) / 60, 2),
        "auroc_so_far": auroc_so_far(history),
        "extract_seconds": round(extract_s, 2),
        "cached": all(part.cached for part in features),
        "tiles_per_s": round(passes / extract_s, 1),
        "flop_per_tile": forward_flop(job.network, job.facts.preprocessing.input_px),
        "peak_memory_bytes": peak_bytes(),
        "peak_gpu_bytes": peak_gpu_bytes(choose_device(job.settings.device)[0]),
    }
