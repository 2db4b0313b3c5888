"""OpenVINO's forms: 8-bit whole numbers stay near fp32 or are refused, and nothing tells the makers of a use."""

import gc
import importlib.util
import sys
import weakref
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sentinode.errors import MachineProblem
from sentinode.nets import engine, openvino
from sentinode.nets.engine import in_whole_numbers
from sentinode.nets.forms import eager
from sentinode.nets.forward import logits
from sentinode.nets.simple_cnn import SimpleCNN
from sentinode.nets.transform import Preprocessing, Transform


def tissue(n: int, seed: int) -> Tensor:
    """Return network input whose tiles differ in colour and grain, so that logits have a spread."""
    chance = torch.Generator().manual_seed(seed)
    colour = torch.randn(n, 3, 1, 1, generator=chance)
    grain = torch.rand(n, 1, 1, 1, generator=chance) * torch.randn(n, 3, 32, 32, generator=chance)
    return (colour + grain).contiguous(memory_format=torch.channels_last)


def network() -> nn.Module:
    torch.manual_seed(0)
    return SimpleCNN((8, 8, 8)).eval()


def test_whole_numbers_are_near_fp32_and_are_not_fp32() -> None:
    module, others = network(), tissue(64, seed=1)
    found = in_whole_numbers(module, tissue(64, seed=0), others, batch=20)
    wanted = eager(module, "fp32")(others)
    moved = (found.call(others) - wanted).square().mean().sqrt() / wanted.std(correction=0)
    assert 1e-4 < moved <= engine.WHOLE_BOUND
    assert (found.name, found.precision) == ("openvino int8", "int8")
    assert f"64 tiles that did not calibrate it move by {moved:.3f}" in found.reasons


def type_of_weights(operation: Any) -> str:
    """Return the type of number in which the weights of an operation are kept."""
    node = operation.input_value(1).get_node()
    while node.get_type_name() != "Constant":
        node = node.input_value(0).get_node()
    return str(node.get_element_type().get_type_name())


def test_convolutions_are_in_whole_numbers_and_the_head_is_not() -> None:
    operations = openvino.quantised(network(), tissue(32, seed=0)).get_ordered_ops()
    found = {kind: [type_of_weights(op) for op in operations if op.get_type_name() == kind] for kind in ("Convolution", "MatMul")}
    assert found == {"Convolution": ["i8"] * 3, "MatMul": ["f32"] * 2}


def test_torch_leaves_the_cores_to_a_form_with_threads_of_its_own() -> None:
    """And has its own again afterwards, also where the form fails."""
    seen, threads = list[int](), torch.get_num_threads()

    class Own(nn.Module):
        def __init__(self, *, own: bool) -> None:
            super().__init__()
            self.own_threads = own

        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.get_num_threads())
            return x.mean((1, 2, 3))

    def failing(x: Tensor) -> Tensor:
        raise RuntimeError("no")

    failing.own_threads = True  # type: ignore[attr-defined]
    tiles, transform = [torch.zeros(2, 8, 8, 3, dtype=torch.uint8)], Transform(Preprocessing((0.5,) * 3, (0.5,) * 3), 8)
    torch.set_num_threads(2)
    try:
        for own in (True, False):
            logits(Own(own=own), tiles, transform)
        with pytest.raises(RuntimeError, match="no"):
            logits(failing, tiles, transform)
        assert (seen, torch.get_num_threads()) == ([1, 2], 2)
    finally:
        torch.set_num_threads(threads)
    assert openvino.runner(openvino.converted(network(), tissue(2, seed=0)), 2, "f32").own_threads


def test_a_compiled_network_goes_when_nobody_holds_it() -> None:
    call = openvino.runner(openvino.converted(network(), tissue(2, seed=0)), 4, "f32")
    call(tissue(6, seed=1))
    gone = weakref.ref(call)
    del call
    gc.collect()
    assert gone() is None


def test_logits_that_move_too_far_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "WHOLE_BOUND", 1e-6)
    with pytest.raises(MachineProblem) as caught:
        in_whole_numbers(network(), tissue(32, seed=0), tissue(32, seed=1), batch=32)
    assert caught.value.expected == "logits within 1e-06 standard deviations of those in fp32"
    assert caught.value.found.endswith("on 32 tiles")
    assert "--precision auto" in caught.value.do


def test_a_device_that_is_not_openvinos_is_told() -> None:
    with pytest.raises(MachineProblem) as caught:
        in_whole_numbers(network(), torch.empty(2, 3, 32, 32, device="meta"), tissue(2, seed=1), batch=2)
    assert (caught.value.expected, caught.value.found) == ("a CPU for precision int8", "'meta'")
    assert "--device cpu" in caught.value.do


def test_a_missing_package_is_told_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MachineProblem) as caught:
        in_whole_numbers(network(), tissue(2, seed=0), tissue(2, seed=1), batch=2)
    assert (caught.value.expected, caught.value.found) == ("NNCF, which quantises networks", "no such package")
    assert caught.value.do == "pip install 'sentinode[int8]'"


def test_a_network_that_cannot_be_quantised_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    nncf = openvino.package("nncf", "NNCF", "int8")

    def refused(*_: object, **__: object) -> None:
        raise nncf.UnsupportedModelError("no such operation")

    monkeypatch.setattr(nncf, "quantize", refused)
    with pytest.raises(MachineProblem) as caught:
        openvino.quantised(network(), tissue(32, seed=0))
    assert (caught.value.expected, caught.value.found) == ("a network that NNCF quantises", "'no such operation'")
    assert caught.value.do == "use --precision auto"


def test_a_package_that_lacks_one_of_its_own_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ModuleNotFoundError(f"No module named 'rich' in {name}", name="rich")

    openvino.package("openvino", "OpenVINO", "openvino")  # what it imports itself is there already
    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(MachineProblem) as caught:
        openvino.package("nncf", "NNCF, which quantises networks", "int8")
    assert (caught.value.found, caught.value.do) == ("no package 'rich'", "pip install 'sentinode[int8]'")
    assert "openvino_telemetry" not in sys.modules


def test_nobody_is_told_that_openvino_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    openvino.quantised(network(), tissue(32, seed=0))
    assert "openvino_telemetry" not in sys.modules
    own = ModuleType("openvino_telemetry")  # of a program that had it before us
    monkeypatch.setitem(sys.modules, "openvino_telemetry", own)
    openvino.package("openvino", "OpenVINO", "openvino")
    assert sys.modules["openvino_telemetry"] is own
