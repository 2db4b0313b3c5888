"""JPEG's loss on the device: 4:2:0 chroma, 8x8 cosine transform, quantisation. Entropy coding loses nothing and is left out.

Source: ITU-T T.81, Annex A (transform) and K (tables); libjpeg's quality scale. Checked against Pillow's encoder.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

LUMINANCE = (
    *(
        16,
        11,
        10,
        16,
        24,
        40,
        51,
        61,
        12,
        12,
        14,
        19,
        26,
        58,
        60,
        55,
        14,
        13,
        16,
        24,
        40,
        57,
        69,
        56,
        14,
        17,
        22,
        29,
        51,
        87,
        80,
        62,
    ),
    *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101),
    *(72, 92, 95, 98, 112, 100, 103, 99),
)
"""Quantisation of luminance at quality 50, row by row (T.81, table K.1)."""
CHROMINANCE = (
    *(
        17,
        18,
        24,
        47,
        99,
        99,
        99,
        99,
        18,
        21,
        26,
        66,
        99,
        99,
        99,
        99,
        24,
        26,
        56,
        99,
        99,
        99,
        99,
        99,
        47,
        66,
        99,
        99,
        99,
        99,
        99,
        99,
    ),
    *(99,) * 32,
)
"""Quantisation of chrominance at quality 50 (T.81, table K.2)."""
TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
"""R, G, B to Y, Cb, Cr (JFIF 1.02; chroma centred on 0)."""


def cosines() -> Tensor:
    """Return the orthonormal 8x8 cosine transform: rows are frequencies."""
    k, x = torch.arange(8.0)[:, None], torch.arange(8.0)[None, :]
    rows = torch.cos(math.pi * (2 * x + 1) * k / 16) / 2
    rows[0] /= math.sqrt(2)
    return rows


def quantise(plane: Tensor, table: tuple[int, ...], quality: Tensor) -> Tensor:
    """Return plane [n, h, w] (centred on 0) after quantisation at `quality` [n], 1 to 100; edges repeat to multiples of 8."""
    n, height, width = plane.shape
    padded = functional.pad(plane[:, None], (0, -width % 8, 0, -height % 8), mode="replicate")[:, 0]
    transform = cosines().to(plane.device)
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)
    steps = torch.tensor(table, device=plane.device, dtype=plane.dtype)
    steps = ((steps * scale[:, None] + 50) / 100).floor().clamp(1, 255).reshape(n, 1, 1, 8, 8)
    blocks = padded.unfold(1, 8, 8).unfold(2, 8, 8)
    coefficients = (transform @ blocks @ transform.T / steps).round() * steps
    blocks = transform.T @ coefficients @ transform
    return blocks.transpose(2, 3).reshape(padded.shape)[:, :height, :width]


def recompress(tiles: Tensor, quality: Tensor) -> Tensor:
    """Return float tiles [n, h, w, 3], 0 to 255, as they look after JPEG at `quality` [n] with halved chroma."""
    height, width = tiles.shape[1:3]
    to_ycc = torch.tensor(TO_YCC, device=tiles.device, dtype=tiles.dtype)
    luma, *chroma = (tiles @ to_ycc.T).unbind(-1)
    planes = [quantise(luma - 128, LUMINANCE, quality) + 128]
    for plane in chroma:
        half = functional.avg_pool2d(plane[:, None], 2, ceil_mode=True)[:, 0]
        coarse = quantise(half, CHROMINANCE, quality)[:, None]
        planes.append(functional.interpolate(coarse, scale_factor=2, mode="bilinear")[:, 0, :height, :width])
    to_rgb: Tensor = torch.linalg.inv(to_ycc)
    return (torch.stack(planes, -1) @ to_rgb.T).clamp(0, 255)
