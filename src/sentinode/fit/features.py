"""The feature store: what a frozen network makes of tiles, computed once for the same pixels, weights and preprocessing.

NAME.features/KEY/  features.npy    float32 [n, views, d], C order: `numpy.load(..., mmap_mode="r")` opens it without Sentinode
                    features.json   format, n, views, d, what the key stands for, engine, versions, digest of features.npy

KEY is a digest of the pixels as they are now and of all else that decides a feature, so that whatever changed is never met again
under the old name. float32, since half of it ends at 65,504 and some networks go beyond.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from filelock import FileLock, Timeout
from torch import Tensor, nn

from sentinode.errors import DataProblem, MachineProblem, RunProblem, UsageProblem, shown
from sentinode.fit.partial import DATA, JOURNAL, Partial
from sentinode.nets.engine import Engine, fastest, named
from sentinode.nets.forward import VIEWS, view
from sentinode.nets.transform import Preprocessing, Transform
from sentinode.progress import Progress
from sentinode.run import disk_problems, read_json, sync_folder, write_json
from sentinode.tiles.decode import tile_digest
from sentinode.tiles.store import Store

FORMAT = 1
"""Version of the folder's layout and of the arithmetic behind it; part of the key."""
BATCH_PIXELS = 64 * 96 * 96
"""Pixels of network input a batch: 64 tiles of 96x96. OpenVINO is as fast with 4, eager torch gains up to here."""
GPU_BATCHES = 8
"""So many times more on a GPU."""
BLOCK_BATCHES = 8
"""Batches written and noted at a time: what a kill costs at most."""
READ_BYTES = 1 << 23
"""Bytes read at a time where a file's digest is computed again."""
PIXEL_ROWS = 256
"""Tiles read at a time for their digests."""

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Extraction:
    """What decides a tile's features, beside its pixels and the weights.

    `facts` names the network and its arguments, as JSON takes them. `views` is 1, 4 or 8 dihedral views, kept apart.
    `precision`: "fp32" is exact; "auto" takes less where this machine is faster with it.
    """

    preprocessing: Preprocessing
    facts: Mapping[str, Any]
    views: int = 1
    precision: Literal["auto", "fp32"] = "auto"


@dataclass(frozen=True)
class Features:
    """Features of tiles at positions `rows` (int64 [n]) of a store.

    `values`: read-only memory map, float32 [n, views, d], views in the order of `forward.VIEWS`. `key` names them. `engine` is the
    form of the network that made them, and `reasons` why. `seconds` is what getting them took now; `cached`: they were there.
    """

    values: npt.NDArray[np.float32]
    rows: Rows
    key: str
    engine: str
    reasons: str
    seconds: float
    cached: bool


def extract(
    store: Store,
    module: nn.Module,
    how: Extraction,
    *,
    rows: Rows | None = None,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> Features:
    """Return the features of a store's tiles: from the feature store, else extracted and kept there.

    An extraction that was stopped goes on where it was and ends with the bytes of one that was not. Of several processes that want
    the same features one extracts them and the others wait.

    Parameters
    ----------
    store
        The tiles; read a block at a time.
    module
        Maps network input [k, 3, p, p] to [k, d]. It is left in evaluation mode.
    how
        Preprocessing, network, views and precision.
    rows
        Positions of the tiles wanted; every labelled tile by default.
    folder
        The feature store; NAME.features beside NAME.store by default.
    progress
        Silent by default.

    Raises
    ------
    UsageProblem
        For a number of views that is not 1, 4 or 8.
    DataProblem
        If no tile is wanted.
    RunProblem
        If features are not finite.
    MachineProblem
        On a full disk, or in a folder that cannot be written.
    """
    began, progress = time.perf_counter(), progress or Progress(quiet=True)
    if how.views not in VIEWS:
        raise UsageProblem("1, 4 or 8 views", shown(how.views), "change --views")
    rows = np.flatnonzero(store.rows["label"].to_numpy() >= 0) if rows is None else rows
    if not len(rows):
        raise DataProblem(f"tiles of {shown(store.path)} to extract features of", "none with a label", "label some of them")
    wanted = identity(store, rows, module, how)
    key = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:32]
    home = Path(folder or store.path.with_name(store.path.name.removesuffix(".store") + ".features")) / key
    with feature_problems(home), locked(home, progress):
        made = kept(home, wanted, progress)
        if made is None:
            compute(home, wanted, Source(store, rows, module, how), progress)
        values = np.load(home / "features.npy", mmap_mode="r", allow_pickle=False)
        record = read_json(home / "features.json", DataProblem)
    return Features(values, rows, key, record["engine"], record["reasons"], time.perf_counter() - began, cached=made is not None)


def identity(store: Store, rows: Rows, module: nn.Module, how: Extraction) -> dict[str, Any]:
    """Return all that decides the features, as JSON takes it; the pixels are read now, whatever the store says of itself."""
    pixels = xxhash.xxh3_128()
    for start in range(0, len(rows), PIXEL_ROWS):
        pixels.update(b"".join(tile_digest(tile) for tile in np.array(store.tiles[rows[start : start + PIXEL_ROWS]])))
    return {
        "format": FORMAT,
        "n": len(rows),
        "px": store.px,
        "pixels": pixels.hexdigest(),
        "weights": weights_digest(module),
        "preprocessing": json.loads(json.dumps(asdict(how.preprocessing))),
        "network": json.loads(json.dumps(dict(how.facts))),
        "layers": hashlib.sha256(repr(module).encode()).hexdigest(),
        "precision": "exact" if how.precision == "fp32" else "reduced",
        "views": how.views,
    }


