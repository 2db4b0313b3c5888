"""A small network that gives a tile and its eight dihedral views the same logit by construction.

Its convolutions are over the group p4m: translations, four rotations, reflections. A field is one channel of the group: eight
maps, one an orientation, from the eight views of one filter. Turning a tile turns the maps of a field and changes places among
them; the maximum and the mean over a field's orientations and positions stay what they are. Each layer is one ordinary
convolution over all maps: its filters are gathered from the few weights that the eight orientations share.

Source: Cohen and Welling 2016, Group equivariant convolutional networks (the p4m convolution, equation 11); Veeling, Linmans,
Winkens, Cohen and Welling 2018, Rotation equivariant CNNs for digital pathology (batch norm shared by orientations).
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


def filter_index(orientations: int) -> Tensor:
    """Return int64 [8 * 9 * orientations]: which weight stands where in the eight views of a 3x3 filter, input orientation last.

    A filter over a field has nine weights for each orientation m of the field. Seen in view g, its positions move as those of a
    tile do, and what it says of orientation m is now said of the orientation that m, followed by g, gives.
    """
    grid = torch.arange(9).reshape(1, 3, 3, 1)
    shows = torch.stack([view(grid, g).flatten() for g in range(ORIENTATIONS)])  # [g, p]: the position that view g shows at p
    if orientations == 1:
        return shows.flatten()
    followed = shows[:, shows]  # [m, g, p]: view m followed by view g
    said_of = (followed[:, :, None] == shows).all(-1).int().argmax(0)  # [g, k]: the m that, followed by g, gives k
    return (said_of[:, None, :] * 9 + shows[:, :, None]).flatten()


class GroupConv(nn.Module):
    """3x3 group convolution: maps [n, orientations * c_in, h, w] to [n, 8 * c_out, h, w], the maps of one orientation together.

    `orientations` is 1 for the tile itself, whose channels turn in place, and 8 for fields.
    """

    index: Tensor

    def __init__(self, c_in: int, c_out: int, orientations: int = ORIENTATIONS) -> None:
        super().__init__()
        self.c_out, self.orientations = c_out, orientations
        bound = 1 / math.sqrt(9 * orientations * c_in)  # as nn.Conv2d begins
        self.weight = nn.Parameter(torch.empty(9 * orientations, c_out, c_in).uniform_(-bound, bound))
        self.register_buffer("index", filter_index(orientations), persistent=False)

    def filters(self) -> Tensor:
        """Return the filters of all orientations, [8 * c_out, orientations * c_in, 3, 3], channels-last."""
        views = self.weight.index_select(0, self.index).view(ORIENTATIONS, 9, self.orientations, *self.weight.shape[1:])
        rows = views.permute(0, 3, 1, 2, 4)  # [g, c_out, place, orientation, c_in]
        return rows.reshape(ORIENTATIONS * self.c_out, 3, 3, -1).permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps."""
        return functional.conv2d(x, self.filters(), padding=1)


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
    """Group convolution, 2x2 max pooling, batch norm, ReLU: fields `c_in` to `c_out`, even sizes halved."""

    def __init__(self, c_in: int, c_out: int, orientations: int = ORIENTATIONS) -> None:
        super().__init__()
        self.conv = GroupConv(c_in, c_out, orientations)
        self.norm = GroupNorm(c_out)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's maps."""
        return functional.relu(self.norm(functional.max_pool2d(self.conv(x), 2)))


class P4MCNN(nn.Module):
    """Three blocks as SimpleCNN's, of group convolutions; what is pooled of each field over tile and centre decides; one logit.

    Pooling by two keeps the symmetry of even sizes only (an odd one loses its last row, which is another row in another view), so
    `px` must be a multiple of 8.

    Parameters
    ----------
    fields
        Fields of the three blocks, of eight maps each.
    hidden
        Units of the dense layer.
    dropout
        Probability of dropping a pooled feature in training.
    """

    def __init__(self, fields: tuple[int, int, int] = (4, 8, 16), hidden: int = 24, dropout: float = 0.3) -> None:
        super().__init__()
        first, *others = zip((3, *fields), fields, strict=False)
        self.blocks = nn.Sequential(GroupBlock(*first, orientations=1), *(GroupBlock(a, b) for a, b in others))
        self.fields = fields[-1]
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
