"""The journal believes nothing: what is cut, garbled or out of step is dropped from there on."""

from pathlib import Path

import pytest

from sentinode.tiles.decode import tile_digest
from sentinode.tiles.journal import NAME, Block, read_line, recover

START, SIZE = 128, 12


def block(first: int, n: int) -> tuple[Block, bytes]:
    tiles = b"".join(bytes([first + i]) * SIZE for i in range(n))
    digests = bytearray(b"".join(tile_digest(tiles[i * SIZE : (i + 1) * SIZE]) for i in range(n)))
    refused = {first + n: ("broken image", "a\nb\x1b[31m")}
    return Block(first, first + n + 1, digests, {first: (3, 4)}, {first: "greyscale, \"é\""}, refused), tiles  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    first, second = block(0, 3), block(4, 2)
    (tmp_path / NAME).write_bytes(first[0].line() + second[0].line())
    (tmp_path / "tiles.npy").write_bytes(bytes(START) + first[1] + second[1])
    return tmp_path


def recovered(folder: Path) -> Block:
    return recover(folder, folder / "tiles.npy", START, SIZE)


def test_a_line_comes_back_as_it_was() -> None:
    for made, _ in (block(0, 3), block(7, 0)):
        assert read_line(made.line()) == made


def test_all_that_is_whole_is_kept(folder: Path) -> None:
    done = recovered(folder)
    assert (done.last, done.n_kept) == (7, 5)
    assert sorted(done.refused) == [3, 6]


@pytest.mark.parametrize("cut", [1, 5, 100])
def test_a_cut_journal_loses_its_last_line(folder: Path, cut: int) -> None:
    journal = folder / NAME
    journal.write_bytes(journal.read_bytes()[:-cut])
    assert recovered(folder).last == 4
    assert (folder / "tiles.npy").stat().st_size == START + 3 * SIZE
    assert journal.read_bytes() == block(0, 3)[0].line()


@pytest.mark.parametrize("place", [0, 16, 17, 40, 90, -2])
def test_a_garbled_byte_in_a_line_drops_it_and_all_after(folder: Path, place: int) -> None:
    journal = folder / NAME
    data = bytearray(journal.read_bytes())
    data[place if place >= 0 else len(block(0, 3)[0].line()) + place] ^= 1
    journal.write_bytes(data)
    assert recovered(folder).last == 0
    assert journal.read_bytes() == b""


@pytest.mark.parametrize(("size", "last"), [(START + 5 * SIZE - 1, 4), (START + 3 * SIZE, 4), (START + 1, 0), (10, 0)])
def test_cut_pixels_drop_their_line(folder: Path, size: int, last: int) -> None:
    with (folder / "tiles.npy").open("rb+") as handle:
        handle.truncate(size)
    assert recovered(folder).last == last


def test_garbled_pixels_drop_their_line(folder: Path) -> None:
    with (folder / "tiles.npy").open("rb+") as handle:
        handle.seek(START + 4 * SIZE)
        handle.write(b"\xff")
    assert recovered(folder).last == 4


def test_without_a_journal_or_pixels_all_starts_anew(folder: Path) -> None:
    (folder / "tiles.npy").unlink()
    assert recovered(folder).last == 0
    assert not (folder / NAME).exists()
    assert recovered(folder).last == 0
