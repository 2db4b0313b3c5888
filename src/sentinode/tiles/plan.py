"""What will be packed, decided before the first pixel; and what is written about it after the last."""

import hashlib
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import PIL

from sentinode.errors import SourceProblem, shown
from sentinode.settings import PackSettings, shard_of
from sentinode.tiles.classes import Classes, choose_classes, merged_before
from sentinode.tiles.decode import MEASURED, size_of, usual_size
from sentinode.tiles.groups import join_groups
from sentinode.tiles.journal import Block
from sentinode.tiles.listing import Listing
from sentinode.tiles.source import list_sources
from sentinode.tiles.store import FORMAT, ROWS_A_BATCH


@dataclass(frozen=True)
class Plan:
    """Everything decided before the first pixel: `starts` [k + 1] are the listings' first rows in the whole list.

    `share` says which part of a larger plan it is; {} for a whole one.
    """

    listings: list[Listing]
    starts: list[int]
    classes: Classes
    px: int
    groups: list[str]
    groups_unmatched: int
    settings: PackSettings
    share: dict[str, Any] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of tiles listed."""
        return self.starts[-1]

    def place(self, i: int) -> tuple[str, str]:
        """Return the source and the path of listed tile `i`."""
        which = bisect_right(self.starts, i) - 1
        return self.listings[which].name, self.listings[which].place(i - self.starts[which])

    def column(self, name: str) -> list[str]:
        """Return ids, paths, labels or groups over all sources."""
        first: list[str] = getattr(self.listings[0], name)
        return first if len(self.listings) == 1 else [value for listing in self.listings for value in getattr(listing, name)]


def plan_pack(sources: tuple[str | Path, ...], settings: PackSettings, scratch: ExitStack) -> Plan:
    """List the sources and decide classes, groups and the size of a tile."""
    listings = list_sources(sources, settings, scratch)
    classes = choose_classes(listings, settings.positive)
    ids = [name for listing in listings for name in listing.ids]
    groups = [group for listing in listings for group in listing.groups]
    unmatched = sum(listing.stored.unmatched for listing in listings if listing.stored is not None)
    if settings.groups is not None:
        join = join_groups(ids, Path(settings.groups))
        groups = [new or old for new, old in zip(join.groups, groups, strict=True)]
        unmatched = join.unmatched
    starts = [0, *accumulate(len(listing.ids) for listing in listings)]
    px = settings.px or measure(listings)
    if settings.px is None:
        check_sizes(listings, px)
    plan = Plan(listings, starts, classes, px, groups, unmatched, settings)
    return plan if settings.shard is None else share_of(plan, *shard_of(settings.shard))


def check_sizes(listings: list[Listing], px: int) -> None:
    """Raise SourceProblem for a store of tiles of another size: nobody means that all of them are left out."""
    like = next((listing for listing in listings if listing.stored is None or listing.stored.px == px), listings[0])
    for listing in listings:
        if listing.stored is not None and listing.stored.px != px:
            found = f"{listing.stored.px} x {listing.stored.px} in {shown(listing.origin())}"
            do = f"add --px {px} to resize, or pack its sources again with --px {px}"
            raise SourceProblem(f"tiles of {px} x {px} in every store, as in {shown(like.origin())}", found, do)


def share_of(plan: Plan, number: int, of: int) -> Plan:
    """Return the `number`-th (from 1) of `of` shares of a plan.

    A share is a stretch of the store's order, so that shares are joined by writing one behind the other; their numbers of tiles
    differ by one at most. What was decided over all tiles (classes, size, groups) holds for each share; what is told of the
    sources as a whole (files left out before they were opened) goes with the first, so that shares add up to the whole.
    """
    first, last, leads = plan.n * (number - 1) // of, plan.n * number // of, number == 1
    listings = [
        listing.part(max(first - start, 0), max(last - start, 0), leads=leads)
        for listing, start in zip(plan.listings, plan.starts, strict=False)
    ]
    counts = merged_before(listings)
    for listing in listings:
        counts.update(listing.labels)
    classes = replace(plan.classes, merged={name: counts[name] for name in plan.classes.merged})
    starts = [0, *accumulate(len(listing.ids) for listing in listings)]
    facts = {"number": number, "of": of, "first": first, "last": last, "listed": plan.n, "pack": fingerprint(plan)}
    unmatched = plan.groups_unmatched if leads else 0
    return Plan(listings, starts, classes, plan.px, plan.groups[first:last], unmatched, plan.settings, facts)


def measure(listings: list[Listing]) -> int:
    """Return the most common edge among the first readable square tiles; over half of them settle it early."""
    sizes: Counter[int] = Counter()
    for listing in listings:
        for path in listing.paths:
            if sizes.total() == MEASURED or max(sizes.values(), default=0) > MEASURED // 2:
                break
            known = listing.pair or listing.stored
            size = (known.px,) * 2 if known is not None else size_of(listing.root + path)
            if size is not None and size[0] == size[1]:
                sizes[size[0]] += 1
    px = usual_size(sizes)
    if px is None:
        first = listings[0]
        raise SourceProblem(
            "at least one square TIFF, PNG or JPEG image",
            f"none that can be read among {sum(len(listing.ids) for listing in listings):,} files, the first {shown(first.name)}",
            "look at the files: are they whole?",
        )
    return px


def fingerprint(plan: Plan) -> str:
    """Return a digest of all that the store follows from, but for the pixels: two runs with the same one may share work."""
    total = hashlib.sha256(json.dumps([FORMAT, plan.px, plan.settings.px, plan.classes.names, PIL.__version__]).encode())
    for listing, start in zip(plan.listings, plan.starts, strict=False):
        total.update(
            json.dumps(
                [listing.name, listing.kind, listing.prefix, listing.pair.n_bytes if listing.pair else 0, listing.quarantined]
            ).encode()
        )
        if listing.stored is not None:
            total.update(json.dumps([listing.stored.px, sorted(listing.stored.notes.items())]).encode() + listing.stored.digests)
        codes = plan.classes.codes
        for at in range(0, len(listing.ids), 4096):
            part = slice(at, at + 4096)
            rows = [listing.ids[part], listing.paths[part], [codes[label] for label in listing.labels[part]]]
            total.update(json.dumps([*rows, plan.groups[start + at : start + min(at + 4096, len(listing.ids))]]).encode())
    if plan.share:
        total.update(json.dumps(plan.share).encode())
    return total.hexdigest()


def kept_rows(plan: Plan, done: Block) -> Sequence[int]:
    """Return the numbers of the listed tiles that are in the store."""
    return [i for i in range(plan.n) if i not in done.refused] if done.refused else range(plan.n)


def row_batches(plan: Plan, done: Block) -> Iterator[dict[str, list[Any]]]:
    """Yield the columns of rows.parquet, `ROWS_A_BATCH` rows at a time, so that the whole table is never in memory."""
    ids, names = plan.column("ids"), plan.column("labels")
    kept = kept_rows(plan, done)
    codes, square = plan.classes.codes, (plan.px, plan.px)
    for start in range(0, len(kept), ROWS_A_BATCH):
        rows = kept[start : start + ROWS_A_BATCH]
        digests = done.digests[start * 16 : (start + len(rows)) * 16].hex()
        places = [plan.place(i) for i in rows]
        sizes = [done.sizes.get(i, square) for i in rows] if done.sizes else [square] * len(rows)
        yield {
            "id": [ids[i] for i in rows],
            "label": [codes[names[i]] for i in rows],
            "group": [plan.groups[i] for i in rows],
            "source": [source for source, _ in places],
            "path": [path for _, path in places],
            "digest": [digests[at : at + 32] for at in range(0, len(digests), 32)],
            "width": [width for width, _ in sizes],
            "height": [height for _, height in sizes],
            "note": [done.notes.get(i, "") for i in rows],
        }


def store_record(plan: Plan, done: Block, inputs: str) -> dict[str, Any]:
    """Return what store.json says of what was packed and what was not."""
    kept = kept_rows(plan, done)
    names, groups = plan.column("labels"), Counter(plan.groups[i] for i in kept)
    labels: Counter[int] = Counter()
    for name, count in Counter(names[i] for i in kept).items():
        labels[plan.classes.codes[name]] += count
    without = groups.pop("", 0)
    negative, positive = plan.classes.names
    left_out = {listing.name: [list(entry) for entry in listing.quarantined] for listing in plan.listings}
    for i, why in sorted(done.refused.items()):
        source, path = plan.place(i)
        left_out[source].append([source, path, *why])
    return {
        "classes": [negative, positive],
        "positive": positive,
        "counts": {"negative": labels[0], "positive": labels[1], "unknown": labels[-1]},
        "merged_into_negative": plan.classes.merged,
        "sources": [source_record(listing) for listing in plan.listings],
        "groups": {"groups": len(groups), "tiles_without": without, "ids_without_tile": plan.groups_unmatched},
        "converted": dict(sorted(Counter(done.notes.values()).items())),
        "quarantined": [entry for entries in left_out.values() for entry in entries],
        "inputs": inputs,
        **({"shard": plan.share} if plan.share else {}),
        "settings": settings_record(plan),
        "decoder": "plain TIFF directly, all else by Pillow; digest: XXH3-128 of the RGB bytes",
    }


def settings_record(plan: Plan) -> dict[str, Any]:
    """Return the settings that decided what the tiles are: the command's, or those of the stores where all are of one mind."""
    own = {"px": plan.settings.px, "positive": plan.settings.positive, "ids": plan.settings.ids}
    before = [listing.stored.settings if listing.stored is not None else own for listing in plan.listings]
    asked = own != {"px": None, "positive": None, "ids": "stem"}
    return own if asked or any(other != before[0] for other in before) else before[0]


def source_record(listing: Listing) -> dict[str, Any]:
    """Return what store.json says of one source."""
    unlabelled = listing.labels.count("") if listing.labelled else 0
    before = listing.stored
    return {
        "name": listing.name,
        "kind": listing.kind,
        "listed": len(listing.ids) + (before.lost if before is not None else 0),
        "labelled": listing.labelled,
        "images_without_label": unlabelled + (before.lost_unlabelled if before is not None else 0),
        "other_files": listing.ignored,
    }
