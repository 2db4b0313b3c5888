"""From one image file to the RGB pixels of one tile, or to the reason why not.

The pixels are those of `np.asarray(Image.open(file).convert("RGB"))`, with three kinds of exception, each noted in the
rows: alpha is laid over white, 16-bit grey is scaled to 8 bits, and `px` resizes. As Pillow has it, TIFF's own orientation
tag is applied and the EXIF orientation of JPEG and PNG is not; colour profiles are left alone. Only TIFF, PNG and JPEG are
opened.
"""

import os
import struct
import zlib
from collections import Counter
from io import BytesIO
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xxhash
from PIL import Image, UnidentifiedImageError

from sentinode.tiles.tiff import plain_layout

if TYPE_CHECKING:
    from typing_extensions import Buffer

FORMATS = ("TIFF", "PNG", "JPEG")
"""What Pillow may open."""
MOST_PIXELS = 1 << 22
"""Pixels an image may claim; checked in its header, before anything is unpacked."""
MOST_BYTES = 1 << 26
"""Bytes a file may have."""
BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    zlib.error,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    Image.DecompressionBombError,
    Warning,
)
"""What Pillow's readers are known to raise on bytes that are no image; warnings where Python was told to raise them."""
READ_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0)
HEADERS_KEPT = 4096
"""How many different headers are remembered."""
MEASURED = 101
"""How many readable tiles decide the size of the store."""


class Outcome(NamedTuple):
    """What became of one file: its own size and a note, or (`reason` not empty) why it is left out."""

    width: int
    height: int
    note: str
    reason: str = ""
    detail: str = ""


def refused(reason: str, detail: str = "") -> Outcome:
    """Return the outcome of a file that is left out."""
    return Outcome(0, 0, "", reason, detail)


def tile_digest(pixels: "Buffer") -> bytes:
    """Return XXH3, 16 bytes, of a tile's raw pixels: it tells tiles apart and finds damage; it is no seal against a forger.

    SHA-256 with the processor's instructions takes as long as reading the file; this takes a fiftieth of it.
    """
    return xxhash.xxh3_128_digest(pixels)


class TileReader:
    """Reads files into slots of `px` x `px` x 3 bytes; shared by threads.

    Files whose bytes before the pixels have been understood once are read without looking at them again: only equality is
    checked. With `resize`, square tiles of another size are made to fit.
    """

    def __init__(self, px: int, resize: bool) -> None:
        self.px = px
        self.resize = resize
        self._known: set[bytes] = set()
        self._length = 0

    def header(self) -> bytearray:
        """Return a place for the header of the usual length; one a thread."""
        return bytearray(self._length)

    def read_known(self, path: str, header: bytearray, slot: memoryview) -> bool:
        """Read a file straight into `slot` if its header is a known one; False says nothing but that `read` must look."""
        if not header:
            return False
        try:
            handle = os.open(path, READ_FLAGS)
        except OSError:
            return False
        try:
            n_bytes = read_both(handle, header, slot)
        except OSError:
            return False
        finally:
            os.close(handle)
        return n_bytes == len(header) + len(slot) and bytes(header) in self._known

    def read(self, path: str, slot: memoryview) -> Outcome:
        """Read any file into `slot`, or say why not."""
        data = whole_file(path)
        if isinstance(data, Outcome):
            return data
        layout = plain_layout(data)
        if layout is None or layout.width != self.px or layout.height != self.px:
            return self._read_image(data, slot)
        end = layout.offset + len(slot)
        slot[:] = memoryview(data)[layout.offset : end]
        if layout.header_decides:
            if len(self._known) >= HEADERS_KEPT:
                self._known = set()
            self._known.add(data[: layout.offset])
            self._length = layout.offset
        return Outcome(self.px, self.px, "")

    def _read_image(self, data: bytes, slot: memoryview) -> Outcome:
        image = open_image(data)
        if isinstance(image, Outcome):
            return image
        width, height = image.size
        wrong = self.wrong_size(width, height)
        if wrong is not None:
            return wrong
        try:
            rgb, note = to_rgb(image)
        except BROKEN as error:
            return refused("broken image", f"{type(error).__name__}: {error}"[:200])
        if rgb is None:
            return refused("pixel type not taken", note)
        return self.place(rgb, note, slot)

    def wrong_size(self, width: int, height: int) -> Outcome | None:
        """Return why an image of this size is left out, or None."""
        if width != height:
            return refused("not square", f"{width} x {height}")
        if width != self.px and not self.resize:
            return refused("wrong size", f"{width} x {height}, the store has {self.px} x {self.px}")
        return None

    def place(self, rgb: Image.Image, note: str, slot: memoryview) -> Outcome:
        """Put a square RGB image into `slot`, resized if need be."""
        width, height = rgb.size
        if width != self.px:
            rgb = rgb.resize((self.px, self.px), Image.Resampling.LANCZOS)
            note = f"{note}, resized" if note else "resized"
        slot[:] = rgb.tobytes()
        return Outcome(width, height, note)