def weights_digest(module: nn.Module) -> str:
    """Return SHA-256, hex, of names, types, shapes and bytes of all weights and buffers that the network would save."""
    whole = hashlib.sha256()
    for name, value in module.state_dict().items():
        there = value.detach().cpu().contiguous()
        whole.update(json.dumps([name, str(there.dtype), list(there.shape)]).encode())
        whole.update(there.reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


@contextmanager
def feature_problems(home: Path) -> Iterator[None]:
    """Say of a full or unwritable disk what can be done about features."""
    try:
        with disk_problems(home):
            yield
    except MachineProblem as problem:
        do = "free some space or name another folder with --features; the same command then goes on"
        raise MachineProblem(problem.expected, problem.found, do) from problem


@contextmanager
def locked(home: Path, progress: Progress) -> Iterator[None]:
    """Be the only process that works in `home`; the system ends the claim of one that dies."""
    home.mkdir(parents=True, exist_ok=True)
    lock = FileLock(home / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.say("another process is extracting the same features: waiting for it", always=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def kept(home: Path, wanted: dict[str, Any], progress: Progress) -> bool | None:
    """Return True if `home` holds these features whole; else None, and damaged ones are gone."""
    if not (home / "features.json").exists():
        return None
    try:
        record = read_json(home / "features.json", DataProblem)
        whole = record.get("digest") == file_digest(home / "features.npy")
        if whole and {name: record.get(name) for name in wanted} == wanted:
            return True
    except (DataProblem, FileNotFoundError):
        pass
    progress.say("features on disk are damaged: they are extracted again", always=True)
    for name in ("features.json", "features.npy", JOURNAL, DATA):
        (home / name).unlink(missing_ok=True)
    return None


def file_digest(path: Path) -> str:
    """Return XXH3, 32 hex, of a file."""
    whole = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as handle:
        while part := handle.read(READ_BYTES):
            whole.update(part)
    return whole.hexdigest()


@dataclass(frozen=True)
class Source:
    """Where features come from: tiles at `rows` of `store`, through `module`."""

    store: Store
    rows: Rows
    module: nn.Module
    how: Extraction

    def __post_init__(self) -> None:
        """Put the network into evaluation mode: batch norm and dropout are as they will be used."""
        self.module.eval()

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        first = next(self.module.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    @property
    def batch(self) -> int:
        """Tiles a forward pass."""
        px = self.how.preprocessing.input_px or self.store.px
        fitting = max(1, BATCH_PIXELS // (px * px)) * (GPU_BATCHES if self.device.type == "cuda" else 1)
        return min(fitting, len(self.rows))

    def tiles(self, first: int, last: int) -> Tensor:
        """Return tiles `first` to `last` (not included) of those wanted, uint8 [k, px, px, 3], on the device."""
        return torch.from_numpy(np.array(self.store.tiles[self.rows[first:last]])).to(self.device)


def compute(home: Path, wanted: dict[str, Any], source: Source, progress: Progress) -> None:
    """Extract into `home`, going on with what is whole of an earlier attempt; features.json comes last and says that all is done."""
    transform = Transform(source.how.preprocessing, source.store.px).to(source.device)
    example = transform(source.tiles(0, source.batch))
    partial = Partial(home, json.loads(json.dumps({"batch": source.batch, **wanted})))
    engine = resumed(partial, source, example) or fastest(
        source.module, example, allowed=source.how.precision, tiles=len(source.rows) * source.how.views
    )
    progress.say(f"features by {engine.name}: {engine.reasons}")
    d = engine.call(example[:1]).shape[1]
    with partial.begun(engine.name, engine.reasons, (len(source.rows), source.how.views, d)) as written:
        with progress.track("features", len(source.rows)) as tick:
            tick(written.n)
            for first in range(written.n, len(source.rows), source.batch * BLOCK_BATCHES):
                last = min(first + source.batch * BLOCK_BATCHES, len(source.rows))
                written.append(block(source, engine, transform, first, last, d))
                tick(last - first)
        digest = written.finish()
    (home / DATA).replace(home / "features.npy")
    sync_folder(home)
    versions = {"torch": str(torch.__version__), "numpy": np.__version__}
    shape = {"views": source.how.views, "d": d}
    made = {"engine": engine.name, "reasons": engine.reasons, "device": str(source.device), "versions": versions}
    write_json(home / "features.json", wanted | shape | made | {"digest": digest})
    (home / JOURNAL).unlink()


def resumed(partial: Partial, source: Source, example: Tensor) -> Engine | None:
    """Return the engine that an unfinished extraction was started with, since another would give other last digits; None to start."""
    if not partial.engine:
        return None
    try:
        return named(partial.engine, source.module, example)
    except (MachineProblem, RuntimeError):
        partial.forget()
        return None


def block(source: Source, engine: Engine, transform: Transform, first: int, last: int, d: int) -> npt.NDArray[np.float32]:
    """Return the features of tiles `first` to `last`, float32 [k, views, d]; RunProblem for any that are not finite."""
    views = VIEWS[source.how.views]
    values = np.empty((last - first, len(views), d), np.float32)
    for start in range(first, last, source.batch):
        tiles = source.tiles(start, min(start + source.batch, last))
        for at, number in enumerate(views):
            values[start - first : start - first + len(tiles), at] = engine.call(transform(view(tiles, number))).cpu().numpy()
    bad = np.flatnonzero(~np.isfinite(values).all(axis=(1, 2)))
    if len(bad):
        row = int(source.rows[first + bad[0]])
        raise RunProblem(
            f"finite features ({engine.name})",
            f"{len(bad):,} of {len(values):,} tiles with others, the first {shown(source.store.rows['id'].iloc[row])} in row {row}",
            "check the weights, or extract with --precision fp32",
        )
    return values
