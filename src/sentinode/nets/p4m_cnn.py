"""A small network that gives a tile and its eight dihedral views the same logit by construction.

Its convolutions are over the group p4m: translations, four rotations, reflections. A field is one channel of the group: eight
maps, one an orientation, from the eight views of one filter. Turning a tile turns the maps of a field and changes places among
them; the maximum and the mean over a field's orientations and positions stay what they are. Each layer is one ordinary
convolution over all maps: its filters are gathered from the few weights that the eight orientations share.

Source: Cohen and Welling 2016, Group equivariant convolutional networks (the p4m convolution, equation 11); Veeling, Linmans,
Winkens, Cohen and Welling 2018, Rotation equivariant CNNs for digital pathology (batch norm shared by orientations); Knigge,
Romero and Bekkers 2022, Exploiting redundancy: separable group convolutional networks (filters that are products).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from sentinode.errors import UsageProblem
from sentinode.nets.forward import view
from sentinode.nets.simple_cnn import centre

ORIENTATIONS = 8
"""Elements of the group without translations, numbered as `forward.view` numbers them."""


def filter_index(orientations: int, size: int) -> Tensor:
    """Return int64 [8 * size * size * orientations]: which weight stands where in a filter's eight views, input orientation last.

    A filter over a field has size * size weights for each orientation m of the field. Seen in view g, its positions move as those
    of a tile do, and what it says of orientation m is now said of the orientation that m, followed by g, gives.
    """
    places = size * size
    grid = torch.arange(places).reshape(1, size, size, 1)
    shows = torch.stack([view(grid, g).flatten() for g in range(ORIENTATIONS)])  # [g, p]: the position that view g shows at p
    if orientations == 1:
        return shows.flatten()
    followed = shows[:, shows]  # [m, g, p]: view m followed by view g
    said_of = (followed[:, :, None] == shows).all(-1).int().argmax(0)  # [g, k]: the m that, followed by g, gives k
    return (said_of[:, None, :] * places + shows[:, :, None]).flatten()


class GroupConv(nn.Module):
    """Group convolution: maps [n, orientations * c_in, h, w] to [n, 8 * c_out, h, w], the maps of one orientation together.

    `orientations` is 1 for the tile itself, whose channels turn in place, and 8 for fields. An even `size`, from 2, strides by two, which
    lets a window of even width lie symmetrically; an odd one, from 3, by one. A `separable` filter is the product of one over orientations
    and one over positions, for each pair of fields: 17 weights instead of 72 at size 3.
    """

    index: Tensor

    def __init__(
        self, c_in: int, c_out: int, orientations: int = ORIENTATIONS, size: int = 3, *, separable: bool = False
    ) -> None:
        super().__init__()
        self.c_out, self.orientations, self.size = c_out, orientations, size
        places, pairs = size * size, (c_out, c_in)
        if separable:  # the variance of a product is the product of the variances: that of the other form
            self.turned = nn.Parameter(torch.empty(orientations, *pairs).uniform_(-1, 1) * math.sqrt(3 / (orientations * c_in)))
            self.placed = nn.Parameter(torch.empty(places, *pairs).uniform_(-1, 1) / size)
        else:
            bound = 1 / math.sqrt(places * orientations * c_in)  # as nn.Conv2d begins
            self.weight = nn.Parameter(torch.empty(orientations * places, *pairs).uniform_(-bound, bound))
        self.separable = separable
        self.register_buffer("index", filter_index(orientations, size), persistent=False)

    def filters(self) -> Tensor:
        """Return the filters of all orientations, [8 * c_out, orientations * c_in, size, size], channels-last."""
        weight = (self.turned[:, None] * self.placed).flatten(0, 1) if self.separable else self.weight
        views = weight.index_select(0, self.index).view(ORIENTATIONS, self.size**2, self.orientations, *weight.shape[1:])
        rows = views.permute(0, 3, 1, 2, 4)  # [g, c_out, place, orientation, c_in]
        return rows.reshape(ORIENTATIONS * self.c_out, self.size, self.size, -1).permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps."""
        even = self.size % 2 == 0
        return functional.conv2d(x, self.filters(), padding=(self.size - 1) // 2, stride=2 if even else 1)


class GroupNorm(nn.BatchNorm2d):
    """Batch norm of maps [n, 8 * c, h, w] whose eight orientations share mean, variance, factor and offset."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised maps."""
        if not self.training:
            shared = (self.running_mean, self.running_var, self.weight, self.bias)
            mean, variance, factor, offset = (t.repeat(ORIENTATIONS) for t in shared if t is not None)
            return functional.batch_norm(x, mean, variance, factor, offset, eps=self.eps)
        # In channels-last memory eight maps wide and c maps deep is the same as 8 * c maps deep: nothing is moved.
        n, maps, height, width = x.shape
        wide = x.permute(0, 2, 3, 1).reshape(n, height, width * ORIENTATIONS, maps // ORIENTATIONS).permute(0, 3, 1, 2)
        return super().forward(wide).permute(0, 2, 3, 1).reshape(n, height, width, maps).permute(0, 3, 1, 2)


class GroupBlock(nn.Module):
    """Group convolution, 2x2 max pooling where `pool`, batch norm, ReLU; pooling halves even sizes. `conv` as GroupConv takes."""

    def __init__(self, conv: GroupConv, *, pool: bool) -> None:
        super().__init__()
        self.conv, self.pool = conv, pool
        self.norm = GroupNorm(conv.c_out)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's maps."""
        maps = self.conv(x)
        return functional.relu(self.norm(functional.max_pool2d(maps, 2) if self.pool else maps))


class Residual(GroupBlock):
    """A block without pooling whose maps are added to what came in."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum."""
        return x + super().forward(x)


class P4MCNN(nn.Module):
    """Group convolutions down to an eighth of the size, then mean and maximum of each field over tile and centre, one logit.

    A convolution that strides by two and pooling bring the tile to a quarter at once; two more blocks, the second with pooling,
    to an eighth; there residual blocks, whose filters are separable, look further around at little cost. Halving keeps the
    symmetry of even sizes only (an odd one loses its last row, which is another row in another view), so `px` must be a multiple
    of 8.

    Parameters
    ----------
    fields
        Fields, of eight maps each, of the first three blocks; the others keep the last number.
    depth
        Residual blocks.
    hidden
        Units of the dense layer.
    dropout
        Probability of dropping a pooled feature in training.
    """

    def __init__(self, fields: tuple[int, int, int] = (6, 8, 10), depth: int = 2, hidden: int = 16, dropout: float = 0.3) -> None:
        super().__init__()
        a, b, c = fields
        self.blocks = nn.Sequential(
            GroupBlock(GroupConv(3, a, orientations=1, size=6), pool=True),
            GroupBlock(GroupConv(a, b), pool=False),
            GroupBlock(GroupConv(b, c), pool=True),
            *(Residual(GroupConv(c, c, separable=True), pool=False) for _ in range(depth)),
        )
        self.fields = c
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(4 * c, hidden)
        self.head = nn.Linear(hidden, 1)

    def pooled(self, maps: Tensor) -> list[Tensor]:
        """Return mean and maximum, each [n, fields], over positions and orientations of maps [n, 8 * fields, h, w]."""
        mean, most = (f(maps, dim=(2, 3)).view(-1, ORIENTATIONS, self.fields) for f in (torch.mean, torch.amax))
        return [mean.mean(1), most.amax(1)]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [n] of normalised tiles [n, 3, px, px]; UsageProblem if px is no multiple of 8."""
        if not torch.jit.is_tracing() and x.shape[-1] % 8:  # type: ignore[attr-defined, no-untyped-call]
            raise UsageProblem("tiles whose edge is a multiple of 8 for p4m-cnn", f"{x.shape[-1]} px", "pack them with --px 96")
        maps = self.blocks(x)
        features = self.dropout(torch.cat([*self.pooled(maps), *self.pooled(centre(maps))], dim=1))
        logits: Tensor = self.head(functional.relu(self.dense(features)))
        return logits.squeeze(1)
