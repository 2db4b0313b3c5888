"""Networks that come from timm: built without their head, pooled with the centre apart, with a small head of ours on top.

timm and torchvision are imported here and nowhere else.
"""

import sys
from collections.abc import Mapping
from contextlib import suppress
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sentinode.errors import MachineProblem, RunProblem, UsageProblem, nearest, not_installed, shown
from sentinode.machine.memory import out_of_memory
from sentinode.nets.head import LinearHead, MlpHead
from sentinode.nets.simple_cnn import centre
from sentinode.nets.transform import Preprocessing
from sentinode.settings import OWN_NETWORKS

USUAL_PX = 160
"""What a backbone that takes any size sees of a tile: frozen, better than 96 and 128 on held-out colour clusters, and as good as 224;
fine-tuned, validation was no higher at 192."""
LEVELS = 2
"""Stages of a convolutional network whose maps are pooled: the last ones. Coarser alone, the features know less of texture."""
UNKNOWN = "a network of ours or of timm's ('sentinode models' lists them)"
"""What an unknown name is answered with."""
_OPERATORS: list[torch.library.Library] = []
"""Keeps the stand-ins for torchvision's operators alive."""


def timm_module() -> ModuleType:
    """Import timm; MachineProblem where it is not installed.

    timm imports torchvision, whose compiled operators exist for some builds of torch alone. Where they do not load, their two
    signatures are declared, which is all that the import asks for: timm calls neither.
    """
    try:
        try:
            import torchvision  # noqa: F401
        except (RuntimeError, OSError):
            for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
                del sys.modules[name]
            library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
            for name in ("nms", "qnms"):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
            _OPERATORS.append(library)
        import timm
    except ImportError as error:
        raise MachineProblem(
            "timm and torchvision for pretrained networks", not_installed(error), "pip install 'sentinode[backbones]'"
        ) from error
    module: ModuleType = timm
    return module


def create(name: str, input_px: int, **model_args: Any) -> Any:
    """Return timm's network `name` without weights and without its head, in evaluation mode.

    Raises
    ------
    UsageProblem
        If timm has no such network (the nearest names are offered), or it cannot take tiles of `input_px`.
    RunProblem
        If it does not take `model_args`, which come from a config.json.
    """
    timm = timm_module()
    if not timm.is_model(name):
        known = [*OWN_NETWORKS, *timm.list_models()]
        raise UsageProblem(UNKNOWN, shown(name), nearest(name, known))
    model = built(name, input_px, model_args)
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    wanted = model.pretrained_cfg["input_size"][-1]
    try:
        if isinstance(patch, tuple) and input_px % patch[0]:  # the rest of the tile would not be seen
            raise ValueError(f"no multiple of {patch[0]}")
        with torch.inference_mode():
            model(torch.zeros(1, 3, input_px, input_px))
    except (AssertionError, RuntimeError, ValueError) as error:
        if out_of_memory(error):
            raise
        raise no_such_size(name, input_px, wanted, error) from error
    return model


def built(name: str, input_px: int, model_args: dict[str, Any]) -> Any:
    """Return timm's network, made for `input_px` where its positions are learnt for one size (`matched` resamples them)."""
    timm = timm_module()
    config = timm.get_pretrained_cfg(name)
    if "mlp_layer" in model_args:
        model_args = model_args | {"mlp_layer": layer_of(model_args["mlp_layer"])}
    fixed = "img_size" in model_args or bool(config and config.fixed_input_size)
    try:
        if fixed:
            with suppress(TypeError):  # some know no img_size
                sized = timm.create_model(name, pretrained=False, num_classes=0, **model_args | {"img_size": input_px})
                if any("pos" in key for key in sized.state_dict()):
                    return sized.eval()
            # One whose weights mix all places, as MLP-Mixer's, cannot be resampled: `create` asks whether it takes the size as it is.
        return timm.create_model(name, pretrained=False, num_classes=0, **model_args).eval()
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, AssertionError, RuntimeError) as error:
        if out_of_memory(error):
            raise
        if config and not model_args:
            raise no_such_size(name, input_px, config.input_size[-1], error) from error
        found = f"{shown(model_args)} at {input_px} px ({shown(error)})"
        raise RunProblem(f"arguments that {shown(name)} takes", found, "mend model_args in its config.json") from error


