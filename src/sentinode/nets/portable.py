"""Networks and their transform in operations that every runtime has, for graphs that leave torch; the numbers stay the same."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sentinode.nets.transform import Preprocessing

WEIGHT_BITS = 15
"""torch resizes bytes with weights of 16 bits, sign included."""
SINGLE_BITS = 15
"""Bits behind the point of weights whose sums float32 holds: 24 in all, less 9 for bytes and what overshoots them."""


class PortableTransform(nn.Module):
    """Applies a `Preprocessing` to bytes of edge `px` by matrix products, floors and clips; gives what `Transform` gives.

    Resizing is exact: torch (and Pillow) filter bytes with integer weights, along the rows and then along the columns, and round
    after each. The same integers as float32 give sums below 2^24 units, which float32 holds, whatever their order; where tiles are
    made much smaller the weights are finer, and the sums are float64.
    """

    def __init__(self, preprocessing: Preprocessing, px: int) -> None:
        super().__init__()
        self.resizes = preprocessing.input_px not in {0, px}
        if self.resizes:
            matrix = filter_matrix(px, preprocessing.input_px, preprocessing.interpolation)
            self.register_buffer("down", matrix, persistent=False)
            self.register_buffer("across", matrix.T.contiguous(), persistent=False)
        mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
        self.register_buffer("scale", (1 / (255 * std))[:, None, None], persistent=False)
        self.register_buffer("shift", (-mean / std)[:, None, None], persistent=False)
        self.turned = preprocessing.channels == "bgr"

    down: Tensor
    across: Tensor
    scale: Tensor
    shift: Tensor

    def forward(self, tiles: Tensor) -> Tensor:
        """Return float32 [n, 3, p, p] of tiles uint8 [n, px, px, 3]."""
        images = tiles.permute(0, 3, 1, 2)
        if self.resizes:
            images = rounded(self.down @ rounded(images.to(self.down.dtype) @ self.across))
        images = images.to(torch.float32)
        images = images * self.scale + self.shift
        return images.flip(1) if self.turned else images


def rounded(images: Tensor) -> Tensor:
    """Return images as bytes hold them: halves up, within 0 to 255."""
    return (images + 0.5).floor().clamp(0, 255)


def filter_matrix(px: int, input_px: int, interpolation: str) -> Tensor:
    """Return [input_px, px], float32 or float64: torch's antialiased filter along one axis, in the fixed point that it uses on bytes."""
    axis = torch.eye(px, dtype=torch.float64)[None, None]
    exact = functional.interpolate(axis, (input_px, px), mode=interpolation, antialias=True)[0, 0]
    largest, bits = float(exact.max()), 0
    while bits < 22 and int(0.5 + largest * 2 ** (bits + 1)) < 2**WEIGHT_BITS:
        bits += 1
    units = exact * 2**bits
    fixed_point: Tensor = units.sign() * (units.abs() + 0.5).floor() / 2**bits
    return fixed_point.to(torch.float32 if bits <= SINGLE_BITS else torch.float64)


def with_fixed_padding(network: nn.Module, example: Tensor) -> nn.Module:
    """Return a copy of `network` whose convolutions with TensorFlow's "same" padding have it as numbers, for inputs as `example`.

    timm works that padding out from the size of each input. In a graph this would be a dozen small operations a convolution, and a
    padding that no runtime can merge into it: EfficientNet-Lite0 takes 1.3 times as long in onnxruntime.
    """
    network = copy.deepcopy(network)
    sizes: dict[nn.Module, tuple[int, ...]] = {}

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        sizes[module] = tuple(inputs[0].shape[-2:])

    found = [(name, module) for name, module in network.named_modules() if type(module).__name__ == "Conv2dSame"]
    hooks = [module.register_forward_pre_hook(note) for _, module in found]
    with torch.no_grad():
        network(example)
    for hook in hooks:
        hook.remove()
    for name, module in found:
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, fixed(module, sizes[module]))
    return network


def fixed(module: Any, size: tuple[int, ...]) -> nn.Module:
    """Return a Conv2dSame for maps of `size` (height, width) as a padding and a plain convolution with the same weights."""
    pads: list[int] = []
    for edge, kernel, stride, dilation in zip(size, module.kernel_size, module.stride, module.dilation, strict=True):
        covered = (-(-edge // stride) - 1) * stride + (kernel - 1) * dilation + 1
        missing = max(covered - edge, 0)
        pads = [missing // 2, missing - missing // 2, *pads]  # more at the end; ZeroPad2d takes the last axis first
    plain = nn.Conv2d(
        module.in_channels,
        module.out_channels,
        module.kernel_size,
        module.stride,
        dilation=module.dilation,
        groups=module.groups,
        bias=module.bias is not None,
    )
    plain.weight, plain.bias = module.weight, module.bias
    return nn.Sequential(nn.ZeroPad2d((pads[0], pads[1], pads[2], pads[3])), plain)
