"""Runs as one traced network, written as ONNX or TorchScript and read back by what will run it."""

import io
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sentinode.errors import MachineProblem, RunProblem, shown
from sentinode.machine.memory import out_of_memory
from sentinode.nets.forward import VIEWS, view
from sentinode.nets.portable import PortableTransform, with_fixed_padding
from sentinode.nets.trained import Run

Tiles = npt.NDArray[np.uint8]
Apply = Callable[[Tiles], npt.NDArray[np.float32]]
"""A file that was read back: tiles uint8 [n, px, px, 3] to probability float32 [n]."""
OPSET = 18
"""Of ONNX: the first in which every operation here has its present form; onnxruntime has run it since 1.14."""
PROTOBUF_BYTES = 2**31 - 2**20
"""Largest ONNX file of one piece."""
FACTS = "sentinode.json"
"""The extra file of a TorchScript archive that holds what ONNX has as metadata."""


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


def need_onnx() -> None:
    """Raise MachineProblem unless both packages are there: one writes and checks, the other runs."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise MachineProblem(
            "onnx and onnxruntime to write and check ONNX", f"{error}"[:200], "pip install 'sentinode[onnx]'"
        ) from error


def write_onnx(network: Portable, path: Path, facts: dict[str, str]) -> Apply:
    """Write ONNX with metadata to `path`, check it, and return it as onnxruntime runs it."""
    import onnx
    import onnxruntime

    size = sum(tensor.nbytes for tensor in network.state_dict().values())
    if size > PROTOBUF_BYTES:
        raise RunProblem("a network of less than 2 GB for one ONNX file", f"{size / 1e9:.1f} GB", "use --to torchscript")
    with torch.no_grad():
        # dynamo=False: the exporter that needs no further package and is the same in torch 2.6 and 2.13.
        torch.onnx.export(
            network,
            (network.example(),),
            str(path),
            input_names=["tiles"],
            output_names=["probability"],
            dynamic_axes={"tiles": {0: "n"}, "probability": {0: "n"}},
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load(path)
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
        frozen = torch.jit.freeze(torch.jit.trace(network, (network.example(),), check_trace=False))  # type: ignore[no-untyped-call]
    torch.jit.save(frozen, whole, _extra_files={FACTS: json.dumps(facts)})
    path.write_bytes(whole.getvalue())
    again = torch.jit.load(path)  # type: ignore[no-untyped-call]

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
            if out_of_memory(error):
                raise
            other = "torchscript" if to == "onnx" else "onnx"
            what = shown(" ".join(str(error).split()), 200)
            raise RunProblem(f"a network that can be written as {to}", what, f"use --to {other}") from error
