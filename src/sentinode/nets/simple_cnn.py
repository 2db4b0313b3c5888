"""The reference study's baseline: three blocks of convolution and max pooling, then dropout and a dense head, one logit.

Pooling stands before normalisation and activation. ReLU and maximum commute, so pooling first gives the same values with a
quarter of the work; batch norm sees the pooled maps. The head looks at the whole tile and, apart, at its centre third, where
the label of a tile lives (PatchCamelyon: at least one tumour pixel in the centre 32x32 of 96x96).
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """3x3 convolution, 2x2 max pooling, batch norm, ReLU: [n, c_in, h, w] to [n, c_out, h/2, w/2]."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's maps."""
        return functional.relu(self.norm(functional.max_pool2d(self.conv(x), 2)))


def centre(x: Tensor) -> Tensor:
    """Return the centre third of maps [n, c, h, w] (at least one position)."""
    height, width = x.shape[-2:]
    top, left = height // 3, width // 3
    return x[..., top : height - top, left : width - left]


class SimpleCNN(nn.Module):
    """Three blocks, then mean and maximum over the tile and over its centre, dropout, a dense layer, one logit.

    Parameters
    ----------
    widths
        Channels of the three blocks.
    hidden
        Units of the dense layer.
    dropout
        Probability of dropping a pooled feature in training.
    """

    def __init__(self, widths: tuple[int, int, int] = (32, 64, 128), hidden: int = 128, dropout: float = 0.3) -> None:
        super().__init__()
        channels = (3, *widths)
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in pairwise(channels)))
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(4 * widths[-1], hidden)
        self.head = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [n] of normalised tiles [n, 3, px, px], px at least 24."""
        maps = self.blocks(x)
        middle = centre(maps)
        pooled = [f(m, dim=(2, 3)) for m in (maps, middle) for f in (torch.mean, torch.amax)]
        features = self.dropout(torch.cat(pooled, dim=1))
        logits: Tensor = self.head(functional.relu(self.dense(features)))
        return logits.squeeze(1)
