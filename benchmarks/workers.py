"""Variants that must not help or hinder each other live in processes of their own and work when told to. Standard library only.

The parent sends a line, the child does its work once and answers with a line of JSON; so A B A B is kept across processes, while
each has its own allocator settings, threads and packages.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[1]
"""The repository: children import `benchmarks` and `sentinode` from it."""
MARK = "@@"
"""How a child's answers begin, whatever else its libraries print."""


class Worker:
    """A child process that serves one variant; `first` is what it said when it was ready."""

    def __init__(self, module: str, *arguments: str, python: str = sys.executable) -> None:
        path = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        self.process = subprocess.Popen(
            [python, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=os.environ | {"PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "2"},
        )
        self.name = " ".join([module, *arguments])
        self.first = self._answer()

    def __call__(self) -> dict[str, Any]:
        """Let the child work once; return what it measured."""
        if self.process.stdin is None:
            raise RuntimeError("the child has no standard input")
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        if self.process.stdout is None:
            raise RuntimeError("the child has no standard output")
        for line in self.process.stdout:
            if line.startswith(MARK):
                answer: dict[str, Any] = json.loads(line.removeprefix(MARK))
                return answer
        raise RuntimeError(f"{self.name} ended with {self.process.wait()} before it answered")

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def serve(work: Callable[[], dict[str, Any]], **first: Any) -> None:
    """Be a child: say ready (with `first`), then work once a line until the parent closes."""
    print(MARK + json.dumps(first), flush=True)
    for _ in sys.stdin:
        print(MARK + json.dumps(work()), flush=True)


def once(module: str, *arguments: str, python: str = sys.executable) -> dict[str, Any]:
    """Run a child that works once and ends; return what it measured."""
    with Worker(module, *arguments, python=python) as worker:
        return worker()
