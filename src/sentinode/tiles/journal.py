"""What is finished of a store that is being packed: one checked line a block, so that a kill costs little.

A line stands for tiles that were written before it. When work is resumed nothing is believed: a line must carry its checksum
and follow the one before it, and its tiles must still have their digests; from the first that fails on, all is done again.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sentinode.tiles.decode import tile_digest

NAME = "journal.jsonl"
"""The journal's name in an unfinished store."""


@dataclass
class Block:
    """What became of the listed tiles `first` to `last` (not included).

    `digests` holds 16 bytes for each tile kept; `sizes` and `notes` only what is out of the ordinary, by number in the list;
    `refused` (reason, detail) of those left out.
    """

    first: int
    last: int
    digests: bytearray = field(default_factory=bytearray)
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    notes: dict[int, str] = field(default_factory=dict)
    refused: dict[int, tuple[str, str]] = field(default_factory=dict)

    @property
    def n_kept(self) -> int:
        """Tiles written."""
        return len(self.digests) // 16

    def absorb(self, block: "Block") -> None:
        """Add the block that follows this one."""
        self.last = block.last
        self.digests += block.digests
        self.sizes.update(block.sizes)
        self.notes.update(block.notes)
        self.refused.update(block.refused)

    def line(self) -> bytes:
        """Return the journal's line: a checksum, then JSON."""
        body: dict[str, Any] = {"first": self.first, "last": self.last, "digests": self.digests.hex()}
        for name in ("sizes", "notes", "refused"):
            entries: dict[int, Any] = getattr(self, name)
            if entries:
                body[name] = list(entries.items())
        text = json.dumps(body).encode()
        return checksum(text) + b" " + text + b"\n"


def checksum(text: bytes) -> bytes:
    """Return 16 hex characters that a garbled line does not have."""
    return hashlib.sha256(text).hexdigest()[:16].encode()


def read_line(line: bytes) -> Block | None:
    """Return the block of a line, or None if the line is cut or garbled."""
    if not line.endswith(b"\n") or line[16:17] != b" " or checksum(line[17:-1]) != line[:16]:
        return None
    body = json.loads(line[17:-1])
    return Block(
        body["first"],
        body["last"],
        bytearray.fromhex(body["digests"]),
        {i: (width, height) for i, (width, height) in body.get("sizes", [])},
        dict(body.get("notes", [])),
        {i: (reason, detail) for i, (reason, detail) in body.get("refused", [])},
    )


def recover(folder: Path, tiles: Path, start: int, tile_bytes: int) -> Block:
    """Return all that is whole in an unfinished store as one block, and cut the journal and the tiles behind it.

    Parameters
    ----------
    folder
        The store's folder; its journal may be missing, cut or garbled.
    tiles
        The file of pixels, whose first `start` bytes are its header.
    start
        Where the first tile begins.
    tile_bytes
        Bytes a tile.
    """
    done = Block(0, 0)
    journal = folder / NAME
    if not journal.exists() or not tiles.exists() or tiles.stat().st_size < start:
        journal.unlink(missing_ok=True)
        return done
    whole = 0
    with journal.open("rb") as lines, tiles.open("rb") as pixels:
        pixels.seek(start)
        for line in lines:
            block = read_line(line)
            if block is None or block.first != done.last or block.n_kept + len(block.refused) != block.last - block.first:
                break
            data = memoryview(pixels.read(block.n_kept * tile_bytes))
            found = b"".join(tile_digest(data[at : at + tile_bytes]) for at in range(0, len(data), tile_bytes))
            if found != block.digests:
                break
            done.absorb(block)
            whole += len(line)
    with journal.open("rb+") as handle:
        handle.truncate(whole)
    with tiles.open("rb+") as handle:
        handle.truncate(start + done.n_kept * tile_bytes)
    return done
