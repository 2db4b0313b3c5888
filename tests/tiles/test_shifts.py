"""Changes of stated size: against independent ones, the identity where nothing is changed, and nothing but pixels."""

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from sentinode.tiles.shifts import CHANGES, STAINS, blurred, centre, centre_covered, compressed, lit, rim_covered, stained
from sentinode.tiles.synth import synthesise

Tiles = npt.NDArray[np.uint8]


def tissue(px: int = 48) -> Tiles:
    return synthesise(2, 6, px=px, seed=1).tiles


def test_unchanged_stain_gives_the_tiles_back() -> None:
    tiles = np.maximum(tissue(), 1)
    assert np.abs(stained(tiles, 1, 1).astype(int) - tiles).max() <= 1


def test_pure_stains_change_by_their_own_factor_alone() -> None:
    for at, (h, e) in enumerate(((1.5, 1.0), (1.0, 1.5))):
        row = STAINS[at] / np.linalg.norm(STAINS[at])
        tile = np.round(255 * np.exp(-0.6 * row)).astype(np.uint8).reshape(1, 1, 1, 3)
        wanted = 255 * np.exp(-0.9 * row)
        assert np.abs(stained(tile, h, e)[0, 0, 0] - wanted).max() < 2
        assert np.abs(stained(tile, e, h)[0, 0, 0].astype(int) - tile[0, 0, 0]).max() <= 2


def test_blur_is_a_gaussian() -> None:
    tiles = tissue()
    wanted = gaussian_filter(tiles[0].astype(float), (2, 2, 0))
    inside = slice(8, -8)
    assert np.abs(blurred(tiles, 2.0)[0][inside, inside] - wanted[inside, inside]).mean() < 2


def test_brightness_multiplies_and_stops_at_white() -> None:
    tiles = tissue()
    np.testing.assert_array_equal(lit(tiles, 1.15), np.minimum(np.round(tiles * 1.15), 255).astype(np.uint8))


def test_jpeg_is_pillows() -> None:
    tiles = tissue()
    file = io.BytesIO()
    Image.fromarray(tiles[3]).save(file, "JPEG", quality=50, subsampling=2)
    np.testing.assert_array_equal(compressed(tiles, 50)[3], np.asarray(Image.open(file)))


@pytest.mark.parametrize("px", [24, 48, 96])
def test_centre_and_rim_share_no_pixel_and_leave_none_out(px: int) -> None:
    tiles = tissue(px)
    inside = centre(px)
    assert inside.sum() == round(px / 3) ** 2
    only_rim, only_centre = centre_covered(tiles), rim_covered(tiles)
    np.testing.assert_array_equal(only_rim[:, ~inside], tiles[:, ~inside])
    np.testing.assert_array_equal(only_centre[:, inside], tiles[:, inside])
    for seen, cover, of in ((only_rim, inside, ~inside), (only_centre, ~inside, inside)):
        paint = np.round(tiles[:, of].mean(axis=1))
        assert (seen[:, cover] == paint[:, None]).all()


def test_the_paint_tells_nothing_of_what_it_covers() -> None:
    tiles = tissue()
    other = tiles.copy()
    other[:, centre(48)] = 255 - other[:, centre(48)]
    np.testing.assert_array_equal(centre_covered(tiles), centre_covered(other))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: f"{change.name} {change.size}")
def test_a_change_keeps_the_shape_and_changes_the_tiles(change: object) -> None:
    tiles = tissue()
    apply = next(one.apply for one in CHANGES if one is change)
    before = tiles.copy()
    made = apply(tiles)
    assert made.shape == tiles.shape
    assert made.dtype.name == "uint8"
    assert (made != tiles).any()
    np.testing.assert_array_equal(tiles, before)
    assert apply(tiles[:0]).shape == (0, 48, 48, 3)
