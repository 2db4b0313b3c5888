"""Write docs/reference.md, the command line's reference, from the command line itself: `python -m docs.reference [--check]`."""

import io
import sys
from pathlib import Path

from rich.console import Console

from sentinode.cli import app

PAGE = Path(__file__).with_name("reference.md")
"""The page that is written."""
HEAD = "# Command reference\n\nGenerated from the command line by `python -m docs.reference`; CI checks that it is fresh.\n"


def help_of(words: list[str]) -> str:
    """Return the help of a command as plain text, 100 columns wide."""
    out = io.StringIO()
    app.help_print(words, console=Console(file=out, width=100, force_terminal=False, color_system=None))
    return "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())


def reference() -> str:
    """Return the whole page."""
    verbs = sorted(name for name in app if not name.startswith("-"))
    parts = [f"\n## sentinode {verb}\n\n```text\n{help_of([verb])}\n```\n" for verb in verbs]
    return HEAD + f"\n```text\n{help_of([])}\n```\n" + "".join(parts)


def main() -> None:
    """Write the page, or with --check exit with 1 if it is stale."""
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(reference(), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != reference():
        sys.exit("docs/reference.md is stale; run: python -m docs.reference")


if __name__ == "__main__":
    main()
