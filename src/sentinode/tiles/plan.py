"""What will be packed, decided before the first pixel; and what is written about it after the last."""

import hashlib
import json
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import PIL

from sentinode.errors import SourceProblem, shown
from sentinode.settings import PackSettings
from sentinode.tiles.classes import Classes, choose_classes
from sentinode.tiles.decode import MEASURED, size_of, usual_size
from sentinode.tiles.groups import join_groups
from sentinode.tiles.journal import Block
from sentinode.tiles.listing import Listing
from sentinode.tiles.source import list_sources
from sentinode.tiles.store import FORMAT


@dataclass(frozen=True)
class Plan:
    """Everything decided before the first pixel: `starts` [k + 1] are the listings' first rows in the whole list."""

    listings: list[Listing]
    starts: list[int]
    classes: Classes
    px: int
    groups: list[str]
    groups_unmatched: int
    settings: PackSettings

    @property
    def n(self) -> int:
        """Number of tiles listed."""
        return self.starts[-1]

    def column(self, name: str) -> list[str]:
        """Return ids, paths, labels or groups over all sources."""
        return [value for listing in self.listings for value in getattr(listing, name)]


def plan_pack(sources: tuple[str | Path, ...], settings: PackSettings, scratch: ExitStack) -> Plan:
    """List the sources and decide classes, groups and the size of a tile."""
    listings = list_sources(sources, settings, scratch)
    classes = choose_classes(listings, settings.positive)
    ids = [name for listing in listings for name in listing.ids]
    groups, unmatched = [group for listing in listings for group in listing.groups], 0
    if settings.groups is not None:
        join = join_groups(ids, Path(settings.groups))
        groups = [new or old for new, old in zip(join.groups, groups, strict=True)]
        unmatched = join.unmatched
    starts = [0, *accumulate(len(listing.ids) for listing in listings)]
    px = settings.px or measure(listings)
    return Plan(listings, starts, classes, px, groups, unmatched, settings)


def measure(listings: list[Listing]) -> int:
    """Return the most common edge among the first readable square tiles; over half of them settle it early."""
    sizes: Counter[int] = Counter()
    for listing in listings:
        for path in listing.paths:
            if sizes.total() == MEASURED or max(sizes.values(), default=0) > MEASURED // 2:
                break
            size = (listing.pair.px,) * 2 if listing.pair else size_of(listing.root + path)
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
            json.dumps([listing.name, listing.kind, listing.pair.n_bytes if listing.pair else 0, listing.quarantined]).encode()
        )
        codes = plan.classes.codes
        for at in range(0, len(listing.ids), 4096):
            part = slice(at, at + 4096)
            rows = [listing.ids[part], listing.paths[part], [codes[label] for label in listing.labels[part]]]
            total.update(json.dumps([*rows, plan.groups[start + at : start + min(at + 4096, len(listing.ids))]]).encode())
    return total.hexdigest()


def summary(plan: Plan, done: Block, inputs: str) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Return the columns of rows.parquet and what store.json says."""
    kept = [i for i in range(plan.n) if i not in done.refused] if done.refused else range(plan.n)
    ids, paths, names = plan.column("ids"), plan.column("paths"), plan.column("labels")
    source = [listing.name for listing in plan.listings for _ in listing.ids]
    digests = done.digests.hex()
    square = (plan.px, plan.px)
    columns: dict[str, list[Any]] = {
        "id": [ids[i] for i in kept],
        "label": [plan.classes.codes[names[i]] for i in kept],
        "group": [plan.groups[i] for i in kept],
        "source": [source[i] for i in kept],
        "path": [paths[i] for i in kept],
        "digest": [digests[at : at + 32] for at in range(0, len(digests), 32)],
        "width": [done.sizes.get(i, square)[0] for i in kept],
        "height": [done.sizes.get(i, square)[1] for i in kept],
        "note": [done.notes.get(i, "") for i in kept],
    }
    labels = Counter(columns["label"])
    negative, positive = plan.classes.names
    refused = [[source[i], paths[i], *why] for i, why in sorted(done.refused.items())]
    record = {
        "classes": [negative, positive],
        "positive": positive,
        "counts": {"negative": labels[0], "positive": labels[1], "unknown": labels[-1]},
        "merged_into_negative": plan.classes.merged,
        "sources": [source_record(listing) for listing in plan.listings],
        "groups": {
            "groups": len(set(columns["group"]) - {""}),
            "tiles_without": columns["group"].count(""),
            "ids_without_tile": plan.groups_unmatched,
        },
        "converted": dict(sorted(Counter(note for note in columns["note"] if note).items())),
        "quarantined": [list(entry) for listing in plan.listings for entry in listing.quarantined] + refused,
        "inputs": inputs,
        "settings": {"px": plan.settings.px, "positive": plan.settings.positive, "ids": plan.settings.ids},
        "decoder": "plain TIFF directly, all else by Pillow; digest: first 128 bits of SHA-256 of the RGB bytes",
    }
    return columns, record


def source_record(listing: Listing) -> dict[str, Any]:
    """Return what store.json says of one source."""
    unlabelled = listing.labels.count("") if listing.labelled else 0
    return {
        "name": listing.name,
        "kind": listing.kind,
        "listed": len(listing.ids),
        "labelled": listing.labelled,
        "images_without_label": unlabelled,
        "other_files": listing.ignored,
    }
