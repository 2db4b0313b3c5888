"""The optimiser's groups: which weights decay, and of a pretrained network the learning rate of each layer."""

from typing import Any

from torch import nn

from sentinode.nets.backbone import Classifier
from sentinode.settings import TrainSettings

HEAD_RATE = 0.1
"""Of a pretrained network's head, times the learning rate: it was fitted before, to thousands of standardised features, all of
which one step of Adam moves at once."""


def parameter_groups(model: nn.Module, settings: TrainSettings) -> list[dict[str, Any]]:
    """Return the groups of the parameters that are trained. Matrices decay, biases and norms do not (the usual rule).

    `scale` is what a group's learning rate is multiplied by. In a pretrained network it falls by `layer_decay` from each layer to
    the one before it.

    Source: Loshchilov and Hutter 2019 (decoupled decay); Howard and Ruder 2018 (rates by layer), with timm's grouping of layers.
    """
    scales = layer_scales(model, settings.layer_decay) if settings.backbone == "finetune" else {}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((scales.get(name, 1.0), parameter.ndim > 1), []).append(parameter)
    return [
        {"params": groups[key], "scale": key[0], "weight_decay": settings.weight_decay if key[1] else 0.0}
        for key in sorted(groups, reverse=True)
    ]


def layer_scales(model: nn.Module, decay: float) -> dict[str, float]:
    """Return the factor of each parameter's learning rate by its name."""
    if not isinstance(model, Classifier):
        return {}
    depths = model.pooled.depths()
    last = max(depths.values())
    scales = {f"pooled.backbone.{name}": decay ** (last - depth) for name, depth in depths.items()}
    return scales | {name: HEAD_RATE for name, _ in model.named_parameters() if name.startswith("head.")}
