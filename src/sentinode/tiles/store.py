"""The packed store: `tiles.npy`, `rows.parquet`, `store.json`; the only module that reads and writes them.

NAME.store/   tiles.npy      uint8 [n, px, px, 3], C order; `numpy.load(..., mmap_mode="r")` opens it without Sentinode
              rows.parquet   id, label (int8; -1 unknown), group ("" unknown), source, path, digest, width, height, note
              store.json     format, n, px, classes, positive, counts, digest of the whole, decoder, versions, quarantine
"""

import hashlib
import io
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from sentinode.errors import StoreProblem, shown
from sentinode.limits import usable_cores
from sentinode.progress import Progress
from sentinode.run import disk_problems, read_json, replacing, write_json
from sentinode.tiles.decode import tile_digest

FORMAT = 1
"""Version of the store's layout."""
UNKNOWN = -1
"""Label of a tile whose class is not known."""
HEADER_BYTES = 128
"""Length of the header of tiles.npy; the same for every number of tiles, so that it can be written last."""
UNFINISHED = "unfinished.json"
"""Lies in the folder while a store is being packed."""
COLUMNS = ("id", "label", "group", "source", "path", "digest", "width", "height", "note")
"""Columns of rows.parquet, in order."""
ROWS_A_BATCH = 1 << 13
"""Rows that are written at a time; a multiple of the rows that are digested at a time."""
FLUSH_BYTES = 1 << 23
"""Every so many bytes the disk is asked to begin, so that the last flush is short and memory stays clean."""
READ_BYTES = 1 << 21
"""About how much of tiles.npy one thread reads at a time."""

BACK = "bring back the store as it was, then run the same command with --resume where it has one"
"""What to do about a store that was lost or changed."""

Result = TypeVar("Result")
Tiles = npt.NDArray[np.uint8]
"""uint8 [n, px, px, 3], C order, RGB."""


@dataclass(frozen=True)
class Store:
    """An opened store.

    `tiles` is a read-only memory map, uint8 [n, px, px, 3]; `rows` has one row a tile, in the same order, with columns id (str),
    label (int8; 1 positive, 0 negative, -1 unknown), group (str, "" unknown), source, path, digest (32 hex), width, height, note.
    `classes` are (negative, positive) names; ("", "") where nothing is labelled. `stamp` is what the system said of tiles.npy when it
    was opened; () for tiles in memory.
    """

    path: Path
    tiles: Tiles
    rows: pd.DataFrame
    classes: tuple[str, str]
    digest: str
    record: dict[str, Any]
    stamp: tuple[int, ...] = ()

    def check(self) -> None:
        """Raise StoreProblem if tiles.npy is gone or has been written since: what is mapped of a cut file ends the process."""
        if not self.stamp:
            return
        try:
            now = stamp_of(self.path)
        except OSError as error:
            raise StoreProblem(f"tiles.npy of {shown(self.path)} to stay", str(error.strerror), BACK) from error
        if now != self.stamp:
            found = "a file that was written since it was opened"
            raise StoreProblem(f"tiles.npy of {shown(self.path)} to stay as it was", found, BACK)

    def check_pixels(self, tiles: Tiles, rows: npt.NDArray[np.int64]) -> None:
        """Raise StoreProblem unless tiles [k, px, px, 3], read from the file, are what was packed as `rows` (int64 [k])."""
        if not self.stamp:
            return
        packed = self.rows["digest"].to_numpy()
        for tile, row in zip(tiles, rows, strict=True):
            if tile_digest(tile).hex() != packed[row]:
                raise StoreProblem(
                    f"the pixels that were packed into {shown(self.path)}",
                    f"others in row {row}, {shown(self.rows['id'].iloc[row])}",
                    f"see what else is damaged with 'sentinode info {self.path.name} --verify'; {BACK}",
                )

    def need_tiles(self) -> None:
        """Raise StoreProblem for a store without a tile: nothing in it can train, be judged or be looked at."""
        if not len(self):
            do = "pack images into a new one: sentinode pack SOURCE --out NEW.store"
            raise StoreProblem(f"tiles in {shown(self.path)}", "an empty store", do)

    def remarks(self) -> tuple[str, ...]:
        """Return what to beware of: a store that is one shard of several holds a stretch of the tiles, and not every slide."""
        share = self.record.get("shard")
        if not isinstance(share, dict) or share.get("of") == 1:
            return ()
        one = f"{shown(self.path.name)} holds shard {share.get('number')} of {share.get('of')} alone"
        return (f"{one}: 'sentinode pack' of all of them makes one store",)

    @property
    def px(self) -> int:
        """Edge length of a tile in pixels."""
        return int(self.tiles.shape[1])

    def __len__(self) -> int:
        """Return the number of tiles."""
        return int(self.tiles.shape[0])

    def __repr__(self) -> str:
        """Return name and size: what a notebook shows."""
        return f"Store {shown(self.path)}: {len(self):,} tiles of {self.px} x {self.px}"


