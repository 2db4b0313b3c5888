"""The file that features grow in: tiles one behind the other, and a journal with a checked line for each block of them.

As with packing, nothing is believed when it is opened: a line must carry its checksum and follow the one before it, and its block
must still have its digest; from the first that fails on, all is gone. What was written before a kill is so never lost and never
trusted, and unfinished work is no state of its own: a block is there for whoever wants one of its tiles.
"""

import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from sentinode.nets.engine import Engine
from sentinode.run import replacing, sync_folder, write_bytes
from sentinode.tiles.journal import checksum
from sentinode.tiles.store import write_all

DATA = "features.npy"
"""The growing file; its first bytes always say how many tiles are whole."""
JOURNAL = "journal.jsonl"
"""Its first line says what the features are of, then one what made them, then one a block: digest, and digests of its tiles."""
DIGEST_BYTES = 16
"""Of a tile's digest."""


def line(value: dict[str, Any]) -> bytes:
    """Return a journal's line: a checksum, then JSON."""
    text = json.dumps(value).encode()
    return checksum(text) + b" " + text + b"\n"


def read_line(data: bytes) -> dict[str, Any] | None:
    """Return what a line says, or None if it is cut or garbled."""
    if not data.endswith(b"\n") or data[16:17] != b" " or checksum(data[17:-1]) != data[:16]:
        return None
    value: dict[str, Any] = json.loads(data[17:-1])
    return value


