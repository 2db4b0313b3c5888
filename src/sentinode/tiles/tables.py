"""Tables that come with images: labels, manifests, groups. Comma-separated UTF-8 with a header."""

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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


@contextmanager
def table_problems(path: Path) -> Iterator[None]:
    """Turn what keeps a table from being read into an error in three parts."""
    try:
        yield
    except FileNotFoundError as error:
        raise SourceProblem(f"a table at {shown(path)}", "nothing", "check the path") from error
    except UnicodeDecodeError as error:
        raise SourceProblem(
            f"a table in {shown(path)} as UTF-8 text", "other bytes", "save it again as 'CSV UTF-8' (Excel has it in its list)"
        ) from error
    except OSError as error:
        raise SourceProblem(f"a table in {shown(path)}", str(error.strerror), "check its name and its permissions") from error
    except csv.Error as error:
        raise SourceProblem(f"a CSV table in {shown(path)}", shown(error), "save it again as CSV with commas") from error


def missing_columns(path: Path, needed: Sequence[str], header: Sequence[str]) -> SourceProblem:
    """Return the error for a header that lacks some of the `needed` columns; other separators than commas are recognised."""
    missing = " and ".join(shown(name) for name in needed if name not in header)
    found = ", ".join(shown(name, 40) for name in header[:20])
    separator = next((mark for mark in ";\t" if len(header) == 1 and mark in header[0]), None)
    if separator is not None:
        do = f"save it with commas between the columns; it has {'semicolons' if separator == ';' else 'tabs'}"
    else:
        do = f"write {missing} in the first line, over the column that holds it"
    return SourceProblem(
        f"columns {' and '.join(needed)} in {shown(path)}", f"columns {found}" if found else "an empty first line", do
    )


def read_columns(path: Path, needed: Sequence[str], optional: Sequence[str] = ()) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells of the `needed` then the `optional` columns) of each row; an absent optional one is "".

    Column names are compared without case and without spaces around them.

    Raises
    ------
    SourceProblem
        If the file cannot be read as UTF-8 CSV, lacks a needed column (those found are named), or has a row with too few cells.
    """
    with table_problems(path), path.open(encoding="utf-8-sig", newline="") as handle:
        reader = csv.reader(handle)
        header = [name.strip().lower() for name in next(reader, [])]
        if any(name not in header for name in needed):
            raise missing_columns(path, needed, header)
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


def columns_of(path: Path) -> list[str]:
    """Return the column names of a CSV, in lower case; [] if it is empty."""
    with table_problems(path), path.open(encoding="utf-8-sig", newline="") as handle:
        return [name.strip().lower() for name in next(csv.reader(handle), [])]


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
