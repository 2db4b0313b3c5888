"""The strict fast path: plain uncompressed 8-bit RGB TIFF, the format of all 220,025 Kaggle tiles.

`plain_layout` understands one page, chunky, photometric RGB, strips that follow each other; it answers None to everything else,
which Pillow then reads. So it may be strict to the point of rudeness, and never has to guess.
Source: TIFF 6.0, sections 2 and 6.
"""

import struct
from typing import NamedTuple

SHORT, LONG = 3, 4
INERT = frozenset({254, 269, 270, 271, 272, 282, 283, 285, 296, 297, 305, 306, 315, 316, 33432})
"""Tags that change no pixel: names, dates, resolution. 254 (kind of page) is looked at all the same."""
DEFAULTS = {254: (0,), 259: (1,), 266: (1,), 274: (1,), 284: (1,), 317: (1,), 339: (1, 1, 1)}
"""Page kind, compression, bit order, orientation, planes, predictor, sample format of a plain file; absent means the same."""
READ = frozenset({*DEFAULTS, 256, 257, 258, 262, 273, 277, 278, 279})
"""Tags that are understood: the ones above, size, bits, colour, strips."""
TYPES = {SHORT: ("H", 2), LONG: ("I", 4)}


class Layout(NamedTuple):
    """Where the pixels of a plain TIFF are. `header_decides`: everything the layout rests on lies before the pixels."""

    width: int
    height: int
    offset: int
    header_decides: bool


def plain_layout(data: bytes) -> Layout | None:
    """Return the layout of a plain uncompressed RGB TIFF whose pixels are all there, or None.

    Parameters
    ----------
    data
        The whole file.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None or len(data) < 8:
        return None
    start = struct.unpack_from(order + "I", data, 4)[0]
    tags = read_tags(data, order, start)
    if tags is None:
        return None
    values, end = tags
    if any(values.get(tag, plain) != plain and not (tag == 339 and values[tag] == (1,)) for tag, plain in DEFAULTS.items()):
        return None
    if values.get(258) != (8, 8, 8) or values.get(262) != (2,) or values.get(277) != (3,):
        return None
    width, height = values.get(256, ()), values.get(257, ())
    offsets, counts = values.get(273, ()), values.get(279, ())
    if len(width) != 1 or len(height) != 1 or not width[0] or not height[0] or not offsets or len(offsets) != len(counts):
        return None
    row = width[0] * 3
    rows_a_strip = min(values.get(278, height)[0], height[0])
    expected, left = [], height[0]
    if rows_a_strip < 1 or len(counts) != -(-left // rows_a_strip):
        return None
    while left > 0:
        expected.append(min(rows_a_strip, left) * row)
        left -= rows_a_strip
    position = offsets[0]
    for offset, count, needed in zip(offsets, counts, expected, strict=True):
        if offset != position or count != needed:
            return None
        position += count
    if offsets[0] < 8 or position > len(data):
        return None
    return Layout(width[0], height[0], offsets[0], end <= offsets[0])


def read_tags(data: bytes, order: str, start: int) -> tuple[dict[int, tuple[int, ...]], int] | None:
    """Return the whole-number tags of the only page and the end of what was read; None for several pages or any unknown tag."""
    if start < 8 or start + 2 > len(data):
        return None
    count = struct.unpack_from(order + "H", data, start)[0]
    end = start + 2 + 12 * count + 4
    if end > len(data) or struct.unpack_from(order + "I", data, end - 4)[0]:
        return None
    values: dict[int, tuple[int, ...]] = {}
    for place in range(start + 2, end - 4, 12):
        tag, kind, n = struct.unpack_from(order + "HHI", data, place)
        if tag in INERT and tag != 254:
            continue
        if (
            kind not in TYPES
            or not 1 <= n <= 65536
            or tag in values
            or tag not in {*DEFAULTS, 256, 257, 258, 262, 273, 277, 278, 279}
        ):
            return None
        letter, size = TYPES[kind]
        at = place + 8 if n * size <= 4 else struct.unpack_from(order + "I", data, place + 8)[0]
        if at + n * size > len(data):
            return None
        values[tag] = struct.unpack_from(f"{order}{n}{letter}", data, at)
        end = max(end, at + n * size)
    return values, end
