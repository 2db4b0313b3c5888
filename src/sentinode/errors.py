"""Every error Sentinode raises on purpose, as one tree.

    SentinodeError
    |- UsageProblem          exit 2    a command, an option or a setting that does not exist or does not fit
    |- DataProblem           exit 3    what was read is not what was promised
    |  |- SourceProblem                images, label tables, HDF5 files
    |  |- StoreProblem                 a packed store
    |  |- SplitProblem                 who trains, who chooses, who judges
    |  |- ScoresProblem                a table of predictions
    |  `- RunProblem                   a run folder, its model or its checkpoint
    |- UndefinedScore        exit 4    a figure that cannot be given
    `- MachineProblem        exit 5    disk, memory, device, a missing package

A message has three parts: what was expected, what was found, what to do.
"""

import re
from difflib import get_close_matches

EXIT_INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells give it (128 + SIGINT)."""
MOST_NAMED = 60
"""Known names that one line can list: all settings, but not the thousand and more networks of timm's."""


class SentinodeError(Exception):
    """Base of the tree; carries the three parts.

    Parameters
    ----------
    expected
        What should have been there.
    found
        What was there instead: value, file, row. Text from data goes through `shown` first.
    do
        What the reader can do next.
    """

    exit_code = 1

    def __init__(self, expected: str, found: str, do: str) -> None:
        self.expected, self.found, self.do = expected, found, do
        super().__init__(f"expected {expected}; found {found}; {do}")


class UsageProblem(SentinodeError):
    """A command, option or setting that does not exist or does not fit."""

    exit_code = 2


class DataProblem(SentinodeError):
    """What was read is not what was promised."""

    exit_code = 3


class SourceProblem(DataProblem):
    """Images, label tables or HDF5 files."""


class StoreProblem(DataProblem):
    """A packed store."""


class SplitProblem(DataProblem):
    """Who trains, who chooses, who judges."""


class ScoresProblem(DataProblem):
    """A table of predictions."""


class RunProblem(DataProblem):
    """A run folder, its model or its checkpoint."""


class UndefinedScore(SentinodeError):
    """A figure that cannot be given."""

    exit_code = 4


class MachineProblem(SentinodeError):
    """Disk, memory, device, or a package that is missing."""

    exit_code = 5


def shown(value: object, limit: int = 120) -> str:
    """Return text from data in a form that is safe to print: no control characters, bounded, in quotes.

    Terminal escapes, line breaks and bidirectional overrides come out as visible escapes; other letters stay as they are.
    """
    text = str(value)
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in text[:limit])
    return f"'{safe}{'…' if len(text) > limit else ''}'"


def not_installed(error: ImportError) -> str:
    """Return what could not be imported, in words: Python's own put a name in quotes inside quotes."""
    return f"no package {shown(error.name)}" if isinstance(error, ModuleNotFoundError) and error.name else shown(error)


def masked(text: str) -> str:
    """Return `text` with `***` for the passwords of URLs in it: between the user's name and the last @, and in the query."""
    return re.sub(r"([?&]\w*(?:password|passwd|pwd|token)=)[^&\s]*", r"\1***", re.sub(r"(://[^:/?@\s]*:)\S*@", r"\1***@", text))


def nearest(name: str, known: list[str]) -> str:
    """Return the sentence that answers an unknown name with the nearest known ones; where none is near, with all, or their number."""
    close = get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    if len(known) > MOST_NAMED:
        return f"none of the {len(known):,} known names is like it"
    return f"known are {', '.join(sorted(known))}"
