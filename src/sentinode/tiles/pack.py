"""Sources in, a store out: threads read, decode and digest blocks; the main thread appends them in order.

What is done is journaled block by block, so that a kill at any moment is followed by `resume=True` and the same bytes.
"""

import os
import tempfile
import warnings
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sentinode.errors import SourceProblem, UsageProblem, shown
from sentinode.limits import usable_cores
from sentinode.progress import Progress
from sentinode.run import claim_folder, clear_folder, disk_problems, is_leftover, read_json, write_json
from sentinode.settings import PackSettings, settings_from
from sentinode.tiles import journal
from sentinode.tiles.decode import Outcome, TileReader, tile_digest
from sentinode.tiles.journal import Block
from sentinode.tiles.listing import Listing, is_store
from sentinode.tiles.plan import Plan, fingerprint, plan_pack, row_batches, store_record
from sentinode.tiles.store import FORMAT, HEADER_BYTES, UNFINISHED, Store, StoreWriter, open_store
from sentinode.tiles.stored import Stored

BLOCK_BYTES = 1 << 20
"""About how many bytes of pixels are one block: one journal line, one thread's work, one buffer."""


def pack(
    *sources: str | Path,
    out: str | Path,
    settings: PackSettings | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    **options: Any,
) -> Store:
    """Pack sources into a store: the same bytes for the same input, however many threads.

    Parameters
    ----------
    sources
        Kaggle folders, class folders, plain folders, `*_x.h5` files or folders of them, CSV manifests, and stores, which stand
        for what they were packed from. All shards of a store together give, byte for byte, the tiles and rows of the whole.
    out
        The store's folder; new, or unfinished with `resume`, or a store with `overwrite`.
    settings
        Settings; `options` are fields of `PackSettings` by name and go before them.
    resume
        Go on with unfinished work; a finished store of the same input is simply opened.
    overwrite
        Replace a store of that name.
    quiet
        Say nothing.

    Returns
    -------
    Store
        The opened store, rows in order of source and id.

    Raises
    ------
    SourceProblem
        If a source cannot be used at all; single bad files do not raise but are listed in `record["quarantined"]`.
    StoreProblem
        If a store among the sources is not finished or not what was packed.
    UsageProblem
        If an option is unknown, `out` is taken, or unfinished work is from another input.
    MachineProblem
        If the disk is full, `out` cannot be written, or h5py is missing.
    """
    settings = settings_from(PackSettings, settings, options)
    out = Path(out)
    progress = Progress(quiet)
    if is_store(str(out)) and out.resolve() in [Path(source).resolve() for source in sources]:
        do = "choose another --out; where the sources are written with *, one that they do not take in"
        raise UsageProblem("a store of its own for --out", f"{shown(out)}, which is a source as well", do)
    with ExitStack() as scratch:
        # What Pillow warns of is in the quarantine or of no matter; and a filter of the caller must not decide what is packed.
        scratch.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", module=r"PIL\.")
        plan = plan_pack(sources, settings, scratch)
        inputs = fingerprint(plan)
        unfinished = out / UNFINISHED
        if claim_folder(out, "store.json", resume=resume, overwrite=overwrite):
            if (out / "store.json").exists():
                check_inputs(open_store(out).record.get("inputs"), inputs, out)
                tidy(out)
                return open_store(out)
            check_inputs(read_json(unfinished, UsageProblem).get("inputs"), inputs, out)
        else:
            write_json(unfinished, {"format": FORMAT, "inputs": inputs})
        done = journal.recover(out, out / "tiles.npy", HEADER_BYTES, plan.px * plan.px * 3)
        if done.last and not quiet:
            progress.say(f"{done.last:,} of {plan.n:,} tiles are already packed")
        with StoreWriter(out, plan.px, done.n_kept) as writer:
            write_blocks(plan, writer, done, progress)
            if done.n_kept or plan.share:  # of a share no tile may be left: the others have theirs
                writer.finish(row_batches(plan, done), store_record(plan, done, inputs))
        if not (done.n_kept or plan.share):
            clear_folder(out)
            out.rmdir()
            reasons = Counter(reason for reason, _ in done.refused.values())
            raise SourceProblem("at least one tile that can be read", listed(reasons), "look at the files; nothing was packed")
        tidy(out)
        del plan, done
    store = open_store(out)
    say_result(store, progress)
    return store


def check_inputs(found: object, inputs: str, out: Path) -> None:
    """Raise UsageProblem if the work in `out` was begun with another input."""
    if found != inputs:
        raise UsageProblem(
            f"work in {shown(out)} that was begun with the same sources and settings",
            "other files, labels, settings or versions than now",
            "give the command as it was, or start anew with --overwrite",
        )


def tidy(out: Path) -> None:
    """Remove what only unfinished work needs."""
    for path in [out / journal.NAME, *(entry for entry in out.iterdir() if is_leftover(entry)), out / UNFINISHED]:
        path.unlink(missing_ok=True)


