"""A fault at a chosen moment of a command: the process is killed or asked to end, or the system refuses to write or read."""

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

FUNCTIONS = {
    "step": "sentinode.fit.loop.take_step",
    "block of tiles": "sentinode.tiles.store.write_all",
    "block of features": "sentinode.fit.grown.write_all",
    "batch": "sentinode.fit.feed.Feed.gather",
}
"""Moments that are calls of a function; every other is the writing of the file of that name."""


@dataclass(frozen=True)
class Fault:
    """`kind`: "kill -9", "SIGTERM", "full disk" or "I/O error"; `at`: a moment; `nth`: the how many-th time it comes, from 1."""

    kind: str
    at: str
    nth: int = 1

    def strike(self) -> None:
        """Let it happen."""
        if self.kind in {"kill -9", "SIGTERM"}:
            os.kill(os.getpid(), signal.SIGKILL if self.kind == "kill -9" else signal.SIGTERM)
            return
        number = errno.ENOSPC if self.kind == "full disk" else errno.EIO
        raise OSError(number, os.strerror(number))


@contextmanager
def struck(fault: Fault) -> Iterator[list[int]]:
    """Let `fault` happen in this process; yields a list that holds how often its moment has come so far."""
    count = [0]

    def come() -> bool:
        count[0] += 1
        return count[0] == fault.nth

    def called(true: Callable[..., Any]) -> Callable[..., Any]:
        def call(*of: Any, **how: Any) -> Any:
            if come():
                fault.strike()
            return true(*of, **how)

        return call

    def replace(temporary: Path, target: Path) -> Path:
        if target.name == fault.at and come():
            if fault.kind != "SIGTERM":  # after which it may go on
                os.truncate(temporary, temporary.stat().st_size // 2)
            fault.strike()
        return true_replace(temporary, target)

    true_replace = Path.replace
    with ExitStack() as stack:
        if fault.at in FUNCTIONS:
            where, name = FUNCTIONS[fault.at].rsplit(".", 1)
            owner = imported(where)
            stack.enter_context(patch.object(owner, name, called(getattr(owner, name))))
        else:
            stack.enter_context(patch.object(Path, "replace", replace))
        yield count


def imported(name: str) -> Any:
    """Return the module or class of that name."""
    from pkgutil import resolve_name

    return resolve_name(name)