def layer_of(name: object) -> Any:
    """Return timm's layer of that name: it looks up activations and norms itself, but not these."""
    from timm import layers

    found = getattr(layers, name, None) if isinstance(name, str) else None
    if found is None:
        raise RunProblem(
            "the name of a layer of timm's as mlp_layer, such as SwiGLUPacked", shown(name), "mend model_args in its config.json"
        )
    return found


def gated(name: str, model_args: dict[str, Any], doubled: bool) -> dict[str, Any]:
    """Return the arguments with which a transformer's MLPs are gated, if its weights are `doubled` and its MLPs are not by themselves.

    Some encoders leave that to whoever builds them. Their activation is SiLU, as in all that were published so.
    """
    told = {"mlp_layer": "SwiGLUPacked", "act_layer": "silu"} | model_args
    config = timm_module().get_pretrained_cfg(name)
    if not doubled or told == model_args or config is None:
        return model_args
    with torch.device("meta"), suppress(RunProblem, UsageProblem):
        plain, other = (built(name, config.input_size[-1], how) for how in (model_args, told))
        if not has_doubled(plain.state_dict()) and has_doubled(other.state_dict()):
            return told
    return model_args  # `matched` says what does not fit


def has_doubled(state: Mapping[str, Tensor]) -> bool:
    """Return whether a transformer's first MLP makes twice the numbers that its second half takes: a gate for each."""
    first = next((key for key in state if key.endswith("mlp.fc1.weight")), "")
    second = state.get(first.replace("mlp.fc1", "mlp.fc2"))
    return second is not None and bool(first) and state[first].shape[0] == 2 * second.shape[1]


def no_such_size(name: str, input_px: int, wanted: int, error: Exception) -> UsageProblem:
    """Return what is said of an input size that a network cannot take."""
    expected = f"an input size that {shown(name)} takes, as {wanted}"
    return UsageProblem(expected, f"{input_px} ({shown(error)})", f"use --input-size {wanted}")


def own_px(config: dict[str, Any]) -> int:
    """Return the edge that a network sees unless told otherwise.

    That of its weights where they come with a configuration of their own, as the hub's do, or where its positions were learnt for
    it; else `USUAL_PX`.
    """
    own = config.get("fixed_input_size") or "model_args" in config
    return int(config["input_size"][-1]) if own else USUAL_PX


def preprocessing_of(config: dict[str, Any], input_px: int) -> Preprocessing:
    """Return the preprocessing that weights state in timm's `pretrained_cfg`; the whole tile is seen.

    Mean and std are of red, green and blue; "channels": "bgr" in it is ours, of weights that take blue first.
    """
    (r, g, b), (u, v, w) = config["mean"], config["std"]
    kind: Literal["bilinear", "bicubic"] = "bilinear" if config.get("interpolation") == "bilinear" else "bicubic"
    order: Literal["rgb", "bgr"] = "bgr" if config.get("channels") == "bgr" else "rgb"
    return Preprocessing((float(r), float(g), float(b)), (float(u), float(v), float(w)), input_px, kind, order)


