"""What every suite shares on its command line, and how it ends: tables on the screen, a record on disk."""

import argparse
from pathlib import Path

from benchmarks.records import RECORDS, Record, page, write_record


def parser(doc: str, repeats: int, *, tiles: bool = True) -> argparse.ArgumentParser:
    """Return the parser of a suite whose module docstring is `doc`; `tiles`: it reads real ones."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--tiles", type=Path, required=tiles, metavar="DIR", help="folder with kaggle/, pcam/train/, pcam/valid/")
    made.add_argument("--repeats", type=int, default=repeats, help=f"turns of every variant, at least 5 for a record ({repeats})")
    made.add_argument("--quick", action="store_true", help="a smoke run on few tiles: no record is written")
    made.add_argument("--records", type=Path, default=RECORDS, help="where the record goes")
    return made


def clock_of(doc: str) -> str:
    """Return the paragraph of a suite's module docstring that says what is inside its clock, as one line."""
    return " ".join(doc.split("\n\n")[1].split()).removeprefix("Inside the clock is ")


def finish(record: Record, options: argparse.Namespace) -> None:
    """Print the record's page; keep the record unless the run was a quick one."""
    print("\n" + page(record))
    if options.quick:
        print("a quick run: no record is written")
    else:
        print(f"record: {write_record(record, options.records)}")
