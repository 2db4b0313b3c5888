"""The form in which a pretrained network trains fastest on a CPU: the same values and the same parameters under the same names.

Batch norm that keeps its statistics is a factor and an offset a channel. Both are multiplied into the weights of the convolution
before it, in each pass anew since they are trained: a pass over few weights takes the place of passes over all maps, forward and
back. Depthwise convolutions get the gradients of `nets/depthwise.py`.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sentinode.nets.depthwise import depthwise
from sentinode.nets.forms import Watch, what_follows

TOLERANCE = 1e-3
"""How far the logits of the two forms may lie apart, relative to the larger of the logit and 1: rounding gives 1e-5."""


class Folding(nn.Module):
    """A convolution in training: `weight` and `bias` are the original's, and `norm`, if there is one, is multiplied into them."""

    def __init__(self, conv: nn.Conv2d, norm: "Folded | None") -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.stride, self.padding, self.dilation, self.groups = conv.stride, conv.padding, conv.dilation, conv.groups
        self.pads_itself = pads_itself(conv)
        self.depthwise = is_depthwise(conv)
        self.norms = [norm]  # in a list it is no module of this one, and its parameters keep their names

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Return weights and offsets with the norm in them: y = f (w * x + b - mean) + shift with f = scale / sqrt(var + eps)."""
        (norm,) = self.norms
        if norm is None:
            return self.weight, self.bias
        factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        before = norm.running_mean if self.bias is None else norm.running_mean - self.bias
        return self.weight * factor[:, None, None, None], norm.bias - before * factor

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps, normalised where a norm is folded in."""
        weight, bias = self.folded()
        padding: Any = self.padding
        if self.pads_itself:
            x, padding = padded(x, weight.shape[-1], self.stride[0]), (0, 0)
        if self.depthwise:
            return depthwise(x, weight, bias, self.stride[0], padding[0])
        return functional.conv2d(x, weight, bias, self.stride, padding, self.dilation, self.groups)


class Folded(nn.Module):
    """What stands where a norm stood: its parameters and statistics under their names, and what follows it."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: nn.BatchNorm2d, after: nn.Module) -> None:
        super().__init__()
        self.weight, self.bias, self.eps, self.after = norm.weight, norm.bias, norm.eps, after
        for name, value in norm.named_buffers():
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        """Return maps that were normalised before, after what follows."""
        y: Tensor = self.after(x)
        return y


def trainable(module: nn.Module, example: Tensor) -> nn.Module:
    """Return a copy of `module` in the form that trains fastest; one as it is where that form gives other logits, or changes nothing.

    Parameters
    ----------
    module
        In training mode; its norms that are in evaluation mode all the same are those that keep their statistics.
    example
        Network input [k, 3, p, p], k at least 2, on the CPU.
    """
    model = copy.deepcopy(module)
    named = dict(model.named_modules())
    still = {id(m.running_mean): name for name, m in named.items() if isinstance(m, nn.BatchNorm2d) and not m.training}
    with torch.no_grad(), Watch() as watch:
        expected = model.eval()(example)
    norm_of = {weight: still[mean] for weight, mean in watch.pairs() if mean in still}
    for name, conv in named.items():
        if not isinstance(conv, nn.Conv2d) or not (type(conv) is nn.Conv2d or pads_itself(conv)):
            continue
        norm = fold_away(model, norm_of.get(id(conv.weight)))
        if norm is not None or is_depthwise(conv):
            put(model, name, Folding(conv, norm))
    with torch.no_grad():
        given = model(example)
    same = torch.allclose(given, expected, rtol=TOLERANCE, atol=TOLERANCE)
    return (model if same else copy.deepcopy(module)).train(module.training)


def fold_away(model: nn.Module, name: str | None) -> Folded | None:
    """Put a stand-in where the norm `name` is and return it; None if there is none, or one whose effect is not known."""
    norm = None if name is None else model.get_submodule(name)
    if name is None or not isinstance(norm, nn.BatchNorm2d) or not norm.affine:
        return None
    after = what_follows(norm)
    if after is None:
        return None
    stand_in = Folded(norm, after)
    put(model, name, stand_in)
    return stand_in


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` into `model` under a dotted name."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def pads_itself(conv: nn.Conv2d) -> bool:
    """Return whether a convolution is timm's that pads as TensorFlow does."""
    return type(conv).__name__ == "Conv2dSame"


def padded(x: Tensor, k: int, stride: int) -> Tensor:
    """Return maps padded as TensorFlow's "same" does: ceil(edge / stride) results an axis, the odd zero behind."""
    missing = [max((-(-edge // stride) - 1) * stride + k - edge, 0) for edge in (x.shape[3], x.shape[2])]
    sides = [side for whole in missing for side in (whole // 2, whole - whole // 2)]
    return functional.pad(x, sides) if any(sides) else x


def is_depthwise(conv: nn.Conv2d) -> bool:
    """Return whether `depthwise` computes this convolution: one square filter a channel, wider than a point."""
    (height, width), (down, right) = conv.kernel_size, conv.stride
    plain = isinstance(conv.padding, tuple) and len(set(conv.padding)) == 1 and conv.padding_mode == "zeros"
    square = height == width >= 3 and down == right and conv.dilation == (1, 1) and plain
    return square and conv.groups == conv.in_channels == conv.out_channels > 1
