"""PatchCamelyon's HDF5 pairs: `*_x.h5` with dataset x uint8 [n, px, px, 3], `*_y.h5` with y [n, 1, 1, 1], `*_meta.csv` with wsi.

Either file may be gzipped (`.h5.gz`); it is then unpacked piece by piece into a temporary file. Needs h5py.
Source: the file layout of github.com/basveeling/pcam.
"""

import gzip
import shutil
import tempfile
import threading
import zlib
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sentinode.errors import MachineProblem, SourceProblem, shown
from sentinode.run import FULL_DISK
from sentinode.tiles.tables import columns_of, read_columns

ENDINGS = (".h5", ".hdf5", ".h5.gz", ".hdf5.gz")
"""What the files are called; a plain one is preferred to a packed one."""
PIECE_BYTES = 1 << 22
"""How much of a packed file is in memory at a time."""
CHUNK_CACHE_BYTES = 1 << 26
"""HDF5's cache of unpacked chunks, so that a chunk longer than a block is unpacked once."""


@dataclass
class Pair:
    """An open pair: `x` uint8 [n, px, px, 3] (an h5py dataset), `labels` [n] as found, `groups` [n] or []."""

    name: str
    stem: str
    x: Any
    labels: list[int]
    groups: list[str]
    n_bytes: int
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def n(self) -> int:
        """Number of tiles."""
        return int(self.x.shape[0])

    @property
    def px(self) -> int:
        """Edge of a tile."""
        return int(self.x.shape[1])

    def read(self, indices: list[int]) -> npt.NDArray[np.uint8]:
        """Read tiles at rising `indices` as uint8 [len(indices), px, px, 3]; one thread at a time, since HDF5 allows no more."""
        first = indices[0]
        with self.lock:
            try:
                span: npt.NDArray[np.uint8] = self.x[first : indices[-1] + 1]
            except OSError as error:
                raise SourceProblem(
                    f"readable rows {first} to {indices[-1]} of {shown(self.name)}",
                    shown(error),
                    "get the file again; its end may be missing",
                ) from error
        return span if len(span) == len(indices) else span[[index - first for index in indices]]


def split_name(name: str) -> tuple[str, str] | None:
    """Return (`..._x` or `..._y` without the ending, the ending), or None for a file that is not HDF5."""
    ending = next((ending for ending in reversed(ENDINGS) if name.lower().endswith(ending)), None)
    return (name[: -len(ending)], name[-len(ending) :]) if ending else None


def is_hdf5(name: str) -> bool:
    """Return whether a file is HDF5 by its name."""
    return split_name(name) is not None


