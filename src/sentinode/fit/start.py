"""What training starts from: a network with its facts, random or pretrained, its input checked against its weights."""

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sentinode.errors import UsageProblem, shown
from sentinode.fit.parts import Parts
from sentinode.machine.clock import Picked
from sentinode.machine.memory import out_of_memory
from sentinode.machine.ranks import ALONE, Ranks
from sentinode.nets.backbone import Classifier, own_px, preprocessing_of
from sentinode.nets.forward import placed
from sentinode.nets.guard import check_scaling
from sentinode.nets.recalibrate import recalibrate_bn
from sentinode.nets.trained import NETWORKS, ModelFacts, build
from sentinode.nets.transform import Preprocessing, Transform
from sentinode.nets.weights import FileStates, Weights, files_of, find, load_into
from sentinode.progress import Progress
from sentinode.settings import TrainSettings
from sentinode.tiles.store import Store

RECALIBRATION_TILES = 4096
"""Most training tiles that batch-norm statistics are estimated on."""


def unwatched(_epoch: int, _auroc: float) -> None:
    """Watch nothing."""


@dataclass(frozen=True)
class Job:
    """One training: where it writes, its settings (resolved), who trains and chooses, the network it starts from, and its voice.

    `fingerprint` names settings, tiles and weights; `began` and `cpu_began` are the clocks at its start, those of
    the wall and of all cores' work (`time.perf_counter`, `time.process_time`). `watch` is told of each
    epoch (1 is the first) and its validation AUROC, and may raise to stop. `picked` is what `minutes` decided. `ranks`: this
    process among those of the job.
    """

    folder: Path
    settings: TrainSettings
    parts: Parts
    network: nn.Module
    facts: ModelFacts
    fingerprint: str
    progress: Progress
    began: float = field(default_factory=time.perf_counter)
    cpu_began: float = field(default_factory=time.process_time)
    watch: Callable[[int, float], None] = unwatched
    picked: Picked = field(default_factory=Picked)
    ranks: Ranks = ALONE


@functools.cache
def found(model: str, weights: str, _read: FileStates) -> Weights:
    """Return the weights, read once a process; what was changed is read again."""
    return find(model, weights)


def weights_of(settings: TrainSettings) -> Weights | None:
    """Return the pretrained weights that the settings ask for; None where the network starts at random."""
    if settings.model in NETWORKS or settings.backbone == "scratch":
        return None
    return found(settings.model, settings.weights, files_of(settings.model, settings.weights))


def start(settings: TrainSettings, parts: Parts) -> tuple[nn.Module, ModelFacts]:
    """Return the network that is to be trained, on the CPU, and its facts.

    Parameters
    ----------
    settings
        Resolved; `seed` decides random weights.

    Raises
    ------
    UsageProblem, RunProblem, MachineProblem
        For a network, input size or weights that do not exist or do not fit, and for input that the weights were not made for.
    """
    torch.manual_seed(settings.seed)
    (store, rows), positive = parts.train, parts.positive_share
    weights, training = weights_of(settings), dict[str, Any]()
    if weights is None:
        check_symmetric(settings, store.px)
        preprocessing = colours_of(store, rows, settings.input_size)
        network, arguments = settings.model, arguments_of(settings, preprocessing.input_px or store.px)
        model = build(network, arguments)
        check_takes(model, network, preprocessing.input_px or store.px)
    else:
        preprocessing = preprocessing_of(weights.config, settings.input_size or own_px(weights.config))
        network = str(weights.config.get("architecture") or settings.model)
        arguments = arguments_of(settings, preprocessing.input_px) | {"model_args": weights.config.get("model_args") or {}}
        model = build(network, arguments)
        backbone = classifier_of(model).pooled.backbone
        load_into(backbone, weights)
        training = {"weights": weights.source, "weights_digest": weights.digest}
        if settings.guard:
            unseen = check_scaling(backbone, preprocessing, weights.config)
            training |= {"guard": unseen} if weights.state and unseen else {}
        if settings.recalibrate_bn:
            recalibrate_bn(backbone, some_tiles(store, rows), Transform(preprocessing, store.px))
    facts = ModelFacts(
        network=network,
        arguments=arguments,
        preprocessing=preprocessing,
        px=store.px,
        classes=store.classes,
        logit_shift=float(np.log(positive / (1 - positive))) if settings.balance else 0.0,
        training=training,
    )
    return placed(model, "cpu"), facts


def check_symmetric(settings: TrainSettings, px: int) -> None:
    """Raise UsageProblem for p4m-cnn at another size than the tile's: resizing rounds between rows and columns, and its views differ."""
    if settings.model == "p4m-cnn" and settings.input_size not in {0, px}:
        expected = f"{settings.model} to see tiles at their own {px} px, since resized ones are not the same from all eight sides"
        do = f"leave --input-size out, or pack the tiles with --px {settings.input_size}"
        raise UsageProblem(expected, f"--input-size {settings.input_size}", do)


def check_takes(model: nn.Module, network: str, px: int) -> None:
    """Raise UsageProblem unless a network takes tiles of edge `px`: asked before anything is written."""
    model.eval()
    try:
        with torch.inference_mode():
            model(torch.zeros(1, 3, px, px))
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        raise UsageProblem(
            f"tiles that are large enough for {network}", f"{px} px ({shown(error)})", "give a larger --input-size"
        ) from error
    model.train()


def classifier_of(model: nn.Module) -> Classifier:
    """Return `model` if `build` made it of a timm name."""
    if not isinstance(model, Classifier):
        raise TypeError(type(model).__name__)
    return model


def arguments_of(settings: TrainSettings, input_px: int) -> dict[str, object]:
    """Return what `build` takes beside the network's name."""
    if settings.model in NETWORKS:
        return {"dropout": settings.dropout}
    head = "mlp" if settings.head == "mlp" else "linear"
    tuned = settings.backbone == "finetune"
    return {
        **{"input_px": input_px, "head": head, "dropout": settings.dropout},
        **{"frozen": settings.freeze if tuned else 0.0, "keep_statistics": tuned},
    }


def some_tiles(store: Store, rows: npt.NDArray[np.int64]) -> Iterator[Tensor]:
    """Yield at most `RECALIBRATION_TILES` tiles, evenly spaced among `rows`, 64 at a time."""
    some = rows[:: -(-len(rows) // RECALIBRATION_TILES)]
    for part in np.array_split(some, -(-len(some) // 64)):
        yield torch.from_numpy(np.array(store.tiles[part]))


def colours_of(store: Store, rows: npt.NDArray[np.int64], input_px: int) -> Preprocessing:
    """Return mean and standard deviation of the colours (scaled 0 to 1) of at most 4,096 training tiles, evenly spaced."""
    some = rows[:: -(-len(rows) // 4096)]
    total, squares, count = np.zeros(3), np.zeros(3), 0
    for part in np.array_split(some, -(-len(some) // 256)):
        pixels = store.tiles[part].reshape(-1, 3).astype(np.float64) / 255
        total, squares, count = total + pixels.sum(0), squares + (pixels**2).sum(0), count + len(pixels)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1e-4))
    r, g, b = (round(float(v), 6) for v in mean)
    u, v, w = (round(float(x), 6) for x in std)
    return Preprocessing((r, g, b), (u, v, w), input_px)
