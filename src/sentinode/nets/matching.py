"""Whose weights are these: tensors of a file matched with those of a network, name by name and shape by shape.

A match is whole or it is an error: a network that is half pretrained looks like one that works.
"""

import sys
from itertools import accumulate

from torch import nn

from sentinode.errors import RunProblem, shown
from sentinode.nets.states import State

HEADS = ("fc", "classifier", "head", "heads", "head_dist", "last_linear", "pre_logits", "AuxLogits", "aux", "projection_head")
"""Modules that only the task of the weights needed; a file's tensors there are dropped where the network has none of them."""
OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
"""Outside the blocks: EfficientNet-PyTorch's module to timm's."""
EXPANDED = {
    **{"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl"},
    **{"_bn2": "bn3", "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"},
}
"""In a block that widens first."""
PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"} | {
    name: EXPANDED[name] for name in ("_se_reduce", "_se_expand")
}
"""In a block of the first stage, which does not."""


def matched(model: nn.Module, state: State, name: str) -> State:
    """Return the tensors of `state` under the names of `model`, every one it needs and with its shape.

    Understood are prefixes (`module.`, `model.backbone.`, ...), EfficientNet-PyTorch's names, and whatever timm's own filter of
    that architecture turns into its names (ViT's positions are resampled to the input size there).

    Parameters
    ----------
    model
        The network, with or without a head.
    state
        From `read_state`.
    name
        Of the network, for the error.

    Raises
    ------
    RunProblem
        If a tensor is missing, has another shape, or has no place; it counts them and shows the first of each.
    """
    own = {key: tensor.shape for key, tensor in model.state_dict().items()}
    stripped = without_prefix(state, own)
    if "_conv_stem.weight" in stripped:
        stripped = renamed(stripped, own)
    if differences(model, stripped):
        converted = by_timm(model, stripped)
        if converted and not differences(model, converted):
            stripped = converted
    wrong = differences(model, stripped)
    if wrong:
        same = sum(key in own and tensor.shape == own[key] for key, tensor in stripped.items())
        told = "; ".join(f"{len(keys)} {what}, as {', '.join(keys[:3])}" for what, keys in wrong.items())
        raise RunProblem(
            f"weights of {name} ({len(own)} tensors)",
            f"{len(state)} tensors, {same} of them fitting; {told}",
            "give weights of this network, or the --model that they are of",
        )
    return {key: tensor for key, tensor in stripped.items() if key in own and tensor.shape == own[key]}


def without_prefix(state: State, own: dict[str, tuple[int, ...]]) -> State:
    """Return `state` without the prefix (any leading modules) that makes most names fit; the shortest of equals."""
    starts = {start for key in state for start in accumulate(part + "." for part in key.split(".")[:-1][:3])}
    candidates = [{k.removeprefix(p): v for k, v in state.items() if k.startswith(p)} for p in ("", *sorted(starts, key=len))]
    return max(candidates, key=lambda some: sum(key in own and v.shape == own[key] for key, v in some.items()))


def renamed(state: State, own: dict[str, tuple[int, ...]]) -> State:
    """Return EfficientNet-PyTorch's tensors under timm's names: blocks counted through there are counted by stage here."""
    places = list(dict.fromkeys(".".join(key.split(".")[:3]) for key in own if key.startswith("blocks.")))
    result = {}
    for key, tensor in state.items():
        module, _, rest = key.partition(".")
        if module == "_blocks":
            number, inner, kind = rest.split(".", 2)
            names = EXPANDED if f"_blocks.{number}._expand_conv.weight" in state else PLAIN
            place = places[int(number)] if int(number) < len(places) else f"blocks.{number}"
            result[f"{place}.{names.get(inner, inner)}.{kind}"] = tensor
        else:
            result[f"{OUTSIDE.get(module, module)}.{rest}"] = tensor
    return result


def by_timm(model: nn.Module, state: State) -> State | None:
    """Return what timm's filter for this architecture makes of `state`; None where it has none or cannot read it."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return None
    try:
        return dict(convert(dict(state), model))
    except (KeyError, RuntimeError, ValueError, TypeError, IndexError, AttributeError):
        return None  # foreign weights: the difference is told by their own names


def differences(model: nn.Module, state: State) -> dict[str, list[str]]:
    """Return what keeps `state` from fitting `model`, by kind; empty if it fits.

    Batch norm's counters may be missing: old files had none. So may the last layer of a head, which then stays as it is.
    """
    own = model.state_dict()
    free = {
        key for key in own if of_head(key) and isinstance(model.get_submodule(key.rpartition(".")[0]), (nn.Linear, nn.Conv2d))
    }
    found = {
        "missing": [shown(k) for k in own if k not in state and k not in free and not k.endswith("num_batches_tracked")],
        "of another shape": [
            f"{shown(k)} {list(state[k].shape)} for {list(tensor.shape)}"
            for k, tensor in own.items()
            if k in state and state[k].shape != tensor.shape and k not in free
        ],
        "without a place": [shown(k) for k in state if k not in own and not of_head(k)],
    }
    return {what: keys for what, keys in found.items() if keys}


def of_head(key: str) -> bool:
    """Return whether a tensor belongs to a head."""
    return key.split(".")[0] in HEADS
