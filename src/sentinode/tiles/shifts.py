"""Changes of stated size that another scanner, laboratory or disk makes to a tile: stain, blur, brightness, JPEG. No torch."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

Tiles = npt.NDArray[np.uint8]
"""uint8 [n, px, px, 3]."""
STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Optical density of haematoxylin, eosin and DAB in red, green, blue (Ruifrok and Johnston 2001); rows are scaled to length 1."""


@dataclass(frozen=True)
class Change:
    """A change by name, its size in words, and what makes it."""

    name: str
    size: str
    apply: Callable[[Tiles], Tiles]


def stained(tiles: Tiles, haematoxylin: float, eosin: float) -> Tiles:
    """Return tiles with the amounts of both stains multiplied; 1 and 1 give the tiles back, up to rounding.

    Source: colour deconvolution of Ruifrok and Johnston 2001, as scikit-image's rgb2hed.
    """
    basis = STAINS / np.linalg.norm(STAINS, axis=1, keepdims=True)
    density = -np.log(np.maximum(tiles.astype(np.float64), 1) / 255)
    amounts = density @ np.linalg.inv(basis)
    amounts[..., 0] *= haematoxylin
    amounts[..., 1] *= eosin
    return as_bytes(255 * np.exp(-(amounts @ basis)))


def blurred(tiles: Tiles, sigma: float) -> Tiles:
    """Return tiles under a Gaussian of `sigma` pixels."""
    return by_image(tiles, lambda image: image.filter(ImageFilter.GaussianBlur(sigma)))


def lit(tiles: Tiles, factor: float) -> Tiles:
    """Return tiles with all colours multiplied, cut at white."""
    return as_bytes(tiles.astype(np.float64) * factor)


def compressed(tiles: Tiles, quality: int) -> Tiles:
    """Return tiles after JPEG at `quality`, with halved chroma."""

    def through(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality, subsampling=2)
        return Image.open(file).convert("RGB")

    return by_image(tiles, through)


def by_image(tiles: Tiles, change: Callable[[Image.Image], Image.Image]) -> Tiles:
    """Return each tile changed as an image of Pillow's."""
    return np.stack([np.asarray(change(Image.fromarray(tile))) for tile in tiles]) if len(tiles) else tiles


def as_bytes(colours: npt.NDArray[np.float64]) -> Tiles:
    """Return colours, 0 to 255, rounded and cut."""
    return np.clip(np.round(colours), 0, 255).astype(np.uint8)


def centre_covered(tiles: Tiles) -> Tiles:
    """Return tiles whose centre third is painted in the rim's mean colour: nothing of the centre is left, not even in the paint."""
    return covered(tiles, centre(tiles.shape[1]))


def rim_covered(tiles: Tiles) -> Tiles:
    """Return tiles with all but the centre third painted in the centre's mean colour."""
    return covered(tiles, ~centre(tiles.shape[1]))


def covered(tiles: Tiles, where: npt.NDArray[np.bool_]) -> Tiles:
    """Return tiles painted at `where` [px, px] in the mean colour of what stays visible.

    Not of the whole tile: its colour would tell of what is covered, and a model that sees colour would go on as if it saw it.
    """
    colours = as_bytes(tiles[:, ~where].mean(axis=1))
    return np.where(where[None, :, :, None], colours[:, None, None, :], tiles)


def centre(px: int) -> npt.NDArray[np.bool_]:
    """Return which pixels [px, px] are in the centre third: 32x32 of a tile of 96."""
    at = np.arange(px)
    inside = (at >= round(px / 3)) & (at < round(2 * px / 3))
    return np.asarray(inside[:, None] & inside[None, :])


CHANGES = (
    Change("stain", "haematoxylin x 0.8", lambda tiles: stained(tiles, 0.8, 1.0)),
    Change("stain", "haematoxylin x 1.25", lambda tiles: stained(tiles, 1.25, 1.0)),
    Change("stain", "eosin x 0.8", lambda tiles: stained(tiles, 1.0, 0.8)),
    Change("stain", "eosin x 1.25", lambda tiles: stained(tiles, 1.0, 1.25)),
    Change("blur", "sigma 1 px", lambda tiles: blurred(tiles, 1.0)),
    Change("blur", "sigma 2 px", lambda tiles: blurred(tiles, 2.0)),
    Change("brightness", "x 0.85", lambda tiles: lit(tiles, 0.85)),
    Change("brightness", "x 1.15", lambda tiles: lit(tiles, 1.15)),
    Change("JPEG", "quality 80", lambda tiles: compressed(tiles, 80)),
    Change("JPEG", "quality 50", lambda tiles: compressed(tiles, 50)),
)
"""What the shift test makes, mild and strong of each kind."""
