"""How long jobs speak: a bar on a terminal, a line now and then elsewhere, nothing when quiet. Always on standard error.

Output is bounded by construction: off a terminal at most `FREE_LINES` lines come as they are said, later ones at most one
every `SPARSE_S` seconds, so that ten hours of training in a notebook stay under 100 KB.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

FREE_LINES = 100
"""Lines printed without thinning."""
SPARSE_S = 120.0
"""After that, seconds between lines."""
WIDEST = 240
"""Characters of a line; ten hours are then at most 400 lines, 96 KB."""
TRACK_S = 10.0
"""Off a terminal, seconds between two lines of one tracked job."""


class Tick(Protocol):
    """What `Progress.track` hands out: call it with the number of items just finished."""

    def __call__(self, done: int, /) -> None:
        """Count `done` further items."""


class Progress:
    """The voice of one command; `quiet` silences it."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self._lines = 0
        self._last = float("-inf")

    @property
    def on_terminal(self) -> bool:
        """Whether bars can be drawn."""
        return not self.quiet and sys.stderr is not None and sys.stderr.isatty()

    def say(self, line: str, *, always: bool = False) -> None:
        """Print one line, cut at WIDEST characters; thinned off a terminal unless `always`."""
        now = time.monotonic()
        if self.quiet or sys.stderr is None:  # a program without a console has nobody to speak to
            return
        if not always and not self.on_terminal and self._lines >= FREE_LINES and now - self._last < SPARSE_S:
            return
        self._lines += 1
        self._last = now
        print(line[:WIDEST], file=sys.stderr, flush=True)

    @contextmanager
    def track(self, what: str, total: int, unit: str = "tiles", *, lines: bool = True) -> Iterator[Tick]:
        """Follow a job of `total` items: a bar with time left on a terminal; elsewhere spaced lines, or none without `lines`."""
        if self.on_terminal:
            with self._bar(what, total, unit) as tick:
                yield tick
            return
        if not lines:
            yield lambda _count, /: None
            return
        start = said = time.monotonic()
        done = 0

        def tick_line(count: int, /) -> None:
            nonlocal said, done
            done += count
            now = time.monotonic()
            if done and now - said >= TRACK_S:
                said = now
                rate = done / (now - start)
                self.say(f"{what}: {done:,} of {total:,} {unit}, {rate:,.0f}/s, {max(total - done, 0) / rate:,.0f} s left")

        yield tick_line

    @contextmanager
    def _bar(self, what: str, total: int, unit: str) -> Iterator[Tick]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        # markup=False: a name in brackets is a name, not a style
        words = (TextColumn("{task.description}", markup=False), TextColumn(unit, markup=False))
        columns = (words[0], BarColumn(), MofNCompleteColumn(), words[1], TimeRemainingColumn())
        with RichProgress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda count, /: bar.advance(task, count)
