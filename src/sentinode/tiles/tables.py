"""Tables that come with images: labels, manifests, groups. Comma-separated UTF-8 with a header."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from sentinode.errors import SourceProblem, shown

IMAGE_EXTENSIONS = frozenset({".tif", ".tiff", ".png", ".jpg", ".jpeg"})
"""What the three formats are called on disk, in lower case."""


def without_extension(name: str) -> str:
    """Return `name` without an image's extension; other dots stay, so that `slide1.2` is a whole name."""
    stem, dot, extension = name.rpartition(".")
    return stem if stem and dot + extension.lower() in IMAGE_EXTENSIONS else name


def as_label(cell: str) -> str:
    """Return a label without spaces around it; `1.0`, as a table with gaps is often written, is `1`."""
    label = cell.strip()
    return label[0] if label in {"0.0", "1.0"} else label


def read_columns(path: Path, needed: Sequence[str], optional: Sequence[str] = ()) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells of the `needed` then the `optional` columns) of each row; an absent optional one is "".

    Column names are compared without case and without spaces around them.

    Raises
    ------
    SourceProblem
        If the file cannot be read as UTF-8 CSV, lacks a needed column (those found are named), or has a row with too few cells.
    """
    wanted = " and ".join(needed)
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.reader(handle)
            header = [name.strip().lower() for name in next(reader, [])]
            missing = [name for name in needed if name not in header]
            if missing:
                found = ", ".join(shown(name, 40) for name in header[:20]) or "an empty file"
                raise SourceProblem(
                    f"columns {wanted} in {shown(path)}",
                    f"columns {found}",
                    f"name the column{'s' * (len(missing) > 1)} {' and '.join(missing)}",
                )
            places = [header.index(name) if name in header else -1 for name in (*needed, *optional)]
            last = max(places)
            for cells in reader:
                if len(cells) <= last:
                    if not cells:
                        continue
                    raise SourceProblem(
                        f"{len(header)} cells a row in {shown(path)}", f"{len(cells)} in line {reader.line_num}", "mend that line"
                    )
                yield reader.line_num, [cells[place] if place >= 0 else "" for place in places]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceProblem(
            f"a table in {shown(path)} (CSV, UTF-8)",
            f"{type(error).__name__}: {shown(error)}",
            "name another file, or save it as UTF-8 CSV",
        ) from error


def columns_of(path: Path) -> list[str]:
    """Return the column names of a CSV, in lower case; [] if it is empty."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            return [name.strip().lower() for name in next(csv.reader(handle), [])]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceProblem(
            f"a table in {shown(path)} (CSV, UTF-8)",
            f"{type(error).__name__}: {shown(error)}",
            "name another file, or save it as UTF-8 CSV",
        ) from error


def read_labels(path: Path) -> dict[str, str]:
    """Return the label of each id in a CSV with columns id and label; ids lose an image's extension.

    Raises SourceProblem if an id stands twice, naming both lines.
    """
    labels: dict[str, str] = {}
    for line, (name, label) in read_columns(path, ("id", "label")):
        key = without_extension(name)
        if key in labels:
            first = next(row for row, (other, _) in read_columns(path, ("id", "label")) if without_extension(other) == key)
            raise SourceProblem(
                f"each id once in {shown(path)}",
                f"{shown(key)} in line {first} and in line {line}",
                "remove one of the two lines",
            )
        labels[key] = as_label(label)
    return labels