def find_pairs(folder: Path) -> list[Path]:
    """Return the `*_x` files of a folder in order of name, each once."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), key=lambda path: (path.name.lower().endswith(".gz"), path.name)):
        parts = split_name(path.name)
        if parts and parts[0].lower().endswith("_x") and path.is_file():
            found.setdefault(parts[0], path)
    return [found[stem] for stem in sorted(found)]


def open_pair(path: Path, scratch: ExitStack) -> Pair:
    """Open the pair that `path` (its `*_x` file) belongs to.

    Raises
    ------
    MachineProblem
        If h5py is not installed, or no room is left to unpack.
    SourceProblem
        If the partner is missing, a file is broken or cut, or the datasets have another layout.
    """
    parts = split_name(path.name)
    if parts is None or not parts[0].lower().endswith("_x"):
        raise SourceProblem(
            "the file of a PCam pair that ends in _x.h5", shown(path.name), "name that one; the labels are found beside it"
        )
    stem = parts[0][:-2]
    letter = "Y" if parts[0].endswith("X") else "y"
    partners = [path.with_name(f"{stem}_{letter}{ending}") for ending in ENDINGS]
    partner = next((candidate for candidate in partners if candidate.is_file()), None)
    if partner is None:
        raise SourceProblem(
            f"the labels {shown(partners[0].name)} beside {shown(path)}", "no such file", "put it there, plain or as .gz"
        )
    x = open_dataset(path, "x", scratch)
    y = open_dataset(partner, "y", scratch)
    if x.dtype != np.uint8 or len(x.shape) != 4 or x.shape[1] != x.shape[2] or x.shape[3] != 3 or not x.shape[0]:
        raise SourceProblem(
            f"x as uint8 [n, px, px, 3] in {shown(path.name)}", f"{x.dtype} {list(x.shape)}", "write it in PCam's layout"
        )
    if y.size != x.shape[0] or y.shape[0] != x.shape[0] or y.dtype.kind not in "iub":
        raise SourceProblem(
            f"y as integers [{x.shape[0]}, 1, 1, 1] in {shown(partner.name)}",
            f"{y.dtype} {list(y.shape)}",
            "take the partner of this x",
        )
    labels = [int(label) for label in np.asarray(y[...]).reshape(-1).tolist()]
    n_bytes = path.stat().st_size + partner.stat().st_size
    return Pair(path.name, stem, x, labels, read_slides(path.with_name(f"{stem}_meta.csv"), len(labels)), n_bytes)


def open_dataset(path: Path, name: str, scratch: ExitStack) -> Any:
    """Open one dataset; `scratch` closes its file and removes the unpacked copy."""
    try:
        import h5py
    except ImportError as error:
        raise MachineProblem("h5py to read HDF5", "it is not installed", "pip install 'sentinode[hdf5]'") from error
    plain = unpack(path, scratch) if path.name.lower().endswith(".gz") else path
    try:
        handle = scratch.enter_context(h5py.File(plain, "r", rdcc_nbytes=CHUNK_CACHE_BYTES))
        found = list(handle)
    except OSError as error:
        raise SourceProblem(f"an HDF5 file {shown(path)}", shown(error), "get it again; it is cut or something else") from error
    if name not in found or not isinstance(handle[name], h5py.Dataset):
        raise SourceProblem(
            f"a dataset {name} in {shown(path)}",
            ", ".join(shown(key, 40) for key in found[:20]) or "none",
            "write it in PCam's layout",
        )
    return handle[name]


def unpack(path: Path, scratch: ExitStack) -> Path:
    """Unpack a gzipped file into a temporary folder, a piece at a time."""
    folder = Path(scratch.enter_context(tempfile.TemporaryDirectory(prefix="sentinode-")))
    plain = folder / "unpacked.h5"
    try:
        with gzip.open(path, "rb") as packed, plain.open("wb") as handle:
            shutil.copyfileobj(packed, handle, PIECE_BYTES)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise SourceProblem(f"a whole gzip file {shown(path)}", shown(error), "get it again; its end may be missing") from error
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise SourceProblem(f"a readable file {shown(path)}", str(error.strerror), "check its permissions") from error
        raise MachineProblem(
            f"room to unpack {shown(path)} in {shown(folder.parent)}",
            f"a full disk ({error.strerror})",
            "unpack it yourself where there is room (gunzip), or name another folder in the variable TMPDIR",
        ) from error
    return plain


def read_slides(table: Path, n: int) -> list[str]:
    """Return the wsi of each row of PCam's meta.csv, joined by its index column if it has one; [] where there is none."""
    if not table.is_file() or "wsi" not in columns_of(table):
        return []
    indexed = columns_of(table)[0] == ""
    rows = (
        [(cells[1], cells[0].strip(), line) for line, cells in read_columns(table, ("wsi",), ("",) if indexed else ())]
        if indexed
        else [(str(i), cells[0].strip(), line) for i, (line, cells) in enumerate(read_columns(table, ("wsi",)))]
    )
    if len(rows) != n:
        raise SourceProblem(f"{n:,} rows in {shown(table)}, as the pair has", f"{len(rows):,}", "take the meta.csv of this pair")
    slides = [""] * n
    for index, slide, line in rows:
        if not index.isdigit() or int(index) >= n or slides[int(index)]:
            raise SourceProblem(
                f"each index from 0 to {n - 1} once in {shown(table)}", f"{shown(index)} in line {line}", "mend that line"
            )
        slides[int(index)] = slide
    return slides
