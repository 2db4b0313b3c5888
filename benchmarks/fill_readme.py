"""Fill a page's numbers from the newest records: `python -m benchmarks.fill_readme [PAGE...] [--check]`.

A place is `<!-- record:SUITE.FIGURE -->text<!-- /record -->` for one figure, `<!-- record:SUITE -->` on lines of its own for the
suite's tables. With `--check` nothing is written, and the exit code is 1 where a page differs from its records.
"""

import argparse
import re
import sys
from pathlib import Path

from benchmarks.records import RECORDS, latest, table
from sentinode.errors import DataProblem, SentinodeError, nearest, shown
from sentinode.run import write_bytes

PLACE = re.compile(r"<!-- record:([^ ]+) -->(.*?)<!-- /record -->", re.DOTALL)
"""One place: the name, and what stands there now."""
MARK = "<!-- record:"
"""How a place begins; one that `PLACE` does not match has lost its end."""


def filled(text: str, root: Path = RECORDS) -> str:
    """Return `text` with every place filled; DataProblem for an unknown record or figure, or a place without an end."""

    def fill(place: re.Match[str]) -> str:
        name, old = place.groups()
        if MARK in old:
            raise DataProblem(f"<!-- /record --> after record:{name}", "the next place", "close the place")
        return f"<!-- record:{name} -->{value(name, root)}<!-- /record -->"

    if len(PLACE.findall(text)) != text.count(MARK):
        raise DataProblem("<!-- /record --> after every <!-- record:NAME -->", "one without its end", "close the place")
    return PLACE.sub(fill, text)


def value(name: str, root: Path = RECORDS) -> str:
    """Return the text of `SUITE.FIGURE`, or the tables of `SUITE` between line breaks."""
    suite, _, wanted = name.partition(".")
    record = latest(suite, root)
    if not wanted:
        return f"\n\n{table(record)}\n\n"
    if wanted not in record.figures:
        raise DataProblem(f"a figure of suite {suite}", shown(wanted), nearest(wanted, list(record.figures)))
    return record.figures[wanted].text


def main() -> int:
    """Fill or check the pages; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, default=[Path("README.md")])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a page differs from its records")
    parser.add_argument("--records", type=Path, default=RECORDS)
    options = parser.parse_args()
    stale = 0
    for path in options.pages:
        old = path.read_text(encoding="utf-8")
        new = filled(old, options.records)
        stale += new != old
        if new != old and not options.check:
            write_bytes(path, new.encode())
        if new != old:
            print(f"{path}: {'differs from its records; run python -m benchmarks.fill_readme' if options.check else 'filled'}")
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SentinodeError as error:
        sys.exit(str(error))
