"""What every suite shares on its command line, and how it ends: tables on the screen, a record on disk."""

import argparse
from collections.abc import Callable
from pathlib import Path

from benchmarks.records import RECORDS, Record, page, write_record

QUICK_TURNS = 3
"""Turns of every variant in a quick run."""


def parser(doc: str, repeats: int, *, tiles: bool = True) -> argparse.ArgumentParser:
    """Return the parser of a suite whose module docstring is `doc`; `tiles`: it reads real ones."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--tiles", type=Path, required=tiles, metavar="DIR", help="folder with kaggle/, pcam/train/, pcam/valid/")
    made.add_argument("--repeats", type=int, default=repeats, help=f"turns of every variant, at least 5 for a record ({repeats})")
    made.add_argument("--quick", action="store_true", help="a short run on few tiles: kept only where --records is given")
    made.add_argument("--records", type=Path, default=RECORDS, help="where the record goes")
    return made


def turns(options: argparse.Namespace) -> int:
    """Return how often every variant takes its turn: no more than three times in a quick run."""
    return min(int(options.repeats), QUICK_TURNS) if options.quick else int(options.repeats)


def clock_of(doc: str) -> str:
    """Return the paragraph of a suite's module docstring that says what is inside its clock, as one line."""
    return " ".join(doc.split("\n\n")[1].split()).removeprefix("Inside the clock is ")


def finish(record: Record, options: argparse.Namespace, draw: Callable[[Record, Path], object] | None = None) -> None:
    """Print the record's page; keep the record, but that of a quick run only in a folder of its own, with what `draw` draws beside."""
    print("\n" + page(record))
    if options.quick and options.records == RECORDS:
        print("a quick run: no record is written")
        return
    folder = write_record(record, options.records)
    if draw is not None:
        draw(record, folder)
    print(f"record: {folder}")
