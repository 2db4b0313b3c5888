"""Features that are being extracted: a file that grows block by block, and a journal with a checked line for each block.

As with packing, nothing is believed when work is resumed: a line must carry its checksum and follow the one before it, and its
block must still have its digest; from the first that fails on, all is extracted again.
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

from sentinode.run import write_bytes
from sentinode.tiles.journal import checksum
from sentinode.tiles.store import write_all

DATA = "unfinished.npy"
"""The growing file: features.npy in all but its length and its name."""
JOURNAL = "journal.jsonl"
"""Its first line says what is extracted and how; each further one stands for a block."""


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


def header(shape: tuple[int, ...]) -> bytes:
    """Return what stands before float32 values of that shape in a .npy file."""
    there = io.BytesIO()
    np.lib.format.write_array_header_1_0(there, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return there.getvalue()


class Partial:
    """An extraction that may have been begun: `engine` names the form of the network that began it, "" if none did.

    Parameters
    ----------
    home
        The folder.
    wanted
        What is to be extracted; what was begun for anything else is forgotten.
    """

    def __init__(self, home: Path, wanted: dict[str, Any]) -> None:
        self.data, self.journal, self.wanted = home / DATA, home / JOURNAL, wanted
        if not self.data.exists() and (home / "features.npy").exists():
            (home / "features.npy").replace(self.data)  # stopped between the last two steps
        first = self.journal.read_bytes().split(b"\n", 1)[0] + b"\n" if self.journal.exists() else b""
        begun = read_line(first)
        self.engine = str(begun["engine"]) if begun and begun["wanted"] == wanted and self.data.exists() else ""

    def forget(self) -> None:
        """Start anew."""
        self.journal.unlink(missing_ok=True)
        self.data.unlink(missing_ok=True)
        self.engine = ""

    @contextmanager
    def begun(self, engine: str, reasons: str, shape: tuple[int, int, int]) -> Iterator["Written"]:
        """Yield the file at the end of what is whole of it; `shape` is that of all features, [n, views, d]."""
        if not self.engine:
            self.forget()
            with self.data.open("wb") as file:
                file.write(header(shape))
            write_bytes(self.journal, line({"wanted": self.wanted, "engine": engine, "reasons": reasons}))
        with self.data.open("rb+", buffering=0) as file, self.journal.open("rb+", buffering=0) as journal:
            yield Written(file, journal, shape)


class Written:
    """The open file: `n` tiles are whole. All that follows them, in it and in its journal, is cut off at the start."""

    def __init__(self, file: io.FileIO, journal: io.FileIO, shape: tuple[int, int, int]) -> None:
        self.file, self.journal, self.shape, self.n = file, journal, shape, 0
        self.whole = xxhash.xxh3_128()
        row = 4 * shape[1] * shape[2]
        head = header(shape)
        if file.read(len(head)) != head:
            file.seek(0)
            write_all(file, memoryview(head))
        self.whole.update(head)
        lines = journal.readall().splitlines(keepends=True)
        noted = len(lines[0])
        for data in lines[1:]:
            block = read_line(data)
            if block is None or block["first"] != self.n:
                break
            values = file.read((block["last"] - self.n) * row)
            if xxhash.xxh3_128_hexdigest(values) != block["digest"]:
                break
            self.whole.update(values)
            self.n, noted = block["last"], noted + len(data)
        for handle, end in ((file, len(head) + self.n * row), (journal, noted)):
            handle.truncate(end)
            handle.seek(end)

    def append(self, values: npt.NDArray[np.float32]) -> None:
        """Write features [k, views, d] of the next tiles, then their line."""
        data = np.ascontiguousarray(values, "<f4").reshape(-1).view(np.uint8).data
        write_all(self.file, data)
        self.whole.update(data)
        note = {"first": self.n, "last": self.n + len(values), "digest": xxhash.xxh3_128_hexdigest(data)}
        write_all(self.journal, memoryview(line(note)))
        self.n += len(values)

    def finish(self) -> str:
        """Flush the file to the disk and return its digest."""
        os.fsync(self.file.fileno())
        return self.whole.hexdigest()