def stamp_of(path: Path) -> tuple[int, ...]:
    """Return size, time of writing and number of a store's tiles.npy, which change where it is written or replaced."""
    there = (path / "tiles.npy").stat()
    return there.st_size, there.st_mtime_ns, there.st_ino


def npy_header(n: int, px: int) -> bytes:
    """Return the 128 bytes that stand before `n` tiles in tiles.npy."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (n, px, px, 3)})
    return header.getvalue()


class WholeDigest:
    """SHA-256 over px, the classes and id, label, group and digest of each row in order; JSON keeps them apart.

    Feed it rows in batches of `ROWS_A_BATCH` (the last may be shorter).
    """

    def __init__(self, px: int, classes: Sequence[str]) -> None:
        self._total = hashlib.sha256(json.dumps([FORMAT, px, list(classes)]).encode())

    def feed(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Take further rows."""
        for start in range(0, len(columns["id"]), 4096):
            part = [list(columns[name][start : start + 4096]) for name in ("id", "label", "group", "digest")]
            self._total.update(json.dumps(part).encode())

    def hex(self) -> str:
        """Return the digest."""
        return self._total.hexdigest()


def whole_digest(columns: Mapping[str, Sequence[Any]], px: int, classes: Sequence[str]) -> str:
    """Return the digest of rows that are all at hand."""
    total = WholeDigest(px, classes)
    total.feed(columns)
    return total.hex()


