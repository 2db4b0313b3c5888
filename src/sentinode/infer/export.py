"""The command `export`: runs as one file that other programs run, ONNX or TorchScript; uint8 tiles in, probability out.

Preprocessing, views, ensemble, calibration and sigmoid are inside the graph, traced from the modules that prediction runs. A file
is kept only if it gives the probabilities of `predict` on 1,000 tiles.
"""

import io
import json
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import sentinode
from sentinode.errors import MachineProblem, RunProblem, UsageProblem, nearest, shown
from sentinode.infer.ensemble import mean_logit, members_of
from sentinode.machine.memory import set_allocator
from sentinode.nets.forward import VIEWS, view
from sentinode.nets.portable import PortableTransform, with_fixed_padding
from sentinode.nets.trained import Run, load, weights_digest
from sentinode.progress import Progress
from sentinode.run import replacing
from sentinode.scores import logit_of, probability_of
from sentinode.tiles.store import open_store
from sentinode.tiles.synth import SMALLEST_PX, synthesise

Tiles = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Apply = Callable[[Tiles], npt.NDArray[np.float32]]
"""A file that was read back: tiles uint8 [n, px, px, 3] to probability float32 [n]."""
Format = Literal["onnx", "torchscript"]
"""What `to` takes."""
ENDINGS = {"onnx": ".onnx", "torchscript": ".pt"}
"""How a file of each format is called."""
FORMAT = 1
"""Version of the inputs, outputs and facts of a written file."""
OPSET = 18
"""Of ONNX: the first in which every operation here has its present form; onnxruntime has run it since 1.14."""
LARGEST = 1e-4
"""Largest difference in probability from `predict` with which a file is kept."""
CHECKED = 1000
"""Tiles it is compared on."""
TISSUE, NOISE, FLAT = 100, (0.0, 0.1, 0.2, 0.4, 0.8), 100
"""Of made ones: tissue tiles, shares of noise under which each stands, flat colours; the rest is noise alone."""
PROTOBUF_BYTES = 2**31 - 2**20
"""Largest ONNX file of one piece."""
FACTS = "sentinode.json"
"""The extra file of a TorchScript archive that holds what ONNX has as metadata."""
NOTE = "Research use, not a medical device."


@dataclass(frozen=True)
class Parity:
    """How far a file is from `predict`: the largest difference in probability over `n` tiles, and which tiles they were."""

    largest_difference: float
    n: int
    tiles: str


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


class Portable(nn.Module):
    """Runs as one network: tiles uint8 [n, px, px, 3] to probability float32 [n]; the mean of logits over views, then over runs."""

    def __init__(self, runs: list[Run], views: int) -> None:
        super().__init__()
        self.views, self.px = VIEWS[views], runs[0].facts.px
        self.transforms = nn.ModuleList(PortableTransform(run.facts.preprocessing, self.px) for run in runs)
        pairs = zip(runs, self.transforms, strict=True)
        self.networks = nn.ModuleList(with_fixed_padding(run.model, each(self.example())) for run, each in pairs)
        self.calibration = [(run.facts.logit_shift, run.facts.temperature) for run in runs]
        self.eval()

    def example(self) -> Tensor:
        """Return the tiles to trace with: two, since one could be taken for an axis to drop."""
        return torch.zeros(2, self.px, self.px, 3, dtype=torch.uint8)

    def forward(self, tiles: Tensor) -> Tensor:
        """Return the probabilities. A pass a view, not one of all views: memory stays that of n tiles, and it is no slower."""
        members = []
        for network, transform, (shift, temperature) in zip(self.networks, self.transforms, self.calibration, strict=True):
            logits = torch.stack([network(transform(view(tiles, number))) for number in self.views]).mean(0)
            members.append((logits + shift) / temperature)
        return torch.sigmoid(torch.stack(members).mean(0))


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


