"""Portable operations give the numbers of torch's, Pillow's and timm's: to the byte in resizing, in any size, either way."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from sentinode.nets.portable import PortableTransform, with_fixed_padding
from sentinode.nets.transform import Preprocessing, Transform

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
AS_IT_IS = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}


def random_tiles(n: int, px: int, seed: int = 0) -> Tensor:
    """Noise, and the same in black and white, where filters overshoot most."""
    tiles = torch.randint(0, 256, (n, px, px, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    tiles[: n // 2] = (tiles[: n // 2] > 127).to(torch.uint8) * 255
    return tiles


@example(128, 27, "bicubic", 2)  # its sums need 26 bits: float32 was one unit off in one pixel
@settings(max_examples=30, deadline=None)
@given(st.integers(5, 130), st.integers(5, 130), st.sampled_from(["bilinear", "bicubic"]), st.integers(0, 9))
def test_resizing_is_torchs_to_the_byte(px: int, input_px: int, interpolation: str, seed: int) -> None:
    tiles = random_tiles(2, px, seed)
    size = (input_px, input_px)
    expected = functional.interpolate(tiles.permute(0, 3, 1, 2), size, mode=interpolation, antialias=True)
    portable = PortableTransform(Preprocessing(**AS_IT_IS, input_px=input_px, interpolation=interpolation), px)  # type: ignore[arg-type]
    assert torch.equal(portable(tiles).round(), expected.float())


@pytest.mark.parametrize(("px", "input_px"), [(96, 128), (96, 224), (224, 96)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizing_is_pillows(px: int, input_px: int, interpolation: str) -> None:
    """Pillow's weights have more bits than torch's: seldom apart, and by two levels at most, on black and white."""
    tiles = random_tiles(2, px)
    portable = PortableTransform(Preprocessing(**AS_IT_IS, input_px=input_px, interpolation=interpolation), px)  # type: ignore[arg-type]
    found = portable(tiles).round().permute(0, 2, 3, 1).numpy()
    for tile, ours in zip(tiles.numpy(), found, strict=True):
        theirs = np.asarray(Image.fromarray(tile).resize((input_px, input_px), FILTERS[interpolation])).astype(np.float32)
        assert np.abs(theirs - ours).max() <= 2
        assert (theirs != ours).mean() < 0.01


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
@pytest.mark.parametrize("input_px", [0, 24, 40])
def test_it_is_the_transform_of_prediction(channels: str, input_px: int) -> None:
    preprocessing = Preprocessing((0.7, 0.5, 0.6), (0.2, 0.3, 0.25), input_px, "bicubic", channels)  # type: ignore[arg-type]
    tiles = random_tiles(4, 24)
    expected = Transform(preprocessing, 24)(tiles)
    found = PortableTransform(preprocessing, 24)(tiles)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


class Conv2dSame(nn.Conv2d):
    """TensorFlow's rule in its own words: as many outputs as strides fit, zeros around, the odd one at the end."""

    def forward(self, x: Tensor) -> Tensor:
        for axis in (2, 3):
            edge, kernel, stride, step = x.shape[axis], self.kernel_size[axis - 2], self.stride[axis - 2], self.dilation[axis - 2]
            outputs = (edge + stride - 1) // stride
            total = max(0, (outputs - 1) * stride + step * (kernel - 1) + 1 - edge)
            ends = [0, 0, 0, 0]
            ends[2 * (3 - axis) : 2 * (3 - axis) + 2] = [total // 2, total - total // 2]
            x = functional.pad(x, ends)
        return functional.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.integers(6, 17), st.integers(6, 17)),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.integers(1, 2),
    st.booleans(),
)
def test_fixed_padding_changes_nothing(
    size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], dilation: int, bias: bool
) -> None:
    torch.manual_seed(0)
    first = Conv2dSame(3, 4, kernel, stride, dilation=dilation, bias=bias)
    network = nn.Sequential(first, nn.ReLU(), nn.Sequential(Conv2dSame(4, 4, 3, 2, groups=4)))
    x = torch.randn(2, 3, *size)
    portable = with_fixed_padding(network, x)
    torch.testing.assert_close(portable(x), network(x))
    assert [type(m).__name__ for m in network.modules()].count("Conv2dSame") == 2  # the network itself stays as it was
    assert "Conv2dSame" not in [type(m).__name__ for m in portable.modules()]
