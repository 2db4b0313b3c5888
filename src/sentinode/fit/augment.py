"""From uint8 tiles to the network's input, with chance: dihedral views, colour, JPEG. On the device, a batch at a time.

Every draw comes from the generator that is handed in, so that a step's augmentation depends on its seed alone.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sentinode.fit.jpeg import recompress
from sentinode.nets.forward import sent, view
from sentinode.nets.transform import normalise_in_place
from sentinode.tiles.fingerprint import LUMINANCE


@dataclass(frozen=True)
class Augmentation:
    """How strongly a batch is varied; all zero and False leaves it as it is.

    `dihedral`: a random one of the eight views each; `colour`: strength, 1 is brightness and contrast +-20 %, saturation
    +-50 %, hue +-0.1 of a turn, channel gains +-10 %; `jpeg`: share of the tiles that are recompressed at quality 50 to 95.
    """

    dihedral: bool
    colour: float
    jpeg: float


def random_views(tiles: Tensor, generator: torch.Generator) -> Tensor:
    """Return tiles [n, px, px, 3] as float32, each in one of the eight views.

    The rows of a batch are in random order already, so consecutive eighths get consecutive views from a random first one: slices
    are several times faster than a draw for each tile, and every batch holds all views.
    """
    first = int(torch.randint(8, (), generator=generator))
    n = len(tiles)
    out = torch.empty(tiles.shape, dtype=torch.float32, device=tiles.device)
    for k in range(8):
        part = slice(k * n // 8, (k + 1) * n // 8)
        if part.stop > part.start:
            out[part] = view(tiles[part], (first + k) % 8)
    return out


def colour_transforms(n: int, strength: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw `n` colour changes as matrices [n, 3, 3] and offsets [n, 1, 3] for colours as rows, scaled 0 to 1.

    A hue turn about the grey axis (Rodrigues' formula), a pull to or from grey, gains for each channel, contrast about 0.5, and
    brightness: all linear, so one matrix does them all.
    """

    def draw(*shape: int) -> Tensor:
        return (torch.rand(n, *shape, generator=generator) * 2 - 1) * strength

    eye = torch.eye(3)
    luma = torch.tensor(LUMINANCE).expand(3, 3)
    axis = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    turn = draw(1, 1) * 0.1 * 2 * math.pi
    hue = eye + turn.sin() * axis + (1 - turn.cos()) * (axis @ axis)
    saturation = 1 + 0.5 * draw(1, 1)
    grey = saturation * eye + (1 - saturation) * luma
    gain = torch.diag_embed(1 + 0.1 * draw(3))
    contrast = 1 + 0.2 * draw(1, 1)
    matrix = contrast * (gain @ grey @ hue)
    offset = (0.5 - 0.5 * contrast) + 0.2 * draw(1, 1).expand(n, 1, 3)
    return matrix.transpose(1, 2), offset


def augmented(tiles: Tensor, mean: Tensor, std: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Return normalised images [n, 3, px, px], float32, channels-last, of uint8 tiles [n, px, px, 3] on the same device.

    `mean` and `std` [3] are of colours scaled 0 to 1. `generator` is a CPU generator, so that the same seed draws the same
    changes on every device.
    """
    n, height, width, _ = tiles.shape
    x = random_views(tiles, generator) if augmentation.dihedral else tiles.to(torch.float32)
    if augmentation.jpeg:
        chosen = torch.rand(n, generator=generator) < augmentation.jpeg
        quality = (50 + 45 * torch.rand(n, generator=generator))[chosen]
        if len(quality):
            where = sent(chosen.nonzero().squeeze(1), x.device)
            x[where] = recompress(x[where], sent(quality, x.device))
    if not augmentation.colour:
        return normalise_in_place(x, mean, std)
    matrix, offset = (sent(t, x.device) for t in colour_transforms(n, augmentation.colour, generator))
    x = torch.baddbmm((offset - mean) / std, x.reshape(n, -1, 3), matrix / (255 * std))
    return x.reshape(n, height, width, 3).permute(0, 3, 1, 2)