def need_onnx() -> None:
    """Raise MachineProblem unless both packages are there: one writes and checks, the other runs."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise MachineProblem(
            "onnx and onnxruntime to write and check ONNX", f"{error}"[:200], "pip install 'sentinode[onnx]'"
        ) from error


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


def write_onnx(network: Portable, path: Path, facts: dict[str, str]) -> Apply:
    """Write ONNX with metadata to `path`, check it, and return it as onnxruntime runs it."""
    import onnx
    import onnxruntime

    size = sum(tensor.nbytes for tensor in network.state_dict().values())
    if size > PROTOBUF_BYTES:
        raise RunProblem("a network of less than 2 GB for one ONNX file", f"{size / 1e9:.1f} GB", "use --to torchscript")
    whole = io.BytesIO()
    with torch.no_grad():
        # dynamo=False: the exporter that needs no further package and is the same in torch 2.6 and 2.13.
        torch.onnx.export(
            network,
            (network.example(),),
            whole,
            input_names=["tiles"],
            output_names=["probability"],
            dynamic_axes={"tiles": {0: "n"}, "probability": {0: "n"}},
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load_from_string(whole.getvalue())
    onnx.helper.set_model_props(model, facts)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda tiles: session.run(["probability"], {"tiles": tiles})[0]


def write_torchscript(network: Portable, path: Path, facts: dict[str, str]) -> Apply:
    """Write TorchScript, frozen (batch norms folded into convolutions), to `path`, and return it as it is when read back."""
    whole = io.BytesIO()  # the archive would take the temporary file's name for its own
    with torch.no_grad():
        frozen = torch.jit.freeze(torch.jit.trace(network, (network.example(),), check_trace=False))
    torch.jit.save(frozen, whole, _extra_files={FACTS: json.dumps(facts)})
    path.write_bytes(whole.getvalue())
    again = torch.jit.load(path)

    @torch.inference_mode()
    def apply(tiles: Tiles) -> npt.NDArray[np.float32]:
        result: npt.NDArray[np.float32] = again(torch.from_numpy(tiles)).numpy()
        return result

    return apply


@contextmanager
def graph_problems(to: str) -> Iterator[None]:
    """Say in three parts that a network cannot be written, or run, in a format; keep the tracers' warnings to themselves."""
    kinds: list[type[Exception]] = [RuntimeError]
    if to == "onnx":
        import onnx
        from onnxruntime.capi import onnxruntime_pybind11_state as runtime

        kinds += [onnx.checker.ValidationError, onnx.shape_inference.InferenceError, runtime.Fail, runtime.InvalidArgument]
        kinds += [runtime.InvalidGraph, runtime.NotImplemented, runtime.RuntimeException]
    with warnings.catch_warnings():
        # They warn of sizes taken as fixed and of the tracer's age; what counts is answered by the check of the written file.
        warnings.simplefilter("ignore")
        try:
            yield
        except tuple(kinds) as error:
            other = "torchscript" if to == "onnx" else "onnx"
            what = shown(" ".join(str(error).split()), 200)
            raise RunProblem(f"a network that can be written as {to}", what, f"use --to {other}") from error


def parity_tiles(px: int, store: str | Path | None) -> tuple[Tiles, str]:
    """Return uint8 [CHECKED, px, px, 3] and what they are: tiles spread over a store, filled up with made ones.

    Made ones go beyond what a network has seen: tissue alone and under growing noise, noise alone, and flat colours.
    """
    rng = np.random.default_rng(0)
    made = rng.integers(0, 256, (CHECKED, px, px, 3), dtype=np.uint8)
    made[-FLAT:] = rng.integers(0, 256, (FLAT, 1, 1, 3))
    tissue = synthesise(10, TISSUE // 10, px=max(px, SMALLEST_PX)).tiles[:, :px, :px]
    for number, share in enumerate(NOISE):
        part = made[number * TISSUE : (number + 1) * TISSUE]
        part[:] = tissue * (1 - share) + part * share
    words = "synthetic tissue, noise, flat colours"
    if store is None:
        return made, words
    opened = open_store(store)
    if opened.px != px:
        raise RunProblem(f"--tiles of {px} px, as the run was trained on", f"{opened.px} px", "name another store")
    rows = np.unique(np.linspace(0, len(opened) - 1, min(CHECKED, len(opened))).astype(int))
    whole = np.concatenate([opened.tiles[rows], made[len(rows) :]])
    return whole, f"{len(rows):,} of {shown(opened.path.name)}" + (f", {words}" if len(rows) < CHECKED else "")


def largest_difference(apply: Apply, runs: list[Run], tiles: Tiles, views: int, progress: Progress) -> float:
    """Return the largest difference in probability between a written file and `predict`; NaN if either gives one.

    The file gets batches of 1, 3 and then 64 tiles, so that a batch frozen in tracing cannot pass.
    """
    cuts = [0, 1, 4, *range(4 + 64, len(tiles), 64), len(tiles)]
    parts = [tiles[a:b] for a, b in pairwise(cuts) if a < b]
    differences = []
    with progress.track("checking", len(tiles)) as done:
        for part in parts:
            expected = probability_of(mean_logit([run.logits(part, views=views).astype(np.float64) for run in runs]))
            found = apply(part)
            if found.shape != expected.shape or found.dtype != np.float32:
                return float("nan")
            differences.append(float(np.abs(found - expected).max()))
            done(len(part))
    return float(np.max(differences))
