"""Decoding: the pixels Pillow gives, each conversion noted, each bad file answered with a reason."""

import importlib.util
import os
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sentinode.tiles import decode
from sentinode.tiles.decode import Outcome, TileReader, size_of, tile_digest
from tests.tiles.conftest import Tile, random_tile, tifffile_tiff

PX = 24


def read(path: Path, px: int = PX, resize: bool = False) -> tuple[Outcome, Tile]:
    slot = bytearray(px * px * 3)
    outcome = TileReader(px, resize).read(str(path), memoryview(slot))
    return outcome, np.frombuffer(slot, np.uint8).reshape(px, px, 3)


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    ("name", "options"), [("a.png", {}), ("a.jpg", {"quality": 75}), ("a.tif", {}), ("b.tif", {"compression": "tiff_lzw"})]
)
def test_plain_images_are_as_pillow_reads_them(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    path = saved(tmp_path / name, Image.fromarray(random_tile(1)), **options)
    outcome, found = read(path)
    assert outcome == Outcome(PX, PX, "")
    assert np.array_equal(np.asarray(Image.open(path)), found)


def test_grey_palette_and_cmyk_become_rgb_with_a_note(tmp_path: Path) -> None:
    colour = Image.fromarray(random_tile(1))
    for mode, name, note in [
        ("L", "a.png", "greyscale"),
        ("1", "1.png", "greyscale"),
        ("P", "p.png", "palette"),
        ("CMYK", "c.jpg", "CMYK"),
    ]:
        path = saved(tmp_path / name, colour.convert(mode))
        outcome, found = read(path)
        assert outcome.note == note
        assert np.array_equal(np.asarray(Image.open(path).convert("RGB")), found)


def test_alpha_is_laid_over_white(tmp_path: Path) -> None:
    rgba = np.dstack([random_tile(1), np.zeros((PX, PX), np.uint8)])
    rgba[:, :12, 3] = 255
    outcome, found = read(saved(tmp_path / "a.png", Image.fromarray(rgba)))
    assert outcome.note == "alpha over white"
    assert np.array_equal(rgba[:, :12, :3], found[:, :12])
    assert (found[:, 12:] == 255).all()


def test_sixteen_bit_grey_is_scaled_and_rounded(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 65536, (PX, PX), dtype=np.uint16)
    for name in ("a.png", "a.tif"):
        outcome, found = read(saved(tmp_path / name, Image.fromarray(grey)))
        assert outcome.note == "16-bit grey"
        assert np.array_equal(np.round(grey / 257).astype(np.uint8), found[..., 1])


def sixteen_bit_png(tile: Tile) -> bytes:
    """Return a 16-bit RGB PNG, which Pillow cannot write: high byte from the tile, low byte 200."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    wide = np.stack([tile, np.full_like(tile, 200)], axis=-1).reshape(tile.shape[0], -1)
    lines = b"".join(b"\0" + line.tobytes() for line in wide)
    header = struct.pack(">IIBBBBB", tile.shape[1], tile.shape[0], 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def test_sixteen_bit_colour_keeps_its_high_byte_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(sixteen_bit_png(random_tile(3)))
    outcome, found = read(path)
    assert outcome.note == "16-bit colour, high byte kept"
    assert np.array_equal(random_tile(3), found)


def test_orientation_is_as_pillow_has_it(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    image = Image.fromarray(random_tile(1))
    jpeg, tiff = saved(tmp_path / "a.jpg", image, exif=exif), saved(tmp_path / "a.tif", image, tiffinfo={274: 6})
    assert np.array_equal(np.asarray(Image.open(jpeg)), read(jpeg)[1])
    assert np.array_equal(np.rot90(random_tile(1), -1), read(tiff)[1])


def test_first_of_several_pages_is_noted(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "a.tif", Image.fromarray(random_tile(1)), save_all=True, append_images=[Image.fromarray(random_tile(2))]
    )
    outcome, found = read(path)
    assert outcome.note == "first of several pages"
    assert np.array_equal(random_tile(1), found)


def test_other_sizes_are_refused_or_resized(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(random_tile(1, 48)))
    assert read(path)[0].reason == "wrong size"
    outcome, found = read(path, resize=True)
    assert outcome == Outcome(48, 48, "resized")
    assert np.array_equal(np.asarray(Image.open(path).resize((PX, PX), Image.Resampling.LANCZOS)), found)
    assert read(saved(tmp_path / "b.png", Image.fromarray(random_tile(1, 24, 30))), resize=True)[0].reason == "not square"


def test_bad_files_get_their_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    png = BytesIO()
    Image.fromarray(random_tile(1)).save(png, "PNG")
    files = {
        "empty file": b"",
        "not TIFF, PNG or JPEG": b"hello, this is no image",
        "broken image": png.getvalue()[: len(png.getvalue()) // 2],
    }
    for reason, data in files.items():
        (tmp_path / "x.png").write_bytes(data)
        assert read(tmp_path / "x.png")[0].reason == reason
        assert read(tmp_path / "x.png")[0].detail
    for kind, options in (("JPEG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})):
        whole = BytesIO()
        Image.fromarray(random_tile(1)).save(whole, kind, **options)
        (tmp_path / "x.png").write_bytes(whole.getvalue()[: len(whole.getvalue()) * 3 // 4])
        assert read(tmp_path / "x.png")[0].reason == "broken image"
    (tmp_path / "x.tif").write_bytes(tifffile_tiff(random_tile(1))[:-100])
    assert read(tmp_path / "x.tif")[0].reason == "broken image"
    assert read(tmp_path / "none.png")[0].reason == "unreadable file"
    assert read(saved(tmp_path / "f.tif", Image.fromarray(np.zeros((PX, PX), np.float32))))[0].reason == "pixel type not taken"
    monkeypatch.setattr(decode, "MOST_BYTES", 20)
    assert read(tmp_path / "x.tif")[0].reason == "too large"


def test_a_gif_named_png_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(random_tile(1)).save(path, "GIF")
    assert read(path)[0].reason == "not TIFF, PNG or JPEG"


@pytest.mark.parametrize("edge", [2100, 12_000, 40_000])
def test_decompression_bombs_are_refused_from_the_header(tmp_path: Path, edge: int) -> None:
    bomb = bytearray(sixteen_bit_png(random_tile(1)))
    bomb[16:24] = struct.pack(">II", edge, edge)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    (tmp_path / "x.png").write_bytes(bomb)
    assert read(tmp_path / "x.png")[0].reason == "too many pixels"
    assert size_of(str(tmp_path / "x.png")) is None


def test_known_headers_are_read_straight_and_unknown_ones_are_not(tmp_path: Path) -> None:
    first, second, cut, other = (tmp_path / f"{name}.tif" for name in ("first", "second", "cut", "other"))
    first.write_bytes(tifffile_tiff(random_tile(1)))
    second.write_bytes(tifffile_tiff(random_tile(2)))
    cut.write_bytes(tifffile_tiff(random_tile(3))[:-1])
    other.write_bytes(tifffile_tiff(random_tile(3), date=b"2019:01:01 00:00:00"))
    reader = TileReader(PX, False)
    slot = bytearray(PX * PX * 3)
    assert not reader.read_known(str(second), reader.header(), memoryview(slot))
    reader.read(str(first), memoryview(slot))
    assert reader.read_known(str(second), reader.header(), memoryview(slot))
    assert np.array_equal(random_tile(2).reshape(-1), np.frombuffer(slot, np.uint8))
    for path in (cut, other, tmp_path / "none.tif"):
        assert not reader.read_known(str(path), reader.header(), memoryview(slot))


def test_a_system_without_scattered_reads_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "readv", raising=False)
    spec = importlib.util.spec_from_file_location("decode_elsewhere", decode.__file__)
    assert spec is not None
    assert spec.loader is not None
    elsewhere = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(elsewhere)
    paths = [tmp_path / "first.tif", tmp_path / "second.tif", tmp_path / "cut.tif"]
    for i, path in enumerate(paths):
        path.write_bytes(tifffile_tiff(random_tile(i))[: -1 if path.name == "cut.tif" else None])
    reader = elsewhere.TileReader(PX, False)
    slot = bytearray(PX * PX * 3)
    reader.read(str(paths[0]), memoryview(slot))
    assert reader.read_known(str(paths[1]), reader.header(), memoryview(slot))
    assert np.array_equal(random_tile(1).reshape(-1), np.frombuffer(slot, np.uint8))
    assert not reader.read_known(str(paths[2]), reader.header(), memoryview(slot))


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["PNG", "JPEG", "TIFF", "LZW"]),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6),
    st.floats(0, 1),
)
def test_garbled_files_never_raise(
    tmp_path_factory: pytest.TempPathFactory, kind: str, changes: list[tuple[float, int]], cut: float
) -> None:
    buffer = BytesIO()
    image = Image.fromarray(random_tile(1))
    image.save(buffer, "TIFF", compression="tiff_lzw") if kind == "LZW" else image.save(buffer, kind)
    data = bytearray(buffer.getvalue())
    for place, value in changes:
        data[int(place * (min(len(data), 400) - 1))] = value
    path = tmp_path_factory.getbasetemp() / "garbled"
    path.write_bytes(data[: int(len(data) * (1 - cut / 4))])
    outcome, _ = read(path)
    assert outcome.reason or (outcome.width, outcome.height) == (PX, PX)


def test_the_digest_is_xxh3_as_its_specification_has_it() -> None:
    """The published value of XXH3-128 of no bytes, seed 0."""
    assert tile_digest(b"").hex() == "99aa06d3014798d86001c324468d497f"
    assert tile_digest(b"\x00" * 27_648) != tile_digest(b"\x00" * 27_647 + b"\x01")
