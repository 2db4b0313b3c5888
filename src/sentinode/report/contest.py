"""The page of a comparison: who is told apart, who is not, and what that rests on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sentinode.report.card import USE
from sentinode.report.html import embedded, rendered
from sentinode.run import write_bytes

Values = dict[str, Any]
"""What comparison.json holds."""


def verdict(values: Values) -> str:
    """Say in a sentence who is behind the best and who is not told apart from it."""
    names = list(values["contestants"])
    best = values["contestants"][names[0]]
    tied = [name for name in names[1:] if set(values["contestants"][name]["rank"]) & set(best["rank"])]
    behind = len(names) - 1 - len(tied)
    if not tied:
        others = {1: "the other", 2: "both others"}.get(behind, f"all {behind} others")
        return f"It is told apart from {others}."
    told = f"Not told apart from it: {', '.join(tied)}."
    return told if not behind else f"{told} Behind it: {behind}."


def page_text(values: Values, spreads: Mapping[str, Sequence[str]], plans: Sequence[str], picture: bytes) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    values
        What comparison.json holds.
    spreads
        By name, the table of seeds and folds of each contestant that is a recipe, as lines.
    plans
        What it takes to tell apart the pairs that are not, as sentences.
    picture
        The comparison as SVG.
    """
    contestants = list(values["contestants"].items())
    protocols = {one["protocol"] for _, one in contestants if one["kind"] != "floor"}
    return rendered(
        "comparison.html",
        values,
        contestants=contestants,
        best=contestants[0],
        protocol=protocols.pop() if len(protocols) == 1 else "",
        verdict=verdict(values),
        spreads=list(spreads.items()),
        plans=list(plans),
        picture=embedded(picture),
        use=USE,
    )


def write_page(path: Path, values: Values, spreads: Mapping[str, Sequence[str]], plans: Sequence[str], picture: bytes) -> None:
    """Write `page_text` whole or not at all."""
    write_bytes(path, page_text(values, spreads, plans, picture).encode())
