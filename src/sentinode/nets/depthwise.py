"""Depthwise convolutions whose gradients cost about what the convolution itself does.

oneDNN, which computes torch's convolutions on a CPU, has fast kernels for some gradients of depthwise convolutions and falls back
to plain loops for the others: in bf16 the gradient by the input where the stride is 2 (10 to 60 times slower than need be) and
the gradient by the weights of filters wider than three (4 to 15 times). Both are sums of convolutions that it is fast at.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Pair = tuple[int, int]


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """Return the depthwise convolution of maps [n, c, h, w] with filters [c, 1, k, k], as `functional.conv2d` with c groups.

    Gradients are of first order only. Autocast decides the arithmetic, as for torch's own convolutions.
    """
    if not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)) or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return functional.conv2d(x, weight, bias, stride, padding, groups=weight.shape[0])
    if torch.is_autocast_enabled(x.device.type):
        kind = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(kind), weight.to(kind), None if bias is None else bias.to(kind)
    with torch.autocast(x.device.type, enabled=False):
        return Depthwise.apply(x, weight, bias, stride, padding)  # type: ignore[no-any-return, no-untyped-call]


class Depthwise(torch.autograd.Function):
    """`depthwise`, in the arithmetic of its arguments."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        """Return the maps; keep what the gradients need."""
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return functional.conv2d(x, weight, bias, stride, padding, groups=weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Return the gradients by x, weight and bias."""
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        by_x = by_weight = by_bias = None
        if ctx.needs_input_grad[0]:
            by_x = gradient_by_input(gradient, x, weight, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1]:
            by_weight = gradient_by_weight(gradient, x, weight, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[2]:
            by_bias = gradient.sum((0, 2, 3))
        return by_x, by_weight, by_bias, None, None


def gradient_by_input(gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Return the gradient by x: the gradient, its rows and columns `stride` apart, convolved with the turned filters."""
    if stride > 1 and gradient.dtype == torch.float32:
        return native(gradient, x, weight, (stride, padding), (True, False))[0]
    (height, width), k = x.shape[-2:], weight.shape[-1]
    if stride > 1:
        rows, columns = (edge - (k - 1) + 2 * padding for edge in (height, width))
        apart = gradient.new_zeros(len(gradient), rows, columns, len(weight)).permute(0, 3, 1, 2)
        apart[:, :, ::stride, ::stride] = gradient
        gradient = apart
    return functional.conv2d(gradient, weight.flip(2, 3), None, 1, k - 1 - padding, groups=weight.shape[0])


def gradient_by_weight(gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Return the gradient by the weights, 3x3 of them at a time where filters are wider than that."""
    k = weight.shape[-1]
    if k <= 3:
        return native(gradient, x, weight, (stride, padding), (False, True))[1]
    x = functional.pad(x, [padding] * 4)
    rows, columns = ((edge - 1) * stride + 3 for edge in gradient.shape[-2:])
    small, whole = weight[:, :, :3, :3].contiguous(memory_format=torch.channels_last), torch.empty_like(weight)
    starts = [*range(0, k - 3, 3), k - 3]
    for i in starts:
        for j in starts:
            under = x[:, :, i : i + rows, j : j + columns].contiguous(memory_format=torch.channels_last)
            whole[:, :, i : i + 3, j : j + 3] = native(gradient, under, small, (stride, 0), (False, True))[1]
    return whole


def native(gradient: Tensor, x: Tensor, weight: Tensor, how: Pair, which: tuple[bool, bool]) -> tuple[Tensor, Tensor]:
    """Return torch's own gradients by x and by weight, those asked for; `how` is stride and padding."""
    stride, padding = ([value, value] for value in how)
    by_x, by_weight, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, stride, padding, [1, 1], False, [0, 0], len(weight), [*which, False]
    )
    return by_x, by_weight
