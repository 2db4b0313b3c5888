"""A process that has imported everything and runs each command it reads in a child of its own, which may be killed.

Forking takes milliseconds where a new interpreter takes seconds to import torch; nothing has run here before, so no thread is lost.
"""

import json
import os
import signal
import sys
import warnings
from pathlib import Path

import matplotlib.figure
import optuna
import pyarrow.parquet
import sklearn.linear_model
import torch

import sentinode.cli
import sentinode.fit.frozen
import sentinode.flows.evaluate
import sentinode.flows.tune
import sentinode.report.page
from sentinode.nets import engine
from sentinode.nets.backbone import timm_module
from tests.faults.hooks import Fault, struck

LOADED = (matplotlib, optuna, pyarrow, sklearn, torch, sentinode, timm_module())


def child(asked: dict[str, object]) -> None:
    """Run one command under its fault and end."""
    os.chdir(str(asked["folder"]))
    with Path("said.txt").open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 2)
        os.dup2(file.fileno(), 1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    code = 99
    try:
        with struck(Fault(*asked["fault"])):  # type: ignore[misc]
            sentinode.cli.main(asked["words"])  # type: ignore[arg-type]
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stderr.flush()
        os._exit(code)


def answer(text: str) -> None:
    """Write a line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def serve() -> None:
    """Read a line of JSON, answer with a line that holds the child's exit code, or minus the signal that ended it."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    engine.SHARE = 0.0  # as in the tests: which form of a network is the fastest is the moment's matter
    answer("ready")
    for line in sys.stdin:
        number = os.fork()
        if not number:
            child(json.loads(line))
        _, status = os.waitpid(number, 0)
        answer(str(os.waitstatus_to_exitcode(status)))


if __name__ == "__main__":
    serve()