def write_blocks(plan: Plan, writer: StoreWriter, done: Block, progress: Progress) -> None:
    """Decode what is not yet `done` and append it, block after block; `done` grows by each."""
    workers = plan.settings.workers or usable_cores()
    tile_bytes = plan.px * plan.px * 3
    rows = max(1, BLOCK_BYTES // tile_bytes)
    reader = TileReader(plan.px, plan.settings.px is not None)
    free = deque(slots_of(bytearray(rows * tile_bytes), tile_bytes) for _ in range(workers + 2))
    waiting: deque[tuple[Future[Block], list[memoryview]]] = deque()

    def append() -> None:
        future, slots = waiting.popleft()
        block = future.result()
        if block.n_kept:
            whole = memoryview(slots[0].obj)
            writer.append(whole[: block.n_kept * tile_bytes])
        with disk_problems(writer.path):
            lines.write(block.line())
        done.absorb(block)
        free.append(slots)
        tick(block.last - block.first)

    pool = ThreadPoolExecutor(workers, "pack")
    with disk_problems(writer.path):
        lines = (writer.path / journal.NAME).open("ab", buffering=0)
    try:
        with lines, progress.track("packing", plan.n) as tick:
            tick(done.last)
            for which, first, last in blocks(plan, done.last, rows):
                if not free:
                    append()
                slots = free.popleft()
                waiting.append((pool.submit(decode_block, plan, which, range(first, last), reader, slots), slots))
            while waiting:
                append()
    finally:
        pool.shutdown(cancel_futures=True)


def slots_of(buffer: bytearray, tile_bytes: int) -> list[memoryview]:
    """Cut a buffer into places for one tile each."""
    view = memoryview(buffer)
    return [view[at : at + tile_bytes] for at in range(0, len(buffer), tile_bytes)]


def blocks(plan: Plan, done: int, rows: int) -> Iterator[tuple[int, int, int]]:
    """Yield (listing, first, last) of what is left, in order; a block never spans two sources."""
    for which in range(len(plan.listings)):
        for first in range(max(done, plan.starts[which]), plan.starts[which + 1], rows):
            yield which, first, min(first + rows, plan.starts[which + 1])


def decode_block(plan: Plan, which: int, span: range, reader: TileReader, slots: list[memoryview]) -> Block:
    """Decode the listed tiles of `span` into the first slots, leaving no gaps, and digest them."""
    listing, start = plan.listings[which], plan.starts[which]
    block = Block(span.start, span.stop)
    if listing.pair is not None:
        fill_from_pair(listing, start, reader, slots, block)
        return block
    if listing.stored is not None:
        fill_from_stores(listing.stored, listing.indices[span.start - start : span.stop - start], reader, slots, block)
        return block
    root, paths = listing.root, listing.paths
    header = reader.header()
    kept = 0
    for i in span:
        path, slot = root + paths[i - start], slots[kept]
        if not reader.read_known(path, header, slot):
            outcome = reader.read(path, slot)
            if outcome.reason:
                block.refused[i] = (outcome.reason, outcome.detail)
                continue
            enter(block, i, outcome, reader.px)
        block.digests += tile_digest(slot)
        kept += 1
    return block


def enter(block: Block, i: int, outcome: Outcome, px: int) -> None:
    """Remember what is out of the ordinary with tile `i`."""
    if outcome.note:
        block.notes[i] = outcome.note
    if (outcome.width, outcome.height) != (px, px):
        block.sizes[i] = (outcome.width, outcome.height)


def fill_from_pair(listing: Listing, start: int, reader: TileReader, slots: list[memoryview], block: Block) -> None:
    """Fill slots from an HDF5 file, which is read block by block in order."""
    if listing.pair is None:
        return
    wrong = reader.wrong_size(listing.pair.px, listing.pair.px)
    if wrong is not None:
        block.refused.update(dict.fromkeys(range(block.first, block.last), (wrong.reason, wrong.detail)))
        return
    tiles = listing.pair.read(listing.indices[block.first - start : block.last - start])
    for i, (tile, slot) in enumerate(zip(tiles, slots, strict=False), block.first):
        if listing.pair.px == reader.px:
            slot[:] = np.ascontiguousarray(tile).tobytes()
        else:
            enter(block, i, reader.place(Image.fromarray(tile), "", slot), reader.px)
        block.digests += tile_digest(slot)


def fill_from_stores(stored: Stored, rows: list[int], reader: TileReader, slots: list[memoryview], block: Block) -> None:
    """Fill slots with `rows` of what was packed before, each checked, with the sizes and notes that they had."""
    for i, row, pixels, slot in zip(range(block.first, block.last), rows, stored.read(rows), slots, strict=False):
        note = stored.notes.get(row, "")
        width, height = stored.sizes.get(row, (stored.px, stored.px))
        if stored.px == reader.px:
            slot[:] = pixels
        else:
            image = Image.frombytes("RGB", (stored.px, stored.px), pixels)
            note = reader.place(image, note.removesuffix("resized").removesuffix(", "), slot).note
        enter(block, i, Outcome(width, height, note), reader.px)
        block.digests += tile_digest(slot)


def listed(counts: Counter[str]) -> str:
    """Return counts in words."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.most_common()) or "none"


def say_result(store: Store, progress: Progress) -> None:
    """Say what was packed, and what was not."""
    quarantined = Counter(entry[2] for entry in store.record["quarantined"])
    shard = store.record.get("shard")
    which = f", shard {shard['number']} of {shard['of']}" if shard else ""
    progress.say(f"{len(store):,} tiles of {store.px} x {store.px} in {shown(store.path)}{which}")
    if quarantined:
        progress.say(f"left out: {listed(quarantined)} (sentinode info lists them)")
    if store.record["converted"]:
        progress.say(f"converted: {listed(Counter(store.record['converted']))}")


@contextmanager
def open_or_pack(source: str | Path, settings: PackSettings | None = None, quiet: bool = False) -> Iterator[Store]:
    """Open a store, or pack a source into a temporary folder that goes when the block ends; nothing is written beside the source.

    Raises what `open_store` and `pack` raise.
    """
    path = Path(source)
    if (path / "store.json").is_file() or (path / UNFINISHED).is_file():
        yield open_store(path)
        return
    with tempfile.TemporaryDirectory(prefix="sentinode-", ignore_cleanup_errors=os.name == "nt") as folder:
        yield pack(path, out=Path(folder) / "input.store", settings=settings, quiet=quiet)
