"""The reference study's puzzle, settled by making its mistake on purpose: one frozen backbone, only the preprocessing changed.

No setting of `train` can do this; here the preprocessing of a finished run is altered in Python and its features are taken again.
"""

import dataclasses
import shutil
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from sentinode.fit.features import Extraction, extract
from sentinode.fit.feed import epoch_order
from sentinode.fit.heads import fit_head
from sentinode.fit.parts import Parts
from sentinode.fit.probe import floor_rows
from sentinode.fit.start import classifier_of
from sentinode.flows.rungs import Climbed, Part, part_of
from sentinode.flows.verdicts import figure_on, signed
from sentinode.judge.auroc import auroc
from sentinode.judge.compare import auroc_difference
from sentinode.machine.plan import choose_device
from sentinode.nets.trained import Run, weights_digest
from sentinode.nets.transform import Preprocessing
from sentinode.progress import Progress
from sentinode.run import replacing
from sentinode.settings import LadderSettings, TrainSettings
from sentinode.tiles.split import sample_positions
from sentinode.tiles.store import Store

Features = npt.NDArray[np.float32]
"""float32 [n, d]."""
Labels = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
MOST_JUDGED = 4000
"""Tiles of a part that are judged at most; at most 8,000 train, about as many as the study's 5 % sample."""
BATCH, EPOCHS, RATE = 32, 10, 1e-3
"""Of the study's head."""
OWN, STUDYS = "own", "study"
"""The network's own preprocessing, and all that the study did to it at once."""


def mistakes_of(right: Preprocessing) -> dict[str, tuple[str, Preprocessing]]:
    """Return the network's own preprocessing and six wrong ones, each with its title.

    A network that wants 0 to 255 is `std = 1/255` here, so that 255 times too small is `std` times 255 for every network.
    """
    none, swapped = (0.0, 0.0, 0.0), "bgr" if right.channels == "rgb" else "rgb"
    r, g, b = right.std
    tiny = (255 * r, 255 * g, 255 * b)
    inverse = 1 / 255
    made: dict[str, tuple[str, dict[str, Any]]] = {
        OWN: ("the network's own", {}),
        STUDYS: ("the study's: 255 x too small, no mean, swapped", {"mean": none, "std": tiny, "channels": swapped}),
        "tiny": ("255 x too small, no mean", {"mean": none, "std": tiny}),
        "unit": ("colours 0 to 1 as they are", {"mean": none, "std": (1.0, 1.0, 1.0)}),
        "raw": ("colours 0 to 255 as they are", {"mean": none, "std": (inverse, inverse, inverse)}),
        "mean": ("mean not subtracted", {"mean": none}),
        "swapped": ("red and blue swapped", {"channels": swapped}),
    }
    return {name: (title, dataclasses.replace(right, **changes)) for name, (title, changes) in made.items()}


def span_of(preprocessing: Preprocessing) -> tuple[float, float]:
    """Return the least and the greatest value that a network can be given: black and white."""
    pairs = list(zip(preprocessing.mean, preprocessing.std, strict=True))
    return min((0 - mean) / std for mean, std in pairs), max((1 - mean) / std for mean, std in pairs)


def features_of(pooled: nn.Module, preprocessing: Preprocessing, store: Store, rows: Rows, folder: Path) -> Features:
    """Return the features [n, d] of tiles under a preprocessing, in fp32; those kept in `folder` are gone on with."""
    how = Extraction(preprocessing, {"made": "on purpose"}, precision="fp32")
    return np.array(extract(store, pooled, how, rows=rows, folder=folder, progress=Progress(quiet=True)).values[:, 0])


