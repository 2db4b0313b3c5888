"""Features of tiles where they lie: rows of a map on disk, read a part at a time."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Table:
    """Features of n tiles: tile i is row `at[i]` of `values`, float32 [m, views, d], an array or a memory map."""

    values: Floats
    at: Rows

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (n, views, d)."""
        return len(self.at), self.values.shape[1], self.values.shape[2]

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.at)

    def take(self, positions: Rows | slice, view: Rows | int = 0, out: Floats | None = None) -> Floats:
        """Return features [k, d] of tiles at `positions`, in one view of all or in one of each; in `out`, or memory of its own."""
        n, views, d = self.values.shape
        rows = self.values.reshape(n * views, d)
        # "clip" writes straight into `out`, a sixth of the time that fresh memory takes; no position is out of range.
        return np.take(rows, self.at[positions] * views + view, axis=0, out=out, mode="clip")

    def part(self, first: int, last: int) -> Floats:
        """Return features [k, views, d] of tiles `first` to `last` (not included); memory of its own."""
        return np.asarray(self.values[self.at[first:last]], np.float32)

    def whole(self) -> Floats:
        """Return all, [n, views, d]: the map itself where the tiles lie one behind the other, else a copy in memory."""
        first, n = int(self.at[0]), len(self.at)
        if np.array_equal(self.at, np.arange(first, first + n)):
            return self.values[first : first + n]
        return self.part(0, n)


def table_of(features: Floats | Table) -> Table:
    """Return features [n, d] or [n, views, d] as a table."""
    if isinstance(features, Table):
        return features
    return Table(features if features.ndim == 3 else features[:, None], np.arange(len(features)))
