"""Which two classes there are, and which of them is positive."""

from collections import Counter
from dataclasses import dataclass

from sentinode.errors import SourceProblem, UsageProblem, nearest, shown
from sentinode.tiles.listing import Listing

POSITIVE_NAMES = frozenset({"tumor", "tumour", "cancer", "malignant", "metastasis", "positive", "yes", "true"})
"""Class names that say of themselves that they are positive, in lower case."""


@dataclass(frozen=True)
class Classes:
    """Names of the negative and the positive class, the code of each name found, and what was merged into the negative one."""

    names: tuple[str, str]
    codes: dict[str, int]
    merged: dict[str, int]


def choose_classes(listings: list[Listing], positive: str | None) -> Classes:
    """Decide over all sources together, so that they agree.

    {0, 1} needs no help: 1 is positive. Two names of which exactly one is in `POSITIVE_NAMES` need none either. With `positive`
    given, every other class is negative.

    Raises
    ------
    UsageProblem
        If `positive` is not among the classes, or not what a store has.
    SourceProblem
        If more than two classes, or two that do not say which is positive, come without `positive`; if stores differ in it.
    """
    if any(listing.stored is not None and any(listing.stored.classes) for listing in listings):
        return classes_of_stores(listings, positive)
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for listing in listings:
        here = Counter(listing.labels)
        for name in here:
            if name and name not in first:
                first[name] = f"{listing.name}/{listing.place(listing.labels.index(name))}"
        counts.update(here)
    counts.pop("", None)
    known = sorted(counts)
    if positive is not None:
        return with_positive(positive, known, counts, any(listing.fixed for listing in listings))
    if not known:
        return Classes(("", ""), {"": -1}, {})
    if set(known) <= {"0", "1"}:
        return Classes(("0", "1"), {"": -1, "0": 0, "1": 1}, {})
    telling = [name for name in known if name.lower() in POSITIVE_NAMES]
    if len(known) <= 2 and len(telling) == 1:
        other = next((name for name in known if name != telling[0]), f"not {telling[0]}")
        return Classes((other, telling[0]), {"": -1, other: 0, telling[0]: 1}, {})
    listed = "; ".join(f"{shown(name, 40)} {counts[name]:,} (first {shown(first[name])})" for name in known[:20])
    raise SourceProblem(
        "two classes, 0 and 1, or two names of which one says that it is positive",
        f"{len(known)} class{'es' * (len(known) != 1)}: {listed}{' ...' * (len(known) > 20)}",
        "say which one is positive with --positive CLASS (all others are then negative), or empty the labels that are neither",
    )


def with_positive(positive: str, known: list[str], counts: Counter[str], fixed: bool) -> Classes:
    """Return the classes where the user has named the positive one."""
    choices = sorted({*known, "0", "1"}) if fixed else known
    if positive not in choices:
        advice = nearest(positive, choices) if choices else "leave --positive out: nothing is labelled"
        raise UsageProblem("--positive with the name of a class", shown(positive), advice)
    others = [name for name in choices if name != positive]
    negative = others[0] if len(others) == 1 else f"not {positive}"
    merged = {name: counts[name] for name in others} if len(others) > 1 else {}
    return Classes((negative, positive), {"": -1, **dict.fromkeys(others, 0), positive: 1}, merged)


def classes_of_stores(listings: list[Listing], positive: str | None) -> Classes:
    """Return the classes where some listings come from stores with labels: those know which one is positive."""
    first: dict[str, Listing] = {}
    negatives: dict[str, None] = {}
    for listing in listings:
        if listing.stored is not None and any(listing.stored.classes):
            first.setdefault(listing.stored.classes[1], listing)
            negatives[listing.stored.classes[0]] = None
    if len(first) > 1:
        found = " and ".join(f"{shown(name, 40)} in {shown(listing.origin())}" for name, listing in list(first.items())[:2])
        raise SourceProblem("one positive class in all stores", found, "pack them again with classes of the same names")
    told = next(iter(first))
    if positive not in {None, told}:
        found = f"{shown(positive)}, and {shown(told, 40)} in {shown(first[told].origin())}"
        raise UsageProblem("the positive class that the stores have", found, "leave --positive out")
    merged = merged_before(listings)
    labels = Counter(name for listing in listings for name in listing.labels if name not in {"", told})
    others = sorted(labels) or list(negatives)[:1]
    codes = {"": -1, **dict.fromkeys(others, 0), told: 1}
    if len(others) == 1:
        return Classes((others[0], told), codes, dict(merged))
    if positive is None:
        found = ", ".join(f"{shown(name, 40)} {labels[name]:,}" for name in others[:20])
        do = f"give them one name, or say with --positive {shown(told, 40)} that all of them are negative"
        raise SourceProblem(f"one class beside {shown(told, 40)}, which is positive in the stores", found, do)
    many = {listing.stored.classes[0] for listing in listings if listing.stored is not None and listing.stored.merged}
    for name in others:
        if name not in many:
            merged[name] += labels[name]
    return Classes((f"not {told}", told), codes, dict(sorted(merged.items())))


def merged_before(listings: list[Listing]) -> Counter[str]:
    """Return how many tiles of each class had been merged into the negative one when the stores among the sources were packed."""
    total: Counter[str] = Counter()
    for listing in listings:
        total.update(listing.stored.merged if listing.stored is not None else {})
    return total
