"""A grid: settings and the values each is tried with, typed or in Python, as a list of trials."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from sentinode.errors import UsageProblem, nearest, shown
from sentinode.settings import TrainSettings, fits

Grid = dict[str, list[Any]]
"""Values by the name of the setting, both in the order given."""
CHOOSERS = ("seed", "split", "valid_share")
"""Settings that decide which tiles choose: trials that differ in them are chosen by different tiles and cannot be compared."""
WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
"""How truth is typed."""


def read_grid(grid: Mapping[str, Sequence[Any]] | Iterable[str]) -> Grid:
    """Return a grid from `{"lr": [1e-3, 1e-4]}` or from `["lr=1e-3,1e-4"]`.

    Raises
    ------
    UsageProblem
        For a setting that does not exist, a value that its type does not allow, one that comes twice, or no value.
    """
    if isinstance(grid, Mapping):
        pairs = [(name, list(values)) for name, values in grid.items()]
    else:
        pairs = [split_typed(word) for word in ([grid] if isinstance(grid, str) else grid)]
    kinds = get_type_hints(TrainSettings)
    made: Grid = {}
    for name, values in pairs:
        if name not in kinds:
            raise UsageProblem("a setting to search over", shown(name), nearest(name, list(kinds)))
        if name in made:
            raise UsageProblem(f"the values of {name} in one place", "a second list of them", f"write --grid {name}=VALUE,VALUE")
        made[name] = [valued(name, value, kinds[name]) for value in values]
        if not made[name] or len({repr(value) for value in made[name]}) < len(made[name]):
            found = "no value" if not made[name] else f"a value twice in {shown(values)}"
            raise UsageProblem(f"different values for {name}", found, f"write --grid {name}=VALUE,VALUE")
    return made


def split_typed(word: str) -> tuple[str, list[Any]]:
    """Return name and values of `name=value,value`."""
    name, equals, values = word.partition("=")
    if not equals:
        raise UsageProblem("a setting and its values", shown(word), "write --grid lr=1e-3,1e-4")
    return name.strip().replace("-", "_"), [value.strip() for value in values.split(",") if value.strip()]


def valued(name: str, value: Any, kind: Any) -> Any:
    """Return `value` as the setting's type; text is read as that type."""
    read = read_as(value, kind) if isinstance(value, str) else [value] if fits(value, kind) else []
    if not read:
        wanted = " or ".join(map(str, get_args(kind))) or getattr(kind, "__name__", str(kind))
        raise UsageProblem(f"{wanted} for {name}", shown(value), f"change --grid {name}")
    return read[0]


def read_as(text: str, kind: Any) -> list[Any]:
    """Return what `text` can mean as `kind`, the likeliest first."""
    if get_origin(kind) is Literal:
        return [choice for choice in get_args(kind) if str(choice) == text]
    if get_origin(kind) in {Union, UnionType}:
        parts = sorted(get_args(kind), key=lambda part: part is str)
        return [value for part in parts for value in read_as(text, part)]
    if kind is type(None):
        return [None] if text.lower() == "none" else []
    if kind is bool:
        return [WORDS[text.lower()]] if text.lower() in WORDS else []
    try:
        return [kind(text)]
    except ValueError:
        return []


def cells(grid: Grid) -> list[dict[str, Any]]:
    """Return every combination, the last setting turning fastest."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def check_comparable(grid: Grid, *, own_valid: bool) -> None:
    """Refuse a grid whose trials would be chosen by different tiles; with a store of its own for choosing there is none."""
    wrong = [name for name in CHOOSERS if name in grid and not own_valid]
    if wrong:
        raise UsageProblem(
            "trials that the same tiles choose among",
            f"a grid over {wrong[0]}, which draws the validation part anew",
            "give a store that chooses with --valid, or leave it out of the grid",
        )