class Pooled(nn.Module):
    """A network of timm's without its head, pooled: normalised tiles [n, 3, p, p] to features [n, width].

    Of a convolutional network the maps of the last stages are pooled, each by mean and by maximum, over the tile and apart over
    its centre third, where a tile's label lives; of others the pooling is timm's own, or, where the configuration leaves that open
    (global_pool ""), the class token beside the mean of the patches' tokens.

    Raises RunProblem for a network that gives anything but features or tokens of a tile.
    """

    def __init__(self, name: str, input_px: int, **model_args: Any) -> None:
        super().__init__()
        self.px = input_px
        self.backbone = create(name, input_px, **model_args)
        with torch.inference_mode():
            probe = torch.zeros(2, 3, input_px, input_px)
            self.staged = hasattr(self.backbone, "forward_intermediates") and is_maps(self.backbone.forward_features(probe))
            made = self(probe)
        if made.ndim != 2:
            do = "mend model_args in its config.json"
            raise RunProblem(f"features [n, width] or tokens [n, t, width] of {shown(name)}", f"{list(made.shape)}", do)
        self.width = made.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        """Return features float32 [n, width] of normalised tiles [n, 3, p, p]."""
        if not self.staged:
            made: Tensor = self.backbone(x)
            return (self.of_tokens(made) if made.ndim == 3 else made).float()
        last, stages = self.backbone.forward_intermediates(x, indices=LEVELS)
        maps = stages if last.shape == stages[-1].shape else [*stages, last]
        looks = [part.float() for whole in maps for part in (whole, centre(whole))]
        return torch.cat([f(m, dim=(2, 3)) for m in looks for f in (torch.mean, torch.amax)], dim=1)

    def of_tokens(self, tokens: Tensor) -> Tensor:
        """Return the class token, where there is one, beside the mean of the patches' tokens: [n, t, d] to [n, d] or [n, 2 * d].

        Registers, which no patch belongs to, are left out. Source: how the authors of Virchow and Virchow2 use their encoders.
        """
        classed = getattr(self.backbone, "cls_token", None) is not None
        patches = tokens[:, getattr(self.backbone, "num_prefix_tokens", int(classed)) :].mean(1)
        return torch.cat([tokens[:, 0], patches], dim=1) if classed else patches

    def depths(self) -> dict[str, int]:
        """Return how deep each parameter of the network lies, 0 at the input, by its name; timm's own grouping."""
        from timm.models import group_parameters

        return dict(group_parameters(self.backbone, self.backbone.group_matcher(coarse=False), reverse=True))

    def freeze(self, share: float) -> list[nn.Module]:
        """Keep the first `share` of the depths as they are; return their modules, batch norm among them."""
        depths = self.depths() if share else {}
        most = max(depths.values(), default=0) + 1
        still = {name for name, depth in depths.items() if depth < share * most}
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(name not in still)
        return [module for name, module in self.backbone.named_modules() if f"{name}.weight" in still]


class Classifier(nn.Module):
    """A pooled network of timm's and a head: normalised tiles [n, 3, p, p] to logits [n].

    Parameters
    ----------
    name
        timm's name of the network.
    input_px
        Edge of the input.
    head
        "linear" or "mlp".
    dropout
        Of the pooled features in training (and of the hidden units of an mlp).
    frozen
        Share of the network's depths, from the input on, that training leaves as they are, batch norm included.
    keep_statistics
        Batch norm keeps the statistics of the pretrained weights all over the network: those of micro-batches would be poor ones.
    model_args
        More arguments of timm's.
    """

    def __init__(
        self,
        name: str,
        *,
        input_px: int,
        head: Literal["linear", "mlp"] = "linear",
        dropout: float = 0.0,
        frozen: float = 0.0,
        keep_statistics: bool = False,
        model_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.pooled = Pooled(name, input_px, **(model_args or {}))
        self.dropout = nn.Dropout(dropout)
        width = self.pooled.width
        self.head: LinearHead | MlpHead = LinearHead(width) if head == "linear" else MlpHead(width, dropout=dropout)
        self.still = self.pooled.freeze(frozen)
        if keep_statistics:
            self.still += [module for module in self.pooled.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        self.train()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [n] of normalised tiles [n, 3, p, p]."""
        logits: Tensor = self.head(self.dropout(self.pooled(x)))
        return logits

    def train(self, mode: bool = True) -> "Classifier":
        """Set the mode; frozen parts, and batch norm that keeps its statistics, stay in evaluation."""
        super().train(mode)
        for module in self.still:
            module.eval()
        return self


def is_maps(features: Tensor) -> bool:
    """Return whether features are maps [n, c, h, w] with more channels than positions along an edge, as convolutions give."""
    return features.ndim == 4 and features.shape[2] == features.shape[3]
