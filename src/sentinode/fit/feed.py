"""Training tiles, a batch at a time: resident in memory (or on the GPU), else gathered from disk by a thread that reads ahead.

Tiles stay uint8 until they are on the device. No worker processes: reading is faster than training by a factor of fifty.
"""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sentinode.errors import StoreProblem, shown
from sentinode.machine.memory import out_of_memory
from sentinode.machine.ranks import ALONE, Ranks
from sentinode.nets.forward import sent
from sentinode.nets.room import free_caches
from sentinode.tiles.store import Store, Tiles

CHUNK = 2048
"""Tiles read from disk at once when a store is made resident."""
AHEAD = 4
"""Batches the reading thread is ahead."""


@dataclass(frozen=True)
class Feed:
    """Some rows of a store with their labels.

    `tiles`: uint8 [m, px, px, 3], a tensor on the device where resident, else the store's memory map. `rows`: int64 [n], where in
    `tiles` each of the feed's tiles is. `labels`: float32 [n] on the device. `store`: where they are read from, unless resident.
    `ranks`: this process among those that divide the tiles; each has a feed of all of them.
    """

    tiles: Tensor | Tiles
    rows: npt.NDArray[np.int64]
    labels: Tensor
    store: Store | None = None
    ranks: Ranks = ALONE

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.rows)

    def gather(self, positions: npt.NDArray[np.int64]) -> Tensor:
        """Return tiles uint8 [k, px, px, 3] at `positions` (0 to n - 1), on the device where resident."""
        rows = self.rows[positions]
        if isinstance(self.tiles, Tensor):
            return self.tiles.index_select(0, sent(torch.from_numpy(rows), self.tiles.device))
        if self.store is None:
            return torch.from_numpy(self.tiles[rows])
        self.store.check()
        tiles = self.tiles[rows]
        self.store.check_pixels(tiles, rows)
        return torch.from_numpy(tiles)

    def batches(self, order: list[npt.NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (tiles, labels) on the device for each array of positions in `order`."""
        if isinstance(self.tiles, Tensor):
            for positions in order:
                yield self.gather(positions), self.labels[sent(torch.from_numpy(positions), self.labels.device)]
            return
        with ReadAhead(self, order) as ahead:
            for positions, tiles in ahead:
                index = sent(torch.from_numpy(positions), self.labels.device)
                yield sent(tiles, self.labels.device), self.labels[index]

    def in_order(self, batch: int) -> Iterator[Tensor]:
        """Yield the tiles of this process's share, first to last, at most `batch` at a time; alone it has all."""
        first, last = self.ranks.span(len(self), batch)
        order = [np.arange(at, min(at + batch, last)) for at in range(first, last, batch)]
        return (tiles for tiles, _ in self.batches(order))


class ReadAhead:
    """A thread that gathers batches from the memory map while the network works on earlier ones."""

    def __init__(self, feed: Feed, order: list[npt.NDArray[np.int64]]) -> None:
        self.feed, self.order = feed, order
        self.ready: queue.Queue[tuple[npt.NDArray[np.int64], Tensor] | BaseException] = queue.Queue(AHEAD)
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._read, name="sentinode-read-ahead", daemon=True)

    def __enter__(self) -> Iterator[tuple[npt.NDArray[np.int64], Tensor]]:
        self.thread.start()
        return self._taken()

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        while self.thread.is_alive():
            while not self.ready.empty():
                self.ready.get_nowait()
            self.thread.join(0.01)

    def _read(self) -> None:
        for positions in self.order:
            if self.stop.is_set():
                return
            try:
                batch: tuple[npt.NDArray[np.int64], Tensor] | BaseException = (positions, self.feed.gather(positions))
            except (OSError, StoreProblem) as error:
                batch = error
            self.ready.put(batch)

    def _taken(self) -> Iterator[tuple[npt.NDArray[np.int64], Tensor]]:
        for _ in self.order:
            batch = self.ready.get()
            if isinstance(batch, StoreProblem):
                raise batch
            if isinstance(batch, BaseException):
                raise StoreProblem("the store's tiles to stay readable", str(batch), "check the disk, then --resume") from batch
            yield batch


def make_feed(store: Store, rows: npt.NDArray[np.int64], *, device: str, resident: bool, ranks: Ranks = ALONE) -> Feed:
    """Return the feed of `rows` (int64 [n], labelled) of `store`; resident ones are copied to `device` once, if they find room there."""
    labels = torch.from_numpy(store.rows["label"].to_numpy()[rows].astype(np.float32)).to(device)
    if resident:
        try:
            return Feed(torch.from_numpy(read_rows(store, rows)).to(device), np.arange(len(rows)), labels, ranks=ranks)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
        free_caches()
    return Feed(store.tiles, rows, labels, store, ranks)


def read_rows(store: Store, rows: npt.NDArray[np.int64]) -> Tiles:
    """Return uint8 [n, px, px, 3]: `rows` of the store in their order, read through the file so that no map grows with them."""
    out = np.empty((len(rows), *store.tiles.shape[1:]), np.uint8)
    by_row = np.argsort(rows, kind="stable")
    offset = getattr(store.tiles, "offset", None)
    size = int(np.prod(store.tiles.shape[1:]))
    if offset is None:
        return np.ascontiguousarray(store.tiles[rows])
    with (store.path / "tiles.npy").open("rb", buffering=0) as handle:
        for start in range(0, len(store), CHUNK):
            lo, hi = np.searchsorted(rows[by_row], [start, start + CHUNK])
            if lo == hi:
                continue
            handle.seek(offset + start * size)
            count = min(CHUNK, len(store) - start)
            block = np.fromfile(handle, np.uint8, count * size)
            if len(block) < count * size:
                raise StoreProblem(f"{len(store)} tiles in {shown(store.path)}", "a shorter tiles.npy", "pack it again")
            chosen = by_row[lo:hi]
            out[chosen] = block.reshape(count, *store.tiles.shape[1:])[rows[chosen] - start]
            store.check_pixels(out[chosen], rows[chosen])
    return out


def epoch_order(n: int, batch: int, seed: int, epoch: int) -> list[npt.NDArray[np.int64]]:
    """Return the positions 0 to n - 1 in the epoch's own order, in nearly equal batches of at most `batch`; none left out."""
    order = np.random.default_rng([seed, epoch]).permutation(n)
    return [part.astype(np.int64) for part in np.array_split(order, -(-n // batch))]
