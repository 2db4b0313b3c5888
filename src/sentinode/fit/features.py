"""The feature store: what a frozen network makes of tiles, computed once for the same pixels, weights and preprocessing.

NAME.features/KEY/  features.npy    float32 [n, views, d], C order: `numpy.load(..., mmap_mode="r")` opens it without Sentinode
                    journal.jsonl   what the key stands for, engine, versions, then a line a block with the digests of its tiles

KEY is a digest of all that decides a feature but the pixels; a tile is found by the digest of its pixels as they are now. So what
changed is never met again under the old name, and another split, another sample or a store with some of the same tiles finds what
is there and adds what is missing. float32, since half of it ends at 65,504 and some networks go beyond.
"""

import functools
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from sentinode.errors import DataProblem, MachineProblem, RunProblem, UsageProblem, shown
from sentinode.fit.dealt import blocks
from sentinode.fit.grown import Grown
from sentinode.fit.table import Rows, Table
from sentinode.machine.memory import refusing
from sentinode.machine.ranks import ALONE, Ranks
from sentinode.nets.engine import FAILURES, Engine, fastest, named
from sentinode.nets.forward import VIEWS, leaving_cores, sent, view
from sentinode.nets.room import fewer, with_room
from sentinode.nets.transform import Preprocessing, Transform
from sentinode.progress import Progress
from sentinode.run import disk_problems
from sentinode.tiles.decode import tile_digest
from sentinode.tiles.store import Store

FORMAT = 2
"""Version of the folder's layout and of the arithmetic behind it; part of the key."""
BATCH_PIXELS = 64 * 96 * 96
"""Pixels of network input a batch: 64 tiles of 96x96. OpenVINO is as fast with 4, eager torch gains up to here."""
MOST_TILES = 1024
"""Tiles a batch at most, however small: a batch is always full, so a few tiles would be computed again and again."""
GPU_BATCHES = 8
"""So many times more on a GPU."""
BLOCK_BATCHES = 8
"""Batches written and noted at a time, at most: what a kill costs."""
BLOCK_BYTES = 1 << 27
"""Bytes of features held in memory before they are written, about."""
PIXEL_ROWS = 256
"""Tiles read at a time for their digests."""


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

    `table` says where they lie; `key` names what made them. `engine` is the form of the network that made the last of them, and
    `reasons` why. `seconds` is what getting them took now; `made`: tiles whose features were not there.
    """

    table: Table
    rows: Rows
    key: str
    engine: str
    reasons: str
    seconds: float
    made: int

    @property
    def values(self) -> npt.NDArray[np.float32]:
        """Return all of them, float32 [n, views, d], views in the order of `forward.VIEWS`; in memory, or a read-only map."""
        return self.table.whole()

    @property
    def cached(self) -> bool:
        """Whether all of them were there."""
        return not self.made


def extract(
    store: Store,
    module: nn.Module,
    how: Extraction,
    *,
    rows: Rows | None = None,
    folder: str | Path | None = None,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> Features:
    """Return the features of a store's tiles: those that the feature store has, the others extracted and kept there.

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
    engine
        The form of `module` to use, as chosen for another store; by default the fastest is chosen here. One of reduced precision
        is not used where `how` wants exact features.
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
    rows = np.flatnonzero(store.rows["label"].to_numpy() >= 0) if rows is None else rows
    return extracted(Source(store, rows, module, how, engine), folder, progress or Progress(quiet=True))


def extracted(source: "Source", folder: str | Path | None, progress: Progress) -> Features:
    """Return the features of the tiles of `source`, as `extract` does; the other processes of its ranks `help_extract` meanwhile."""
    began, store = time.perf_counter(), source.store
    if source.how.views not in VIEWS:
        raise UsageProblem("1, 4 or 8 views", shown(source.how.views), "change --views")
    if not len(source.rows):
        raise DataProblem(f"tiles of {shown(store.path)} to extract features of", "none with a label", "label some of them")
    folder = Path(folder or store.path.with_name(store.path.name.removesuffix(".store") + ".features"))
    found = taken(source, digests_of(store, source.rows), folder, progress)
    source.ranks.told(None)
    return replace(found, seconds=time.perf_counter() - began)


