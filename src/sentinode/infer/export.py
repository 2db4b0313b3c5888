"""The command `export`: runs as one file that other programs run, ONNX or TorchScript; uint8 tiles in, probability out.

Preprocessing, views, ensemble, calibration and sigmoid are inside the graph, traced from the modules that prediction runs. A file
is kept only if it gives the probabilities of `predict` on 1,000 tiles.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

import sentinode
from sentinode.errors import RunProblem, UsageProblem, nearest, shown
from sentinode.infer.ensemble import members_of
from sentinode.infer.graph import Portable, graph_problems, need_onnx, write_onnx, write_torchscript
from sentinode.infer.parity import Parity, largest_difference, parity_tiles
from sentinode.machine.memory import memory_problems, refusing, set_allocator
from sentinode.machine.probe import keep_to_usable_cores
from sentinode.nets.forward import VIEWS
from sentinode.nets.trained import Run, load, weights_digest
from sentinode.progress import Progress
from sentinode.run import replacing
from sentinode.scores import logit_of, probability_of

Format = Literal["onnx", "torchscript"]
"""What `to` takes."""
ENDINGS = {"onnx": ".onnx", "torchscript": ".pt"}
"""How a file of each format is called."""
FORMAT = 1
"""Version of the inputs, outputs and facts of a written file."""
LARGEST = 1e-4
"""Largest difference in probability from `predict` with which a file is kept."""
NOTE = "Research use, not a medical device."


@dataclass(frozen=True)
class Export:
    """A written file: `path`, `size` in bytes, `facts` as they stand in it, and its `parity`, as read back, with `predict`."""

    path: Path
    size: int
    facts: dict[str, str]
    parity: Parity
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return everything, for programs."""
        return asdict(self) | {"path": str(self.path)}

    def lines(self) -> list[str]:
        """Return what was written and how it was checked, for a terminal."""
        facts, parity = self.facts, self.parity
        return [
            f"written    {shown(self.path)}: {facts['kind']}, {self.size / 1e6:.1f} MB, {self.seconds:.1f} s",
            f"takes      tiles, uint8 [n, {facts['px']}, {facts['px']}, 3] RGB, any n",
            f"gives      probability of {shown(facts['positive'])}, float32 [n]; views {facts['views']}, "
            f"threshold {float(facts['threshold']):.4f} ({facts['threshold_rule']})",
            f"parity     {parity.largest_difference:.1e} at most from 'predict' over {parity.n:,} tiles ({parity.tiles})",
        ]


@memory_problems("use fewer --views, or free some memory")
@refusing()
def export(
    *runs: str | Path,
    to: Format,
    out: str | Path | None = None,
    views: Literal[1, 4, 8] = 1,
    tiles: str | Path | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> Export:
    """Write a run, or an ensemble, as one file that needs no Sentinode.

    The file has one input, `tiles`, uint8 [n, px, px, 3] RGB for any n, and one output, `probability`, float32 [n]. What a reader
    must know stands in it: ONNX metadata, or the extra file `sentinode.json` of TorchScript.

    Parameters
    ----------
    runs
        One or more run folders; several are an ensemble, the mean of their logits.
    to
        "onnx" (opset 18, no custom operations) or "torchscript".
    out
        The file, ending in .onnx or .pt; default: the first run's name with that ending, beside its folder.
    views
        1, 4 or 8 dihedral views whose logits are averaged, each a pass of the network.
    tiles
        A store on whose tiles parity is checked; synthetic tissue and noise fill them up to 1,000, and stand alone by default.
    overwrite
        Replace a file of that name.
    quiet
        Say nothing.

    Raises
    ------
    UsageProblem
        For a format, views or a file name that do not fit, and for a file that exists.
    RunProblem
        If a folder is no run, runs do not belong together, the network cannot be written in that format, or the written file
        differs from `predict` by more than 1e-4; then nothing is kept.
    MachineProblem
        Without onnx and onnxruntime, or without room on the disk.
    """
    started = time.perf_counter()
    target = checked_target(runs, to, out, views, overwrite)
    if to == "onnx":
        need_onnx()
    members = members_of([load(run) for run in runs])
    set_allocator()
    keep_to_usable_cores()
    facts = facts_of(members, to, views)
    sample, named = parity_tiles(members[0].facts.px, tiles)
    progress = Progress(quiet)
    with replacing(target) as temporary:
        with graph_problems(to):
            apply = {"onnx": write_onnx, "torchscript": write_torchscript}[to](Portable(members, views), temporary, facts)
            difference = largest_difference(apply, members, sample, views, progress)
        if not difference <= LARGEST:
            raise RunProblem(
                f"a file that gives the probabilities of 'predict' within {LARGEST:g}",
                f"one that differs by {difference:.3g} on {len(sample):,} tiles ({named}); it was not kept",
                f"use --to {'torchscript' if to == 'onnx' else 'onnx'}, or another version of torch",
            )
        size = temporary.stat().st_size
    return Export(target, size, facts, Parity(difference, len(sample), named), time.perf_counter() - started)


def checked_target(runs: tuple[str | Path, ...], to: str, out: str | Path | None, views: int, overwrite: bool) -> Path:
    """Return the file to write; UsageProblem unless arguments and file fit."""
    if not runs:
        raise UsageProblem("at least one run", "none", "sentinode export RUN --to onnx")
    if to not in ENDINGS:
        raise UsageProblem("a format to export to", shown(to), nearest(str(to), list(get_args(Format))))
    if views not in VIEWS:
        raise UsageProblem("1, 4 or 8 views", shown(views), "change --views")
    first = Path(runs[0]).resolve()
    target = first.with_name(first.name + ENDINGS[to]) if out is None else Path(out)
    if target.suffix != ENDINGS[to]:
        raise UsageProblem(f"--out that ends in {ENDINGS[to]} for {to}", shown(target.name), "change the ending")
    if target.is_dir():
        raise UsageProblem(f"a file for {shown(target)}", "a folder", "choose another --out")
    if target.exists() and not overwrite:
        raise UsageProblem(f"a new file for {shown(target)}", "one that exists", "choose another --out, or add --overwrite")
    return target


def facts_of(runs: list[Run], to: str, views: int) -> dict[str, str]:
    """Return what travels in the file, as text: ONNX holds nothing else."""
    first = runs[0].facts
    # As in judging an ensemble: the mean of the members' thresholds where their scores are averaged, in logit space.
    thresholds = np.array([run.facts.threshold for run in runs])
    threshold = float(thresholds[0] if len(runs) == 1 else probability_of(logit_of(thresholds).mean(keepdims=True))[0])
    return {
        "format": str(FORMAT),
        "kind": to,
        "sentinode": sentinode.__version__,
        "network": ", ".join(run.facts.network for run in runs),
        "runs": json.dumps([weights_digest(run.path) for run in runs]),
        "px": str(first.px),
        "negative": first.classes[0],
        "positive": first.classes[1],
        "views": str(views),
        "threshold": repr(threshold),
        "threshold_rule": ", ".join(dict.fromkeys(run.facts.threshold_rule for run in runs)),
        "note": NOTE,
    }
