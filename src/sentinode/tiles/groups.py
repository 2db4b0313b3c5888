"""Slides and patients: a table that gives each id its group, joined by id and never by position."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from sentinode.errors import SourceProblem, shown
from sentinode.tiles.tables import columns_of, read_columns, without_extension

GROUP_COLUMNS = ("group", "slide", "wsi", "patient")
"""Names a column of groups may have; with two columns in all, any name will do."""


@dataclass(frozen=True)
class GroupJoin:
    """Groups for a list of ids ("" where unknown), and how many ids of the table met no tile."""

    groups: list[str]
    unmatched: int


def group_column(path: Path, called: tuple[str, ...] = GROUP_COLUMNS) -> str:
    """Return the name of the column that holds the groups, one of `called` or the only one beside id."""
    columns = columns_of(path)
    known = [name for name in called if name in columns]
    others = [name for name in columns if name != "id"]
    if len(known) == 1:
        return known[0]
    if not known and len(others) == 1:
        return others[0]
    raise SourceProblem(
        f"columns id and one of {', '.join(called)} in {shown(path)}",
        f"columns {', '.join(shown(name, 40) for name in columns[:20]) or 'none'}",
        f"name the column that is meant {called[0]!r}, and no other so",
    )


def read_groups(path: Path, called: tuple[str, ...] = GROUP_COLUMNS) -> dict[str, str]:
    """Return the group of each id; raises SourceProblem if one id has two different groups."""
    column = group_column(path, called)
    found: dict[str, str] = {}
    for line, (name, cell) in read_columns(path, ("id", column)):
        key, group = without_extension(name), cell.strip()
        if found.setdefault(key, group) != group:
            raise SourceProblem(
                f"one {column} for each id in {shown(path)}",
                f"{shown(key)} in {shown(found[key])} and, in line {line}, in {shown(group)}",
                "remove one of the two lines",
            )
    return found


def join_groups(ids: list[str], path: Path, called: tuple[str, ...] = GROUP_COLUMNS) -> GroupJoin:
    """Give each id its group from the table at `path`; an id that it lacks gets "".

    Parameters
    ----------
    ids
        Ids of the tiles, in order, unique.
    path
        A CSV with columns id (with or without an image's extension) and one of `called`.
    called
        Names that the column of groups may have.

    Raises
    ------
    SourceProblem
        If the table cannot be read, lacks a column, gives one id two groups, or knows none of the ids.
    """
    table = read_groups(path, called)
    keys = [without_extension(name) for name in ids]
    groups = [table.get(key, "") for key in keys]
    met = set(keys)
    unmatched = sum(1 for key in table if key not in met)
    if table and unmatched == len(table):
        raise SourceProblem(
            f"ids of the tiles in {shown(path)}, as {shown(ids[0])}",
            f"{len(table):,} in the table and none of a tile, the first {shown(next(iter(table)))}",
            "write the tiles' file names, with or without extension, into the column id",
        )
    return GroupJoin(groups, unmatched)


def group_counts(groups: list[str]) -> Counter[str]:
    """Return how many tiles each known group has."""
    counts = Counter(groups)
    counts.pop("", None)
    return counts
