"""The baseline: its shapes, its order of pooling, its look at the centre."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from sentinode.nets.simple_cnn import Block, SimpleCNN, centre


@pytest.mark.parametrize("px", [24, 32, 50, 96, 128])
def test_one_logit_a_tile_at_any_size(px: int) -> None:
    assert SimpleCNN()(torch.zeros(2, 3, px, px)).shape == (2,)


def test_pooling_before_the_activation_gives_the_same_values() -> None:
    torch.manual_seed(0)
    block = Block(3, 8).eval()
    x = torch.randn(2, 3, 16, 16)
    after = functional.max_pool2d(functional.relu(block.norm(block.conv(x))), 2)
    torch.testing.assert_close(block(x), after)  # a fresh norm has a positive factor, so order does not matter


def test_centre_is_the_middle_third() -> None:
    x = torch.arange(144.0).reshape(1, 1, 12, 12)
    assert torch.equal(centre(x), x[..., 4:8, 4:8])
    assert centre(torch.zeros(1, 1, 3, 3)).shape == (1, 1, 1, 1)


def test_the_centre_counts_apart_from_the_rim() -> None:
    torch.manual_seed(0)
    model = SimpleCNN().eval()
    x = torch.zeros(1, 3, 96, 96)
    spot = torch.randn(3, 16, 16)
    middle, corner = x.clone(), x.clone()
    middle[0, :, 40:56, 40:56] = spot
    corner[0, :, 8:24, 8:24] = spot
    features = [nn.Module.__call__(model.blocks, tile) for tile in (middle, corner)]
    assert centre(features[0]).amax() > centre(features[1]).amax()


def test_it_has_three_blocks_of_convolution_and_pooling() -> None:
    model = SimpleCNN()
    assert [type(b) for b in model.blocks] == [Block] * 3
    assert model.blocks(torch.zeros(1, 3, 96, 96)).shape == (1, 128, 12, 12)
