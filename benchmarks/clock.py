"""How time is taken: peers in turn (A B A B), every raw value kept, medians and ranges of paired ratios."""

import statistics
from collections.abc import Callable, Mapping
from typing import Any

Measured = dict[str, Any]
"""One repeat of one variant: `seconds` and `n` (tiles), and whatever else the suite wants kept."""


def in_turn(variants: Mapping[str, Callable[[], Measured]], repeats: int) -> dict[str, list[Measured]]:
    """Run each variant once, in order, then all again, `repeats` times; say each result as it comes."""
    raw: dict[str, list[Measured]] = {name: [] for name in variants}
    for repeat in range(repeats):
        for name, run in variants.items():
            result = run()
            raw[name].append(result)
            print(f"  {repeat + 1}/{repeats} {name}: {result['seconds']:.3f} s, {rate(result):,.0f} tiles/s", flush=True)
    return raw


def rate(measured: Measured) -> float:
    """Return tiles per second."""
    return float(measured["n"] / measured["seconds"])


def spread(values: list[float]) -> dict[str, float]:
    """Return median, low and high of `values`."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def ratio(raw: Mapping[str, list[Measured]], ours: str, peer: str) -> dict[str, float]:
    """Return how many times faster `ours` is than `peer`: median and range over the repeats, each paired with its neighbour."""
    return spread([rate(a) / rate(b) for a, b in zip(raw[ours], raw[peer], strict=True)])
