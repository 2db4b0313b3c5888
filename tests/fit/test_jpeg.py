"""JPEG on the device against Pillow's encoder and decoder."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from sentinode.fit.jpeg import cosines, recompress


def tissue_like(n: int, px: int, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Smooth colour fields with some fine grain: what JPEG is made for."""
    rng = np.random.default_rng(seed)
    coarse = [
        Image.fromarray(rng.integers(60, 255, (9, 9, 3), np.uint8)).resize((px, px), Image.Resampling.BICUBIC) for _ in range(n)
    ]
    grain = rng.normal(0, 6, (n, px, px, 1))
    return np.clip(np.stack([np.asarray(c) for c in coarse]) + grain, 0, 255).astype(np.uint8)


def by_pillow(
    tile: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], quality: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    buffer = io.BytesIO()
    Image.fromarray(tile).save(buffer, "JPEG", quality=quality, subsampling=2)
    return np.asarray(Image.open(buffer))


@pytest.mark.parametrize("quality", [50, 75, 95])
@pytest.mark.parametrize("px", [96, 50])
def test_the_loss_is_pillows(quality: int, px: int) -> None:
    tiles = tissue_like(6, px)
    pillow = np.stack([by_pillow(tile, quality) for tile in tiles]).astype(float)
    ours = recompress(torch.from_numpy(tiles).float(), torch.full((6,), float(quality))).numpy()
    to_pillow = np.abs(ours - pillow).mean()
    to_original = np.abs(pillow - tiles).mean()
    assert to_pillow < 1.25  # grey levels; Pillow rounds at every stage, we do not
    assert to_pillow < 0.65 * to_original


def test_each_tile_has_its_own_quality() -> None:
    tile = torch.from_numpy(tissue_like(1, 48)).float()
    pair = recompress(torch.cat([tile, tile]), torch.tensor([50.0, 95.0]))
    assert (pair[0] - tile[0]).abs().mean() > 1.5 * (pair[1] - tile[0]).abs().mean()


def test_the_transform_is_orthonormal() -> None:
    torch.testing.assert_close(cosines() @ cosines().T, torch.eye(8), atol=1e-6, rtol=0)