def help_extract(source: "Source") -> None:
    """Compute the blocks that the first process deals to this one, until it has all it wants."""
    transform = Transform(source.how.preprocessing, source.store.px).to(source.device)
    while (wanted := source.ranks.told(None)) is not None:
        part = replace(source, rows=np.array(wanted["rows"], np.int64), most=wanted["most"])
        engine = named(wanted["engine"], part.module, transform(part.tiles(0, part.batch)))
        make = functools.partial(block, part, engine, transform, wanted["size"][2])
        for _ in blocks(source.ranks, make, len(part.rows), tuple(wanted["size"]), part.batch):
            pass  # nothing comes of it here: the first process has them


def taken(source: "Source", digests: list[bytes], folder: Path, progress: Progress) -> Features:
    """Return the features of the tiles of `source`, whose digests these are, from the feature store; missing ones are added."""
    wanted = identity(source.store.px, source.module, source.how)
    key = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:32]
    with feature_problems(folder / key), locked(folder / key, progress), refusing(source.device.type):
        grown = Grown(folder / key, wanted)
        if grown.damaged:
            progress.say("features on disk are damaged: they are extracted again", always=True)
        missing = {digest: row for digest, row in zip(digests, source.rows, strict=True) if digest not in grown.places}
        engine, elsewhere = source.engine, bool(missing) and exact_pays(grown, source)
        if missing and not elsewhere:
            engine = grow(grown, list(missing), replace(source, rows=np.fromiter(missing.values(), np.int64)), progress)
            elsewhere = engine is not None
        if not elsewhere:
            at = np.fromiter((grown.places[digest] for digest in digests), np.int64, len(digests))
            return Features(Table(grown.mapped(), at), source.rows, key, grown.engine, grown.reasons, 0.0, len(missing))
    exact = replace(source, how=replace(source.how, precision="fp32"), engine=engine)
    return taken(exact, digests, folder, progress)


def exact_pays(grown: Grown, source: "Source") -> bool:
    """Return whether an exact engine was found the fastest for as many tiles where less was allowed: they are kept with the exact ones.

    Not where reduced ones are there already. Nor are exact ones of some tiles taken beside reduced ones of others: a run would
    depend on what was in the store before it.
    """
    open_to = source.how.precision == "auto" and not grown.n
    return open_to and grown.engine.endswith("fp32") and len(source.rows) <= grown.chosen_for


def digests_of(store: Store, rows: Rows) -> list[bytes]:
    """Return the digests of tiles, of their pixels as they are now, whatever the store says of itself."""
    parts = (np.array(store.tiles[rows[start : start + PIXEL_ROWS]]) for start in range(0, len(rows), PIXEL_ROWS))
    return [tile_digest(tile) for part in parts for tile in part]