def studys_head(features: Features, labels: Labels, seed: int) -> nn.Linear:
    """Return one dense layer trained as the study's: Adam at 1e-3 on the features as they come, nothing chosen on valid."""
    values, wanted = torch.from_numpy(features), torch.from_numpy(labels.astype(np.float32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(features.shape[1], 1)
    optimizer = torch.optim.Adam(head.parameters(), lr=RATE)
    for epoch in range(EPOCHS):
        for rows in map(torch.from_numpy, epoch_order(len(labels), BATCH, seed, epoch)):
            optimizer.zero_grad()
            functional.binary_cross_entropy_with_logits(head(values[rows]).squeeze(1), wanted[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return head


def fewer(part: Part, resamples: int, seed: int) -> Part:
    """Return at most MOST_JUDGED tiles of a part, classes in proportion."""
    if len(part.rows) <= MOST_JUDGED:
        return part
    ids = part.store.rows["id"].astype(str).to_numpy()[part.rows].tolist()
    kept = sample_positions(ids, part.labels, Fraction(MOST_JUDGED, len(part.rows)), seed)
    return part_of(part.name, part.store, part.rows[kept], resamples)


def make_mistakes(
    folder: Path,
    run: Run,
    parts: Parts,
    judged: Sequence[Part],
    settings: LadderSettings,
    progress: Progress,
    floor: Climbed | None,
) -> dict[str, Any]:
    """Take features under each preprocessing, fit both heads, and judge them; what was made before is read.

    Returns
    -------
    dict
        network, n_train, on (names of the parts), rows (title, span, AUROC of both heads by part), the paired differences that
        the answer rests on (`lost`: own less the study's, by head; `floor`: the study's head less the floor), and the answer.
    """
    store, rows = parts.train
    rows = rows[floor_rows(store.rows["id"].astype(str).to_numpy()[rows].tolist(), store.rows["label"].to_numpy()[rows])]
    labels = store.rows["label"].to_numpy(np.int64)[rows]
    few = [fewer(part, settings.resamples, settings.seed) for part in judged]
    places = [(store, rows), *((part.store, part.rows) for part in few)]
    pooled = classifier_of(run.model).pooled.to(choose_device(settings.device)[0])
    kept = folder / "mistakes" / "features"
    made, table = {}, []
    for name, (title, preprocessing) in mistakes_of(run.facts.preprocessing).items():
        path = folder / "mistakes" / f"{name}.npz"
        logits = kept_logits(path, run)
        if logits is None:
            progress.say(f"preprocessing on purpose: {title}")
            taken = [features_of(pooled, preprocessing, of, at, kept) for of, at in places]
            logits = logits_of(taken, labels, few, settings)
            keep_logits(path, run, logits)
            shutil.rmtree(kept)  # gigabytes that nothing will ask for again
        made[name] = logits
        low, high = span_of(preprocessing)
        row: dict[str, Any] = {"name": name, "title": title, "low": low, "high": high}
        for head in ("dense", "logistic"):
            row[head] = {
                part.name: figure_on(part, logits[f"{head}-{part.name}"], settings.resamples, settings.seed) for part in few
            }
        table.append(row)
    last = few[-1]
    lost = {
        head: auroc_difference(
            last.labels, made[OWN][f"{head}-{last.name}"], made[STUDYS][f"{head}-{last.name}"], last.slides, settings.resamples
        )
        for head in ("dense", "logistic")
    }
    told = {
        "network": run.facts.network,
        "n_train": len(rows),
        "on": [part.name for part in few],
        "n": [len(part.rows) for part in few],
        "rows": table,
        "lost": {head: one.as_dict() for head, one in lost.items()},
        "floor": beside_floor(floor, judged[-1], last, made, settings),
    }
    return told | {"answer": answer_of(told)}


def logits_of(taken: list[Features], labels: Labels, judged: Sequence[Part], settings: TrainSettings) -> dict[str, Floats]:
    """Return the logits [n] of each head on each part; `taken` are the features of the training tiles and of each part."""
    train, *there = taken
    logistic = fit_head("logistic", train, labels, there[0], judged[0].labels, settings).head
    logits = {}
    for kind, head in (("dense", studys_head(train, labels, settings.seed)), ("logistic", logistic)):
        for part, values in zip(judged, there, strict=True):
            with torch.inference_mode():
                logits[f"{kind}-{part.name}"] = head(torch.from_numpy(values)).reshape(-1).double().numpy()
    return logits


def kept_logits(path: Path, run: Run) -> dict[str, Floats] | None:
    """Return what `keep_logits` wrote for this run, if it did."""
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as archive:
        kept = {name: archive[name] for name in archive.files}
    return kept if str(kept.pop("run")) == weights_digest(run.path) else None


def keep_logits(path: Path, run: Run, logits: dict[str, Floats]) -> None:
    """Write logits, and the run they are of, whole or not at all."""
    with replacing(path) as temporary, temporary.open("wb") as handle:
        arrays: dict[str, Any] = {"run": np.array(weights_digest(run.path)), **logits}
        np.savez_compressed(handle, **arrays)


def beside_floor(
    floor: Climbed | None, judged: Part, few: Part, made: dict[str, dict[str, Floats]], settings: LadderSettings
) -> dict[str, Any] | None:
    """Return the floor's AUROC on the tiles `few` of `judged`, and how far the study's head is ahead of it with either scaling, paired."""
    if floor is None:
        return None
    order = np.argsort(judged.rows)
    level = floor.logits[judged.name][order[np.searchsorted(judged.rows, few.rows, sorter=order)]]

    def ahead(name: str) -> dict[str, Any]:
        logits = made[name][f"dense-{few.name}"]
        return auroc_difference(few.labels, logits, level, few.slides, settings.resamples, settings.seed).as_dict()

    return {"auroc": auroc(few.labels, level), OWN: ahead(OWN), STUDYS: ahead(STUDYS)}


def answer_of(made: dict[str, Any]) -> str:
    """Return the sentence that answers the study's puzzle from the numbers of `make_mistakes`: by paired intervals, never by points.

    The puzzle: a frozen network below colour alone. Scaling explains it where the study's head loses by it, stands below colour alone
    with it and does not without. A head that is below either way has more than its scaling against it.
    """
    on, rows, lost = made["on"][-1], {row["name"]: row for row in made["rows"]}, made["lost"]["dense"]
    right, wrong = (rows[name]["dense"][on]["estimate"] for name in (OWN, STUDYS))
    change = f"with it the study's head on the same frozen network goes from {right:.4f} to {wrong:.4f} on {on}"
    change += f" ({-lost['estimate']:+.4f}, {-lost['high']:+.4f} to {-lost['low']:+.4f})"
    if lost["low"] <= 0:
        doubt = "" if lost["high"] < 0 else ", an interval that holds 0"
        return f"The study's scaling does not explain its 0.7237 here: {change}{doubt}."
    heads = [rows[name]["logistic"][on]["estimate"] for name in (OWN, STUDYS)]
    saved = f"logistic regression on standardised features goes from {heads[0]:.4f} to {heads[1]:.4f}"
    if made["floor"] is None:
        return f"The study's scaling costs a part of what its 0.7237 lacks: {change}; {saved}."
    with_it, without = made["floor"][STUDYS], made["floor"][OWN]
    level = f"colour alone ({made['floor']['auroc']:.4f})"
    if with_it["high"] >= 0:
        where = "still above" if with_it["low"] > 0 else "which these tiles cannot tell from"
        return f"Wrong scaling explains a part of the study's puzzle: {change}, {where} {level}, {signed(with_it)}; {saved}."
    if without["high"] < 0:
        return (
            f"Wrong scaling explains a part of the study's puzzle: {change}, but the head is below {level} with either, "
            f"{signed(without)} and {signed(with_it)}, so the head itself is the other part; {saved}."
        )
    where = f"below {level}, {signed(with_it)}, and not below it without, {signed(without)}"
    return f"Wrong scaling explains the study's puzzle: {change}, {where}; {saved}."