if hasattr(os, "readv"):

    def read_both(handle: int, header: bytearray, slot: memoryview) -> int:
        """Fill `header`, then `slot`; return how many bytes there were."""
        return os.readv(handle, (header, slot))

else:  # Windows

    def read_both(handle: int, header: bytearray, slot: memoryview) -> int:
        """Fill `header`, then `slot`; return how many bytes there were."""
        with open(handle, "rb", buffering=0, closefd=False) as file:
            return (file.readinto(header) or 0) + (file.readinto(slot) or 0)


def whole_file(path: str) -> bytes | Outcome:
    """Return the bytes of a file, or why it is left out."""
    try:
        with open(path, "rb", buffering=0) as handle:  # noqa: PTH123 -- 220,000 paths
            n_bytes = os.fstat(handle.fileno()).st_size
            data = handle.read(min(n_bytes, MOST_BYTES))
    except OSError as error:
        return refused("unreadable file", str(error.strerror))
    if not data:
        return refused("empty file", "zero bytes")
    if n_bytes > MOST_BYTES:
        return refused("too large", f"{n_bytes:,} bytes, more than {MOST_BYTES:,} bytes")
    return data


def open_image(data: bytes) -> Image.Image | Outcome:
    """Open an image without unpacking it, or say why not; too many pixels are refused here."""
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        return refused("not TIFF, PNG or JPEG", f"starts with {data[:8].hex(' ')}")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return refused("too many pixels", str(error)[:200])
    except BROKEN as error:
        return refused("broken image", f"{type(error).__name__}: {error}"[:200])
    width, height = image.size
    if width * height > MOST_PIXELS:
        return refused("too many pixels", f"{width} x {height}, more than {MOST_PIXELS:,}")
    return image


def to_rgb(image: Image.Image) -> tuple[Image.Image | None, str]:
    """Return the image as RGB and a note of what was converted; (None, mode) where there is no right way."""
    sixteen = any(";16" in str(part[3]) for part in getattr(image, "tile", ()))
    pages = "first of several pages" if getattr(image, "is_animated", False) else ""
    image.load()
    mode = image.mode
    if mode == "RGB" and "transparency" not in image.info:
        rgb, note = image, "16-bit colour, high byte kept" if sixteen else ""
    elif mode in {"RGB", "RGBA", "LA", "PA", "La", "RGBa"} or (mode in {"P", "L"} and "transparency" in image.info):
        rgb, note = over_white(image), "alpha over white" + ", high byte of 16 kept" * sixteen
    elif mode in {"L", "1"}:
        rgb, note = image.convert("RGB"), "greyscale"
    elif mode in {"P", "CMYK", "YCbCr"}:
        rgb, note = image.convert("RGB"), {"P": "palette"}.get(mode, mode)
    elif mode.startswith("I;16"):
        grey = (np.asarray(image).astype(np.uint32) + 128) // 257
        rgb, note = Image.fromarray(grey.astype(np.uint8)).convert("RGB"), "16-bit grey"
    else:
        return None, f"{mode} pixels, whose range is not known"
    return rgb, ", ".join(part for part in (note, pages) if part)


def over_white(image: Image.Image) -> Image.Image:
    """Lay an image with alpha over white, the colour of an empty slide."""
    alpha = image.convert("RGBA")
    white = Image.new("RGBA", alpha.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, alpha).convert("RGB")


def size_of(path: str) -> tuple[int, int] | None:
    """Return (width, height) from a file's header, or None if it is no image that would be taken."""
    data = whole_file(path)
    if isinstance(data, Outcome):
        return None
    layout = plain_layout(data)
    if layout is not None:
        return layout.width, layout.height
    image = open_image(data)
    return None if isinstance(image, Outcome) else image.size


def usual_size(sizes: Counter[int]) -> int | None:
    """Return the most common size, of equally common ones the one seen first; None if there is none."""
    return sizes.most_common(1)[0][0] if sizes else None