def identity(px: int, module: nn.Module, how: Extraction) -> dict[str, Any]:
    """Return all but the pixels that decides the features of tiles of edge `px`, as JSON takes it."""
    return {
        "format": FORMAT,
        "px": px,
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


@dataclass(frozen=True)
class Source:
    """Where features come from: tiles at `rows` of `store`, through `module`, in the form of `engine` if there is one.

    `most` is how many tiles memory has room for at a time, where that has turned out to be fewer than usual. `ranks`: this process
    among those that divide the work.
    """

    store: Store
    rows: Rows
    module: nn.Module
    how: Extraction
    engine: Engine | None
    most: int = 0
    ranks: Ranks = ALONE

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
        """Tiles a forward pass, whatever is missing: another number would give other last digits."""
        px = self.how.preprocessing.input_px or self.store.px
        usual = min(max(1, BATCH_PIXELS // (px * px)), MOST_TILES) * (GPU_BATCHES if self.device.type == "cuda" else 1)
        return min(usual, self.most or usual)

    def tiles(self, first: int, last: int) -> Tensor:
        """Return tiles `first` to `last` (not included) of those wanted, uint8 [k, px, px, 3], on the device.

        Beyond the end they begin again: a batch is always full.
        """
        self.store.check()
        rows = self.rows[np.arange(first, last) % len(self.rows)]
        tiles = np.array(self.store.tiles[rows])
        self.store.check_pixels(tiles, rows)
        return sent(torch.from_numpy(tiles), self.device)


def grow(grown: Grown, digests: list[bytes], source: Source, progress: Progress) -> Engine | None:
    """Add the tiles of `source`, whose digests these are, block by block, and return None.

    Where less than exact was allowed, but none is there and an exact engine is the fastest, that is noted, and the engine returned.
    """
    transform = Transform(source.how.preprocessing, source.store.px).to(source.device)
    source = replace(source, most=grown.at_once)
    planned = source.batch
    (engine, d), at_once = with_room(lambda k: chosen(grown, replace(source, most=k), transform), planned)
    views, n, step = source.how.views, len(source.rows), source.batch
    step *= max(1, min(BLOCK_BATCHES, BLOCK_BYTES // (4 * views * d * source.batch)))
    more: dict[str, Any] = {"device": str(source.device), "versions": {"torch": str(torch.__version__), "numpy": np.__version__}}
    if source.how.precision == "auto" and engine.precision == "fp32" and not grown.n:
        with grown.growing(engine, (views, d), n, more):
            return engine
    progress.say(f"features by {engine.name}: {engine.reasons}")
    source.ranks.told({"rows": source.rows.tolist(), "most": at_once, "engine": engine.name, "size": (step, views, d)})
    make, size = functools.partial(block, source, engine, transform, d), (step, views, d)
    with progress.track("features", n) as tick, grown.growing(engine, (views, d), n, more) as growing:
        for (first, last), values, room in blocks(source.ranks, make, n, size, at_once):
            if room < planned:
                progress.say(fewer(planned, room), always=True)
                growing.note_at_once(room)
                planned = room
            growing.append(values, b"".join(digests[first:last]))
            tick(last - first)
    return None


def chosen(grown: Grown, source: Source, transform: Transform) -> tuple[Engine, int]:
    """Return the engine for these tiles, and how many numbers it makes of one."""
    example = transform(source.tiles(0, source.batch))
    engine = (
        earlier(grown, source, example)
        or given(source)
        or fastest(source.module, example, allowed=source.how.precision, tiles=len(source.rows) * source.how.views)
    )
    return engine, engine.call(example).shape[1]


def earlier(grown: Grown, source: Source, example: Tensor) -> Engine | None:
    """Return the engine that made what is there, since another would give other last digits.

    None where this machine has it not, or where it was chosen for fewer tiles than are to come: few do not pay for a good choice.
    """
    if not grown.engine or len(source.rows) > grown.chosen_for:
        return None
    try:
        return named(grown.engine, source.module, example)
    except FAILURES:
        return None


def given(source: Source) -> Engine | None:
    """Return the engine that the caller brought, if it is exact enough."""
    exact = source.engine is not None and source.engine.precision == "fp32"
    return source.engine if exact or source.how.precision == "auto" else None


def block(
    source: Source, engine: Engine, transform: Transform, d: int, span: tuple[int, int], at_once: int
) -> npt.NDArray[np.float32]:
    """Return the features of tiles `span[0]` to `span[1]`, float32 [k, views, d]; RunProblem for any that are not finite."""
    (first, last), views = span, VIEWS[source.how.views]
    values = np.empty((last - first, len(views), d), np.float32)
    for start in range(first, last, at_once):
        tiles, k = source.tiles(start, start + at_once), min(at_once, last - start)
        with leaving_cores(engine.call):
            for at, number in enumerate(views):
                made = engine.call(transform(view(tiles, number)))[:k]
                values[start - first : start - first + k, at] = made.cpu().numpy()
    bad = np.flatnonzero(~np.isfinite(values).all(axis=(1, 2)))
    if len(bad):
        row = int(source.rows[first + bad[0]])
        raise RunProblem(
            f"finite features ({engine.name})",
            f"{len(bad):,} of {len(values):,} tiles with others, the first {shown(source.store.rows['id'].iloc[row])} in row {row}",
            "check the weights, or extract with --precision fp32",
        )
    return values
