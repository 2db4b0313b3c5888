"""The command `train`: `fit/train.py`, and the picture of a run that had a deadline."""

from pathlib import Path
from typing import Any

import pandas as pd

from sentinode.fit.train import train as fitted
from sentinode.machine.ranks import started
from sentinode.nets.trained import Run
from sentinode.settings import TrainSettings
from sentinode.tiles.store import Store

PICTURE = "auroc_so_far.svg"
"""Beside history.csv, from which it is drawn."""


def train(
    store: str | Path | Store,
    *,
    out: str | Path,
    valid: str | Path | None = None,
    settings: TrainSettings | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    **options: Any,
) -> Run:
    """Train a network on a packed store and write it, with its record, as a run folder.

    Parameters
    ----------
    store
        A store with labels; tiles whose label is unknown are left out.
    out
        The run folder to write.
    valid
        A store that chooses (epoch, threshold); without it a part of `store` is split off, by slide where all are known.
    settings, options
        A `TrainSettings`, and single settings by name over it. With `minutes` what is left open of network, input size and sample
        is chosen by measured rates, and the folder also holds auroc_so_far.svg.
    resume
        Go on with an unfinished run of the same settings and tiles; a finished one is opened.
    overwrite
        Replace a run of that name.
    quiet
        Say nothing.

    Returns
    -------
    Run
        The best network by validation AUROC, with its record; of several processes that torchrun started, in each.

    Raises
    ------
    UsageProblem, StoreProblem, SplitProblem, RunProblem, MachineProblem
        For settings, tiles, splits, folders and machines that do not fit.
    """
    run = fitted(store, out=out, valid=valid, settings=settings, resume=resume, overwrite=overwrite, quiet=quiet, **options)
    minutes, picture = run.record["settings"].get("minutes"), run.path / PICTURE
    if minutes is not None and started().first and not picture.exists():
        from sentinode.report.so_far import write_so_far

        write_so_far(picture, pd.read_csv(run.path / "history.csv"), minutes)
    return run
