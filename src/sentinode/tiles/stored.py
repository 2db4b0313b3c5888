"""The pixels of a listing that was packed before: read from its stores in blocks, and believed only where they have their digests."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from sentinode.errors import StoreProblem, shown
from sentinode.tiles.decode import tile_digest


class Place(NamedTuple):
    """Where some rows of a listing lie: a store's folder, the row and the byte of tiles.npy at which they begin, and their number."""

    folder: Path
    row: int
    offset: int
    n: int


@dataclass(frozen=True)
class Stored:
    """What is known of the `n` rows of a listing that lies in stores, one store or all shards of one.

    `digests` are 16 bytes a row; `sizes` and `notes`, by row, only what is out of the ordinary. What was told of the tiles that are no
    longer there rides along, so that packing a store again forgets nothing: `lost` tiles were listed and left out, `lost_unlabelled` of
    them without a label; `merged`, `unmatched` and `settings` are of the whole store, and ride on its first listing.
    """

    px: int
    classes: tuple[str, str]
    places: tuple[Place, ...]
    digests: bytes
    sizes: dict[int, tuple[int, int]]
    notes: dict[int, str]
    lost: int = 0
    lost_unlabelled: int = 0
    merged: dict[str, int] = field(default_factory=dict)
    unmatched: int = 0
    settings: dict[str, Any] = field(default_factory=dict)

    def read(self, rows: Sequence[int]) -> Iterator[memoryview]:
        """Yield the pixels of `rows` in that order, px * px * 3 bytes each; neighbours are read together.

        Raises
        ------
        StoreProblem
            If a file is gone or cut, or a tile is not what was packed.
        """
        starts = [0, *accumulate(place.n for place in self.places)]
        size, at = self.px * self.px * 3, 0
        while at < len(rows):
            which = bisect_right(starts, rows[at]) - 1
            end = at + 1
            while end < len(rows) and rows[end] == rows[end - 1] + 1 < starts[which + 1]:
                end += 1
            place, skip = self.places[which], rows[at] - starts[which]
            data = read_span(place, skip * size, (end - at) * size)
            for k, row in enumerate(rows[at:end]):
                tile = data[k * size : (k + 1) * size]
                if tile_digest(tile) != self.digests[row * 16 : row * 16 + 16]:
                    raise damaged(place, f"others in row {place.row + skip + k}")
                yield tile
            at = end

    def folder_of(self, row: int) -> str:
        """Return the name of the store that holds a row."""
        starts = [0, *accumulate(place.n for place in self.places)]
        return self.places[bisect_right(starts, row) - 1].folder.name


def read_span(place: Place, skip: int, length: int) -> memoryview:
    """Read `length` bytes of tiles.npy, `skip` bytes behind where `place` begins; the file is not kept open, there may be a thousand."""
    data = bytearray(length)
    try:
        with (place.folder / "tiles.npy").open("rb", buffering=0) as handle:
            handle.seek(place.offset + skip)
            done = 0
            while done < length:
                count = handle.readinto(memoryview(data)[done:])
                if not count:
                    raise damaged(place, "a file that ends before them")
                done += count
    except OSError as error:
        raise damaged(place, str(error.strerror)) from error
    return memoryview(data)


def damaged(place: Place, found: str) -> StoreProblem:
    """Return the error for pixels that are not there as they were packed."""
    do = "pack that store again (its command with --overwrite), then give this command again with --resume"
    return StoreProblem(f"the pixels that were packed into {shown(place.folder)}", found, do)
