"""Which runs are of one recipe: the same settings on the same tiles, another seed or fold."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentinode.errors import RunProblem, shown
from sentinode.run import read_json
from sentinode.tiles.holdout import kind_of

FREE = ("seed", "fold", "features", "threads", "device", "resident", "compile", "memory_format", "checkpoint_s")
"""Settings in which runs of one recipe may differ: the luck of training, and where and how fast it ran."""


@dataclass(frozen=True)
class Made:
    """How a run was made: its seed, the fold it was not shown ("" where it has none), and all else that decides it."""

    seed: int
    fold: str
    recipe: dict[str, Any]


def made_of(run: Path) -> Made | None:
    """Read how a run was made from its run.json; None where it has none, as a model that came without its record.

    Raises
    ------
    RunProblem
        If the record holds no settings, or its seed is no whole number.
    """
    path = run / "run.json"
    if not path.is_file():
        return None
    record = read_json(path)
    settings, data = record.get("settings"), record.get("data", {})
    if not isinstance(settings, dict) or not isinstance(data, dict):
        raise RunProblem(f"settings and data in {shown(path)}", "something else", "train the run again")
    seed, fold = settings.get("seed", 0), str(settings.get("fold", ""))
    if not isinstance(seed, int):
        raise RunProblem(f"a whole number as seed in {shown(path)}", shown(seed), "train the run again")
    recipe = {name: value for name, value in settings.items() if name not in FREE}
    return Made(seed, fold, recipe | {"folds": kind_of(fold), "store": data.get("train", {}).get("store")})


def recipes_of(made: Sequence[Made | None]) -> list[list[int]]:
    """Return positions grouped by recipe, in the order of their first; what is not known to be one of a recipe stands alone.

    So does a run whose seed and fold another of its recipe has: the two are one training, or their tiles differ.
    """
    groups: list[list[int]] = []
    for at, one in enumerate(made):
        for group in groups:
            others = [made[other] for other in group]
            if one is not None and all(other is not None and is_sibling(one, other) for other in others):
                group.append(at)
                break
        else:
            groups.append([at])
    return groups


def is_sibling(one: Made, other: Made) -> bool:
    """Return whether two runs are of one recipe and differ in seed or fold."""
    return one.recipe == other.recipe and (one.seed, one.fold) != (other.seed, other.fold)
