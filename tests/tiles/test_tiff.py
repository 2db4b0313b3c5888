"""The fast path says what Pillow says, or nothing."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sentinode.tiles.decode import BROKEN
from sentinode.tiles.tiff import Layout, plain_layout
from tests.tiles.conftest import Tile, random_tile, tifffile_tiff


def pixels(data: bytes, layout: Layout) -> Tile:
    n = layout.width * layout.height * 3
    return np.frombuffer(data, np.uint8, n, layout.offset).reshape(layout.height, layout.width, 3)


@pytest.mark.parametrize("order", ["<", ">"])
def test_kaggles_encoding_is_understood_in_both_byte_orders(order: str) -> None:
    data = tifffile_tiff(random_tile(1, 96), order=order)
    layout = plain_layout(data)
    assert len(data) == 27_935
    assert layout == Layout(96, 96, 287, True)
    assert np.array_equal(pixels(data, layout), np.asarray(Image.open(BytesIO(data))))


def test_several_strips_of_pillow_are_one_run() -> None:
    buffer = BytesIO()
    tile = random_tile(2, 64, 40)
    Image.fromarray(tile).save(buffer, "TIFF", strip_size=40 * 3 * 10)
    layout = plain_layout(buffer.getvalue())
    assert layout is not None
    assert np.array_equal(pixels(buffer.getvalue(), layout), tile)


@pytest.mark.parametrize("kind", ["tiff_lzw", "tiff_deflate", "packbits", "jpeg"])
def test_compressed_files_are_left_to_pillow(kind: str) -> None:
    buffer = BytesIO()
    Image.fromarray(random_tile(3)).save(buffer, "TIFF", compression=kind)
    assert plain_layout(buffer.getvalue()) is None


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "1", "P", "I;16"])
def test_other_pixels_are_left_to_pillow(mode: str) -> None:
    buffer = BytesIO()
    grey = Image.fromarray(random_tile(3)).convert("L")
    image = Image.fromarray(np.asarray(grey).astype(np.uint16)) if mode == "I;16" else grey.convert(mode)
    image.save(buffer, "TIFF")
    assert plain_layout(buffer.getvalue()) is None


def test_a_turned_or_a_second_page_is_left_to_pillow() -> None:
    turned, pages = BytesIO(), BytesIO()
    image = Image.fromarray(random_tile(3))
    image.save(turned, "TIFF", tiffinfo={274: 6})
    image.save(pages, "TIFF", save_all=True, append_images=[Image.fromarray(random_tile(4))])
    assert plain_layout(turned.getvalue()) is None
    assert plain_layout(pages.getvalue()) is None


def test_a_cut_file_is_not_plain(plain_tiff: Callable[..., bytes]) -> None:
    data = plain_tiff(random_tile(1))
    assert plain_layout(data) is not None
    assert all(plain_layout(data[:end]) is None for end in (0, 4, 8, 100, 200, 287, len(data) - 1))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 286), st.integers(0, 255), st.sampled_from("<>"))
def test_with_any_header_byte_changed_it_agrees_with_pillow_or_stands_back(place: int, value: int, order: str) -> None:
    data = bytearray(tifffile_tiff(random_tile(5, 8), order=order))
    data[place] = value
    layout = plain_layout(bytes(data))
    if layout is None:
        return
    try:
        with Image.open(BytesIO(bytes(data)), formats=("TIFF",)) as image:
            expected = np.asarray(image)
    except BROKEN:
        return  # stricter than Pillow is allowed the other way round only where Pillow itself gives up on names and dates
    assert np.array_equal(pixels(bytes(data), layout), expected)
