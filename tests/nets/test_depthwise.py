"""Depthwise convolutions: values and gradients are torch's own in fp64, and in bf16 no further from them than torch's own are."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from sentinode.nets.depthwise import depthwise

Made = tuple[Tensor, Tensor, Tensor, Tensor]


def gradients(x: Tensor, weight: Tensor, bias: Tensor | None, how: tuple[int, int], *, ours: bool) -> list[Tensor]:
    """Return the maps and the gradients, by x, weight and bias, of a weighted sum of them."""
    taken = [x.detach().requires_grad_(), weight.detach().requires_grad_()]
    if bias is not None:
        taken.append(bias.detach().requires_grad_())
    stride, padding = how
    maps = (
        depthwise(taken[0], taken[1], taken[2] if bias is not None else None, stride, padding)
        if ours
        else functional.conv2d(taken[0], taken[1], taken[2] if bias is not None else None, stride, padding, groups=len(weight))
    )
    weights = torch.linspace(-1, 1, maps.numel(), dtype=maps.dtype).reshape(maps.shape)
    (maps * weights).sum().backward()  # type: ignore[no-untyped-call]
    return [maps.detach(), *(one.grad for one in taken if one.grad is not None)]


@settings(deadline=None, max_examples=60)
@given(
    k=st.sampled_from([1, 3, 5, 7, 9]),
    stride=st.integers(1, 3),
    share=st.floats(0, 1),
    edges=st.tuples(st.integers(9, 17), st.integers(9, 17)),
    channels=st.integers(1, 5),
    biased=st.booleans(),
    seed=st.integers(0, 99),
)
def test_values_and_gradients_are_torchs_own(
    k: int, stride: int, share: float, edges: tuple[int, int], channels: int, biased: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    padding = round(share * (k - 1))
    x = torch.randn(2, channels, *edges, dtype=torch.float64).to(memory_format=torch.channels_last)
    weight = torch.randn(channels, 1, k, k, dtype=torch.float64)
    bias = torch.randn(channels, dtype=torch.float64) if biased else None
    for mine, theirs in zip(
        gradients(x, weight, bias, (stride, padding), ours=True),
        gradients(x, weight, bias, (stride, padding), ours=False),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("k", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2), (7, 2)])
def test_bf16_under_autocast_is_as_close_to_fp32_as_torchs_own(k: int, stride: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 16, 20, 20).to(memory_format=torch.channels_last)
    weight, bias = torch.randn(16, 1, k, k) / k, torch.randn(16)
    exact = gradients(x, weight, bias, (stride, k // 2), ours=False)
    with torch.autocast("cpu", torch.bfloat16):
        mine = gradients(x, weight, bias, (stride, k // 2), ours=True)
        theirs = gradients(x, weight, bias, (stride, k // 2), ours=False)
    assert mine[0].dtype == torch.bfloat16
    assert [one.dtype for one in mine[1:]] == [torch.float32] * 3
    for one, other, truth in zip(mine, theirs, exact, strict=True):
        assert (one.float() - truth).norm() <= 1.5 * (other.float() - truth).norm() + 1e-6 * truth.norm()


def test_what_needs_no_gradient_gets_none() -> None:
    x, weight = torch.randn(1, 3, 9, 9), torch.randn(3, 1, 5, 5, requires_grad=True)
    depthwise(x, weight, None, 1, 2).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is None
    assert weight.grad is not None