def header(shape: tuple[int, int, int]) -> bytes:
    """Return what stands before float32 values of that shape in a .npy file; numpy leaves room for the first number to grow."""
    there = io.BytesIO()
    np.lib.format.write_array_header_1_0(there, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return there.getvalue()


class Grown:
    """Features that are whole: `places` says in which row a tile lies, by the digest of its pixels.

    `engine` names the form of the network that made the last of them, "" before the first, `reasons` why, and `chosen_for` for how
    many tiles it was chosen; `shape` is (views, d). `at_once` is how many tiles a batch had since memory was too small for the usual
    number, else 0: another would give other last digits. `damaged`: a part did not have its digest any more and is gone.

    Parameters
    ----------
    home
        The folder; only one process may work in it at a time. Others may have the file mapped: no row that is whole is written again.
    wanted
        What the features are of; those of anything else are forgotten.
    """

    def __init__(self, home: Path, wanted: dict[str, Any]) -> None:
        self.data, self.journal = home / DATA, home / JOURNAL
        self.places: dict[bytes, int] = {}
        self.engine, self.reasons, self.chosen_for, self.shape = "", "", 0, (0, 0)
        self.n, self.at_once, self.damaged = 0, 0, False
        lines = self.journal.read_bytes().splitlines(keepends=True) if self.journal.exists() and self.data.exists() else []
        first = read_line(lines[0]) if lines else None
        if first != {"wanted": wanted}:
            self.damaged = bool(lines)
            self.data.unlink(missing_ok=True)
            write_bytes(self.journal, line({"wanted": wanted}))
            return
        noted = len(lines[0])
        with self.data.open("rb", buffering=0) as file:
            for text in lines[1:]:
                said = read_line(text)
                if said is None or not self.believed(said, file):
                    self.damaged = said is not None
                    break
                noted += len(text)
        self.cut(noted)

    def believed(self, said: dict[str, Any], file: io.FileIO) -> bool:
        """Take in a line of the journal; return False if what it says is not there."""
        if "engine" in said:
            views, d = said["shape"]
            self.engine, self.reasons, self.chosen_for, self.shape = (
                said["engine"],
                said["reasons"],
                said["chosen_for"],
                (views, d),
            )
            return True
        if "at_once" in said:
            self.at_once = said["at_once"]
            return True
        if said["first"] != self.n or not self.engine:
            return False
        file.seek(self.end)
        whole, left = xxhash.xxh3_128(), (said["last"] - said["first"]) * self.row
        while left and (part := file.read(min(left, 1 << 23))):
            whole.update(part)
            left -= len(part)
        if left or whole.hexdigest() != said["digest"]:
            return False
        self.note(bytes.fromhex(said["tiles"]), said["last"])
        return True

    def note(self, digests: bytes, last: int) -> None:
        """Count the tiles up to `last` as whole; `digests` are theirs, one behind the other."""
        for row in range(self.n, last):
            start = (row - self.n) * DIGEST_BYTES
            self.places[digests[start : start + DIGEST_BYTES]] = row
        self.n = last

    @property
    def row(self) -> int:
        """Bytes of a tile's features."""
        return 4 * self.shape[0] * self.shape[1]

    @property
    def end(self) -> int:
        """Where the next tile is to be written."""
        return len(header((self.n, *self.shape))) + self.n * self.row

    def cut(self, noted: int) -> None:
        """Remove all that follows what is whole, `noted` bytes of the journal, and let the first bytes say so."""
        if self.journal.stat().st_size > noted:
            write_bytes(self.journal, self.journal.read_bytes()[:noted])
        if not self.engine:
            self.data.unlink()
            return
        if self.damaged:
            # Another process may have rows mapped that are to go: it keeps the file as it was.
            with replacing(self.data) as temporary, self.data.open("rb") as old, temporary.open("wb") as new:
                left = self.end
                while left and (part := old.read(min(left, 1 << 23))):
                    new.write(part)
                    left -= len(part)
        with self.data.open("rb+", buffering=0) as file:
            if os.fstat(file.fileno()).st_size > self.end:
                file.truncate(self.end)
            write_all(file, memoryview(header((self.n, *self.shape))))

    @contextmanager
    def growing(self, engine: Engine, shape: tuple[int, int], tiles: int, more: dict[str, Any]) -> Iterator["Growing"]:
        """Yield the file, to add `tiles` made by `engine`; at the end all is flushed, and the first bytes count it.

        `more` is noted beside the engine: what it ran on.
        """
        with self.journal.open("ab", buffering=0) as journal:
            if not self.data.exists():
                write_bytes(self.data, header((0, *shape)))
            if engine.name != self.engine or tiles > self.chosen_for:
                self.engine, self.reasons, self.chosen_for, self.shape = engine.name, engine.reasons, tiles, shape
                said: dict[str, Any] = {
                    "engine": engine.name,
                    "reasons": engine.reasons,
                    "chosen_for": tiles,
                    "shape": list(shape),
                }
                write_all(journal, memoryview(line(said | more)))
            with self.data.open("rb+", buffering=0) as file:
                file.seek(self.end)
                yield Growing(self, file, journal)
                os.fsync(file.fileno())
                os.fsync(journal.fileno())
                file.seek(0)
                write_all(file, memoryview(header((self.n, *self.shape))))
                os.fsync(file.fileno())
        sync_folder(self.data.parent)

    def mapped(self) -> npt.NDArray[np.float32]:
        """Return all of them as a read-only map, float32 [n, views, d]."""
        values: npt.NDArray[np.float32] = np.load(self.data, mmap_mode="r", allow_pickle=False)
        return values


class Growing:
    """The open file and journal."""

    def __init__(self, grown: Grown, file: io.FileIO, journal: io.FileIO) -> None:
        self.grown, self.file, self.journal = grown, file, journal

    def note_at_once(self, tiles: int) -> None:
        """Note that from here on a batch has so many tiles only."""
        write_all(self.journal, memoryview(line({"at_once": tiles})))
        self.grown.at_once = tiles

    def append(self, values: npt.NDArray[np.float32], digests: bytes) -> None:
        """Write features [k, views, d] of the tiles with these digests, then their line."""
        data = np.ascontiguousarray(values, "<f4").reshape(-1).view(np.uint8).data
        write_all(self.file, data)
        first, last = self.grown.n, self.grown.n + len(values)
        note = {"first": first, "last": last, "digest": xxhash.xxh3_128_hexdigest(data), "tiles": digests.hex()}
        write_all(self.journal, memoryview(line(note)))
        self.grown.note(digests, last)
