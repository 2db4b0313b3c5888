"""A small network that gives a tile and its eight dihedral views the same logit by construction.

Its convolutions are over the group p4m: translations, four rotations, reflections. A field is one channel of the group: eight
maps, one an orientation, from the eight views of one filter. Turning a tile turns the maps of a field and changes places among
them; the maximum and the mean over a field's orientations and positions stay what they are. Each layer is one ordinary
convolution over all maps: its filters are gathered from the few weights that the eight orientations share.

A full group convolution spends 72 weights on each pair of fields. Here a layer is separable: each field is filtered by itself,
wide, then all fields and orientations are mixed position by position, which takes 8. The same 15,000 weights then make up 82
fields in place of 28, and on held-out colour clusters of real tiles they learned more (docs/architecture.md).

Source: Cohen and Welling 2016, Group equivariant convolutional networks (the p4m convolution, equation 11); Veeling, Linmans,
Winkens, Cohen and Welling 2018, Rotation equivariant CNNs for digital pathology (batch norm shared by orientations); Lengyel and
van Gemert 2021, Exploiting learned symmetries in group equivariant convolutions (separable over the group).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from sentinode.errors import UsageProblem
from sentinode.nets.depthwise import depthwise
from sentinode.nets.forward import view
from sentinode.nets.simple_cnn import centre

ORIENTATIONS = 8
"""Elements of the group without translations, numbered as `forward.view` numbers them."""


def shown_at(k: int) -> Tensor:
    """Return int64 [8, k * k]: the position of a filter that its view g shows at p."""
    grid = torch.arange(k * k).reshape(1, k, k, 1)
    return torch.stack([view(grid, g).flatten() for g in range(ORIENTATIONS)])


def filter_index(orientations: int, k: int) -> Tensor:
    """Return int64 [8 * k * k * orientations]: which weight stands where in the views of a filter, input orientation last.

    A filter over a field has k * k weights for each orientation m of the field. Seen in view g, its positions move as those of a
    tile do, and what it says of orientation m is now said of the orientation that m, followed by g, gives.
    """
    shows = shown_at(k)
    if orientations == 1:
        return shows.flatten()
    seen = shown_at(2)  # four corners tell the eight views apart
    followed = seen[:, seen]  # [m, g, p]: view m followed by view g
    said_of = (followed[:, :, None] == seen).all(-1).int().argmax(0)  # [g, k]: the m that, followed by g, gives k
    return (said_of[:, None, :] * k * k + shows[:, :, None]).flatten()


class GroupConv(nn.Module):
    """k x k group convolution: maps [n, orientations * c_in, h, w] to [n, 8 * c_out, h, w], the maps of one orientation together.

    `orientations` is 1 for the tile itself, whose channels turn in place, and 8 for fields.
    """

    index: Tensor

    def __init__(self, c_in: int, c_out: int, k: int, orientations: int = ORIENTATIONS) -> None:
        super().__init__()
        self.c_out, self.k, self.orientations = c_out, k, orientations
        bound = 1 / math.sqrt(k * k * orientations * c_in)  # as nn.Conv2d begins
        self.weight = nn.Parameter(torch.empty(k * k * orientations, c_out, c_in).uniform_(-bound, bound))
        self.register_buffer("index", filter_index(orientations, k), persistent=False)

    def filters(self) -> Tensor:
        """Return the filters of all orientations, [8 * c_out, orientations * c_in, k, k], channels-last."""
        views = self.weight.index_select(0, self.index).view(ORIENTATIONS, self.k**2, self.orientations, *self.weight.shape[1:])
        rows = views.permute(0, 3, 1, 2, 4)  # [g, c_out, place, orientation, c_in]
        return rows.reshape(ORIENTATIONS * self.c_out, self.k, self.k, -1).permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps."""
        return functional.conv2d(x, self.filters(), padding=self.k // 2)


class FieldConv(nn.Module):
    """k x k convolution of each field by itself, [n, 8 * c, h, w] to the same: the map of orientation g with the filter in view g.

    It is the group convolution whose filters have weights for one field and its first orientation alone.
    """

    index: Tensor

    def __init__(self, c: int, k: int) -> None:
        super().__init__()
        self.k = k
        self.weight = nn.Parameter(torch.empty(k * k, c).uniform_(-1 / k, 1 / k))
        self.register_buffer("index", shown_at(k).flatten(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps."""
        views = self.weight.index_select(0, self.index).view(ORIENTATIONS, self.k, self.k, -1)
        return depthwise(x, views.permute(0, 3, 1, 2).reshape(-1, 1, self.k, self.k), None, 1, self.k // 2)


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


class LiftingBlock(nn.Module):
    """3x3 group convolution of the tile, 2x2 max pooling, batch norm, ReLU: `channels` to `fields`, even sizes halved."""

    def __init__(self, channels: int, fields: int) -> None:
        super().__init__()
        self.conv = GroupConv(channels, fields, 3, orientations=1)
        self.norm = GroupNorm(fields)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's maps."""
        return functional.relu(self.norm(functional.max_pool2d(self.conv(x), 2)))


class SeparableBlock(nn.Module):
    """Separable group convolution, 2x2 max pooling, batch norm, ReLU: fields `c_in` to `c_out`, even sizes halved.

    A block that does not pool keeps size and fields, and adds what came in before the ReLU.
    """

    def __init__(self, c_in: int, c_out: int, *, pools: bool = True) -> None:
        super().__init__()
        self.pools = pools
        self.each = FieldConv(c_in, 5)
        self.mix = GroupConv(c_in, c_out, 1)
        self.norm = GroupNorm(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's maps."""
        mixed = self.mix(self.each(x))
        return functional.relu(self.norm(functional.max_pool2d(mixed, 2)) if self.pools else self.norm(mixed) + x)


class P4MCNN(nn.Module):
    """Three blocks that pool, as SimpleCNN's, and one that does not; what is pooled of each field over tile and centre decides.

    Pooling by two keeps the symmetry of even sizes only (an odd one loses its last row, which is another row in another view), so
    `px` must be a multiple of 8.

    Parameters
    ----------
    fields
        Fields of the three blocks that pool, of eight maps each; the last block has as many as the third.
    hidden
        Units of the dense layer.
    dropout
        Probability of dropping a pooled feature in training.
    """

    def __init__(self, fields: tuple[int, int, int] = (6, 20, 28), hidden: int = 12, dropout: float = 0.3) -> None:
        super().__init__()
        first, second, self.fields = fields
        self.blocks = nn.Sequential(
            LiftingBlock(3, first),
            SeparableBlock(first, second),
            SeparableBlock(second, self.fields),
            SeparableBlock(self.fields, self.fields, pools=False),
        )
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(6 * self.fields, hidden)
        self.head = nn.Linear(hidden, 1)

    def pooled(self, maps: Tensor) -> list[Tensor]:
        """Return what no view changes of maps [n, 8 * fields, h, w], each [n, fields].

        The mean over positions and orientations, and of the maxima over positions the highest orientation's and their mean: a
        pattern with a direction is high in one orientation, one without in all.
        """
        mean, most = (f(maps, dim=(2, 3)).view(-1, ORIENTATIONS, self.fields) for f in (torch.mean, torch.amax))
        return [mean.mean(1), most.amax(1), most.mean(1)]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [n] of normalised tiles [n, 3, px, px]; UsageProblem if px is no multiple of 8."""
        if not torch.jit.is_tracing() and x.shape[-1] % 8:  # type: ignore[attr-defined, no-untyped-call]
            raise UsageProblem("tiles whose edge is a multiple of 8 for p4m-cnn", f"{x.shape[-1]} px", "pack them with --px 96")
        maps = self.blocks(x)
        features = self.dropout(torch.cat([*self.pooled(maps), *self.pooled(centre(maps))], dim=1))
        logits: Tensor = self.head(functional.relu(self.dense(features)))
        return logits.squeeze(1)