class StoreWriter:
    """Writes a store from its first tile to its last; `tiles.npy` grows in place, the other two files come whole at the end.

    Plain writes and no memory map: what is written leaves the process, so that memory stays flat however many tiles there are.
    """

    def __init__(self, path: Path, px: int, n_done: int = 0) -> None:
        self.path, self.px, self.n = path, px, n_done
        self._flusher = ThreadPoolExecutor(1, "flush")
        self._flush: Future[None] | None = None
        self._waiting = 0
        with disk_problems(path):
            self._file = (path / "tiles.npy").open("rb+" if n_done else "wb", buffering=0)
            if n_done:
                self._file.seek(0, os.SEEK_END)
            else:
                write_all(self._file, memoryview(npy_header(0, px)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._flusher.shutdown()
        self._file.close()

    def append(self, tiles: memoryview) -> None:
        """Write the bytes of whole tiles behind those written."""
        with disk_problems(self.path):
            write_all(self._file, tiles)
        self.n += len(tiles) // (self.px * self.px * 3)
        self._waiting += len(tiles)
        if self._waiting >= FLUSH_BYTES and (self._flush is None or self._flush.done()):
            self._waiting = 0
            self._start_flush()

    def _start_flush(self) -> None:
        with disk_problems(self.path):
            if self._flush is not None:
                self._flush.result()
        self._flush = self._flusher.submit(os.fsync, self._file.fileno())

    def finish(self, batches: Iterable[Mapping[str, Sequence[Any]]], record: dict[str, Any]) -> None:
        """Write the true header, rows.parquet and, as the last, store.json.

        Parameters
        ----------
        batches
            The rows in order, `ROWS_A_BATCH` at a time: one sequence for each of `COLUMNS`.
        record
            What store.json holds beside format, n, px, digest and versions; `classes` is required.
        """
        import PIL

        import sentinode

        self._start_flush()
        with disk_problems(self.path):
            self._file.seek(0)
            write_all(self._file, memoryview(npy_header(self.n, self.px)))
        digest = WholeDigest(self.px, record["classes"])
        with replacing(self.path / "rows.parquet") as temporary:
            write_rows(temporary, batches, digest)
        self._start_flush()
        with disk_problems(self.path):
            if self._flush is not None:
                self._flush.result()
        versions = {"sentinode": getattr(sentinode, "__version__", ""), "numpy": np.__version__, "pillow": PIL.__version__}
        head = {"format": FORMAT, "n": self.n, "px": self.px, "digest": digest.hex()}
        write_json(self.path / "store.json", {**head, **record, "versions": versions})


def write_rows(path: Path, batches: Iterable[Mapping[str, Sequence[Any]]], digest: WholeDigest) -> None:
    """Write rows.parquet batch by batch, and let `digest` see them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"label": pa.int8(), "width": pa.int32(), "height": pa.int32()}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in COLUMNS])
    how: dict[str, Any] = {"compression": "zstd", "use_dictionary": ["group", "source", "note"], "write_statistics": False}
    with pq.ParquetWriter(path, schema, **how) as writer:
        for columns in batches:
            digest.feed(columns)
            writer.write_table(pa.table({name: pa.array(columns[name], schema.field(name).type) for name in COLUMNS}, schema))


def write_all(file: io.FileIO, data: memoryview) -> None:
    """Write all of `data`; the system may take it in pieces."""
    done = 0
    while done < len(data):
        done += file.write(data[done:]) or 0


def open_store(path: str | Path) -> Store:
    """Open a store; its pixels stay on disk until they are used.

    Raises
    ------
    StoreProblem
        If there is no finished store, it has another version, or its three files do not agree.
    """
    import pyarrow.parquet as pq

    path = Path(path)
    if not (path / "store.json").is_file():
        unfinished = (path / UNFINISHED).exists()
        raise StoreProblem(
            f"a store at {shown(path)}",
            "one that is not finished" if unfinished else "no store.json there",
            "run the same pack command with --resume" if unfinished else "check the path, or make one with sentinode pack",
        )
    record = read_json(path / "store.json", StoreProblem)
    if record.get("format") != FORMAT:
        raise StoreProblem(
            f"a store of format {FORMAT} at {shown(path)}",
            f"format {shown(record.get('format'))}",
            "pack its source again with this version (sentinode pack SOURCE --out NEW.store), or use the version that wrote it",
        )
    again = "pack it again; a file has been changed or cut"
    try:
        stamp = stamp_of(path)
        tiles = np.load(path / "tiles.npy", mmap_mode="r", allow_pickle=False)
        rows: pd.DataFrame = pq.ParquetFile(path / "rows.parquet").read(use_threads=False).to_pandas()
        classes, digest, shape = tuple(record["classes"]), str(record["digest"]), (record["n"], record["px"], record["px"], 3)
    except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
        raise StoreProblem(f"three readable files in {shown(path)}", f"{type(error).__name__}: {shown(error)}", again) from error
    if tiles.dtype != np.uint8 or tiles.shape != shape or np.isfortran(tiles):
        raise StoreProblem(f"tiles.npy as uint8 {list(shape)} in {shown(path)}", f"{tiles.dtype} {list(tiles.shape)}", again)
    if tuple(rows.columns) != COLUMNS or len(rows) != len(tiles):
        raise StoreProblem(
            f"{len(tiles)} rows with columns {', '.join(COLUMNS)} in {shown(path / 'rows.parquet')}",
            f"{len(rows)} rows with {', '.join(shown(name, 40) for name in rows.columns[:20])}",
            again,
        )
    if len(classes) != 2 or not rows["label"].isin([UNKNOWN, 0, 1]).all() or rows.isna().to_numpy().any():
        raise StoreProblem(f"labels -1, 0, 1 and no gaps in {shown(path / 'rows.parquet')}", "others", again)
    return Store(path, tiles, rows, (str(classes[0]), str(classes[1])), digest, record, stamp)


def stream_blocks(store: Store) -> Iterator[tuple[int, Tiles]]:
    """Yield (first row, tiles uint8 [m, px, px, 3]) over the whole store in order, read plainly so that memory stays flat."""
    tile_bytes = store.px * store.px * 3
    rows = max(1, READ_BYTES // tile_bytes)
    with (store.path / "tiles.npy").open("rb", buffering=0) as handle:
        handle.seek(store.tiles.offset if isinstance(store.tiles, np.memmap) else HEADER_BYTES)
        for first in range(0, len(store), rows):
            data = handle.read(min(rows, len(store) - first) * tile_bytes)
            if len(data) % tile_bytes:
                raise StoreProblem(f"{len(store)} whole tiles in {shown(store.path)}", f"an end in tile {first}", "pack it again")
            yield first, np.frombuffer(data, np.uint8).reshape(-1, store.px, store.px, 3)


@contextmanager
def tile_reader(store: Store) -> Iterator[Callable[[int], Tiles]]:
    """Yield what reads one tile by its row; plainly where the store maps its file: tiles taken here and there do not stay in memory."""
    tiles = store.tiles
    if not isinstance(tiles, np.memmap) or tiles.filename is None:
        yield lambda row: tiles[row]
        return
    size = store.px * store.px * 3
    with Path(tiles.filename).open("rb", buffering=0) as handle:

        def read(row: int) -> Tiles:
            handle.seek(tiles.offset + row * size)
            return np.frombuffer(handle.read(size), np.uint8).reshape(store.px, store.px, 3)

        yield read


def map_blocks(
    store: Store, work: Callable[[int, Tiles], Result], workers: int | None, progress: Progress, what: str
) -> Iterator[Result]:
    """Yield `work(first, tiles)` of each block in order; blocks are worked on by threads, a few at a time."""
    workers = workers or usable_cores()
    waiting: deque[tuple[int, Future[Result]]] = deque()
    with ThreadPoolExecutor(workers, "read") as pool, progress.track(what, len(store)) as tick:
        for first, tiles in stream_blocks(store):
            waiting.append((len(tiles), pool.submit(work, first, tiles)))
            if len(waiting) > workers + 1:
                size, future = waiting.popleft()
                yield future.result()
                tick(size)
        for size, future in waiting:
            yield future.result()
            tick(size)


def verify(store: Store | str | Path, workers: int | None = None, quiet: bool = False) -> None:
    """Recompute the digest of every tile and of the whole.

    Raises
    ------
    StoreProblem
        If a tile's pixels, or the rows, are not what was packed; the first bad tile and their number are named.
    """
    store = store if isinstance(store, Store) else open_store(store)
    digests = store.rows["digest"].tolist()

    def bad_rows(first: int, tiles: Tiles) -> list[int]:
        return [i for i, tile in enumerate(tiles, first) if tile_digest(tile).hex() != digests[i]]

    bad = [row for rows in map_blocks(store, bad_rows, workers, Progress(quiet), "verifying") for row in rows]
    again = "pack it again; a file has been changed"
    if bad:
        raise StoreProblem(
            f"the pixels that were packed into {shown(store.path)}",
            f"{len(bad):,} of {len(store):,} tiles with others, the first {shown(store.rows['id'].iloc[bad[0]])} in row {bad[0]}",
            again,
        )
    check_rows(store)


def check_rows(store: Store) -> None:
    """Raise StoreProblem if ids, labels, groups or digests are not those that were packed."""
    total = WholeDigest(store.px, store.classes)
    for start in range(0, len(store), ROWS_A_BATCH):
        part = store.rows.iloc[start : start + ROWS_A_BATCH]
        total.feed({name: part[name].tolist() for name in ("id", "label", "group", "digest")})
    if total.hex() != store.digest:
        again = "pack it again; a file has been changed"
        raise StoreProblem(f"rows.parquet of {shown(store.path)} as it was packed", "other ids, labels or groups", again)
