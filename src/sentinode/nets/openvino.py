"""OpenVINO's forms of a network: converted, compiled for this processor, or with 8-bit whole numbers in place of floats."""

import contextlib
import importlib
import importlib.util
import io
import logging
import sys
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sentinode.errors import MachineProblem, not_installed, shown

CALIBRATION_BATCH = 32
"""Tiles that go through a network at once while its ranges are taken."""

HEAD = r".*__module\.(dense|head)[./].*"
"""Names that OpenVINO gives to what our networks do after pooling."""


def package(name: str, called: str, extra: str) -> Any:
    """Import one of OpenVINO's packages; MachineProblem where it is not installed, or lacks what it needs itself.

    They tell their makers of each use as soon as they are imported, unless the package that does so is missing. It is, for as long
    as they look for it: tiles of patients lie on this machine, and nothing of ours speaks to the outside unasked.
    """
    if importlib.util.find_spec(name) is None:
        raise MachineProblem(called, "no such package", f"pip install 'sentinode[{extra}]'")
    teller = "openvino_telemetry"
    before = sys.modules.get(teller)
    sys.modules[teller] = None  # type: ignore[assignment]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MachineProblem(called, not_installed(error), f"pip install 'sentinode[{extra}]'") from error
    finally:
        del sys.modules[teller]
        if before is not None:
            sys.modules[teller] = before


def filled(x: Tensor, n: int) -> Tensor:
    """Return x [k, ...] with zeros behind it up to a multiple of `n`."""
    missing = -len(x) % n
    if not missing:
        return x
    return torch.cat([x, x.new_zeros(missing, *x.shape[1:])]).contiguous(memory_format=torch.channels_last)


def converted(module: nn.Module, example: Tensor) -> Any:
    """Return `module` as OpenVINO's model that takes channels last; MachineProblem where it is not installed or cannot."""
    openvino = package("openvino", "OpenVINO", "openvino")
    from openvino import frontend
    from openvino.frontend.pytorch import ts_decoder
    from openvino.preprocess import PrePostProcessor

    # OpenVINO's own failures share no base class but Exception.
    failures = tuple(kind for name, kind in vars(frontend).items() if name.endswith("Failure"))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            # Followed once, not twice for comparison: that its results agree is looked at afterwards.
            example = example[:2].contiguous()
            decoder = ts_decoder.TorchScriptPythonDecoder(module, example_input=example, trace_kwargs={"check_trace": False})
            model = openvino.convert_model(decoder, example_input=example)
        except failures as problem:
            raise MachineProblem(
                "a network that OpenVINO takes", shown(str(problem).partition("Summary:\n")[2] or problem), "use another form"
            ) from problem
    model.reshape([-1, *example.shape[1:]])
    steps = PrePostProcessor(model)
    steps.input().tensor().set_layout(openvino.Layout("NHWC"))
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    return steps.build()


def keep(request: Any, place: Any) -> None:
    """Put what a stream has computed into its place, a part of the results.

    No method of `Streams`: its queue would hold it and it the queue, which no collector sees, and the compiled network would stay.
    """
    place[...] = request.get_output_tensor(0).data


class Streams:
    """OpenVINO's compiled network, a stream a thread: a batch is divided among them, and none waits for another."""

    own_threads = True

    def __init__(self, ready: Any, threads: int) -> None:
        self.queue = package("openvino", "OpenVINO", "openvino").AsyncInferQueue(ready, threads)
        self.queue.set_callback(keep)
        self.share = ready.input(0).shape[0]
        self.shape = tuple(ready.output(0).shape)[1:]

    def __call__(self, x: Tensor) -> Tensor:
        """Return float32 [k, d] or [k] of normalised float32 [k, 3, p, p]."""
        tiles = filled(x, self.share).permute(0, 2, 3, 1).contiguous().numpy()
        results = np.empty((len(tiles), *self.shape), np.float32)
        for first in range(0, len(tiles), self.share):
            own = slice(first, first + self.share)
            self.queue.start_async([tiles[own]], results[own], share_inputs=True)
        self.queue.wait_all()
        return torch.from_numpy(results[: len(x)])


def runner(model: Any, batch: int, precision: str) -> Streams:
    """Return OpenVINO's compiled `model`; shapes are fixed, for a share of `batch` each, which is never slower than free ones."""
    openvino = package("openvino", "OpenVINO", "openvino")
    threads = torch.get_num_threads()
    fixed = model.clone()
    fixed.reshape([-(-batch // threads), *[dimension.get_length() for dimension in list(model.input(0).partial_shape)[1:]]])
    how = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": threads}
    return Streams(openvino.Core().compile_model(fixed, "CPU", how), threads)


def quantised(module: nn.Module, tiles: Tensor) -> Any:
    """Return `module` as OpenVINO's model with weights and maps as 8-bit whole numbers; their ranges are those that `tiles` have.

    `tiles`: network input [n, 3, p, p], channels-last. MachineProblem where NNCF, which does it, is not installed or cannot.
    The head stays in floats: what stands before it are features whose ranges differ by orders of magnitude.
    Source: Jacob et al. 2018, arXiv:1712.05877; NNCF's post-training quantization, activations with a zero point.
    """
    nncf = package("nncf", "NNCF, which quantises networks", "int8")
    nncf.set_log_level(logging.ERROR)
    model = converted(module, tiles)
    rows = tiles.permute(0, 2, 3, 1).contiguous().numpy()
    head = nncf.IgnoredScope(patterns=[HEAD], validate=False)
    parts = nncf.Dataset([rows[first : first + CALIBRATION_BATCH] for first in range(0, len(rows), CALIBRATION_BATCH)])
    # Its failures share no base class but Exception; OpenVINO's beneath it are RuntimeErrors.
    failures: tuple[type[Exception], ...] = (RuntimeError, *(kind for name, kind in vars(nncf).items() if name.endswith("Error")))
    # Its progress bars cannot be turned off.
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            return nncf.quantize(model, parts, preset=nncf.QuantizationPreset.MIXED, subset_size=len(rows), ignored_scope=head)
        except failures as problem:
            raise MachineProblem("a network that NNCF quantises", shown(problem), "use --precision auto") from problem
