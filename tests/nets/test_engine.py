"""Engines: every form gives the network's own values, the fastest is taken only where it agrees, and what fails is named."""

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sentinode.errors import MachineProblem
from sentinode.machine.plan import GAIN
from sentinode.nets import engine, forms
from sentinode.nets.engine import BOUNDS, choose, disagreement, fastest, named
from sentinode.nets.forward import Call
from sentinode.nets.simple_cnn import SimpleCNN

FULL = ("eager fp32", "folded fp32", "frozen fp32", "openvino fp32")
REDUCED = ("eager bf16", "folded bf16", "openvino bf16")


class BatchNormAct2d(nn.BatchNorm2d):
    """As timm's: normalises, then drops, then activates."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.drop(super().forward(x)))
        return y


class Padded(nn.Conv2d):
    """A convolution that pads by the size it meets, in plain Python that no symbolic tracer follows."""

    def forward(self, x: Tensor) -> Tensor:
        pad = 1 if int(x.shape[-1]) % 2 == 0 else 2
        return nn.functional.conv2d(nn.functional.pad(x, (pad, pad, pad, pad)), self.weight, self.bias)


class Network(nn.Module):
    """Every case that folding meets: a plain pair, timm's norm, an odd convolution, a map used twice, a shared convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = Padded(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), BatchNormAct2d(8)
        self.twice, self.bn3 = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.shared, self.bn4 = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        y = self.twice(x)
        y = self.bn3(y) + y.sigmoid()
        y = self.bn4(self.shared(self.shared(y)))
        return torch.cat([y.mean((2, 3)), y.amax((2, 3))], 1)


def lived_in(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give batch norms statistics and scales that are not those they begin with."""
    chance = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight.data, part.running_var, part.bias.data, part.running_mean):
                assert tensor is not None
                tensor.copy_(torch.rand(tensor.shape, generator=chance) + 0.5)
    return module.eval()


def some_input(n: int, px: int = 24) -> Tensor:
    chance = torch.Generator().manual_seed(n)
    return torch.randn(n, 3, px, px, generator=chance).contiguous(memory_format=torch.channels_last)


def made(module: nn.Module, name: str, example: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a form, as the engine makes it."""
    return named(name, module, example).call


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("network", [Network, SimpleCNN])
@pytest.mark.parametrize("name", FULL)
def test_every_full_form_gives_the_networks_values(name: str, network: Callable[[], nn.Module]) -> None:
    module, x = lived_in(network()), some_input(8)
    with torch.no_grad():
        expected = module(x)
    call = made(module, name, x)
    torch.testing.assert_close(call(x), expected, rtol=1e-4, atol=1e-4)
    assert call(x).dtype == torch.float32


@pytest.mark.parametrize("name", REDUCED)
def test_reduced_forms_stay_near(name: str) -> None:
    module, x = lived_in(Network()), some_input(8)
    with torch.no_grad():
        expected = module(x)
    result = made(module, name, x)(x)
    assert result.dtype == torch.float32
    assert disagreement(result, expected) < BOUNDS["bf16"] / 2


@pytest.mark.parametrize("name", REDUCED)
def test_a_head_that_is_handed_fp32_has_reduced_forms_too(name: str) -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = Network(), nn.Linear(16, 1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.head(self.body(x).float())
            return y

    module, x = lived_in(Pooled()), some_input(8)
    with torch.no_grad():
        expected = module(x)
    assert disagreement(made(module, name, x)(x), expected) < BOUNDS["bf16"] / 2


@pytest.mark.parametrize("name", FULL + REDUCED)
def test_fewer_and_more_tiles_than_the_example_give_the_same_rows(name: str) -> None:
    module, x = lived_in(Network()), some_input(7)
    call = made(module, name, x[:4])
    four = call(x[:4])
    for k in (1, 3):
        np.testing.assert_allclose(call(x[:k]).numpy(), four[:k].numpy(), rtol=2e-2, atol=2e-2)
    assert call(x[:3]).shape == (3, 16)


def test_results_are_kept_apart() -> None:
    module, x = lived_in(Network()), some_input(8)
    call = made(module, "openvino fp32", x[:4])
    first = call(x[:4])
    before = first.clone()
    call(x[4:])
    assert torch.equal(first, before)


def test_folding_takes_away_what_it_can_and_no_more() -> None:
    module = lived_in(Network())
    folded = forms.folded(module, some_input(2))
    left = [name for name, part in folded.named_modules() if isinstance(part, nn.BatchNorm2d)]
    assert left == ["bn3", "bn4"]
    assert isinstance(module.get_submodule("bn1"), nn.BatchNorm2d), "the network itself is left alone"


def test_a_convolution_whose_map_is_used_elsewhere_is_not_folded() -> None:
    module, x = lived_in(Network()), some_input(5)
    with torch.no_grad():
        torch.testing.assert_close(forms.folded(module, x)(x), module(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "mobilenetv3_small_050"])
def test_networks_of_timm_fold_whole(name: str) -> None:
    timm = pytest_timm()
    module = lived_in(timm.create_model(name, num_classes=0, pretrained=False))
    x = some_input(3, 64)
    folded = forms.folded(module, x)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded.modules())
    with torch.no_grad():
        assert disagreement(folded(x), module(x)) < BOUNDS["fp32"]


def pytest_timm() -> Any:
    from sentinode.nets.backbone import timm_module

    return timm_module()


def test_exact_means_fp32() -> None:
    assert fastest(lived_in(SimpleCNN()), some_input(4), allowed="fp32").precision == "fp32"


def test_a_form_that_breaks_and_one_that_is_wrong_are_named_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Call:
        raise NotImplementedError("no such operator: roi\nand a long story")

    def other_forms(module: nn.Module, example: Tensor) -> dict[str, Any]:
        plain = forms.eager(module, "fp32")
        return {
            "eager fp32": lambda: slowly(plain),
            "broken fp32": broken,
            "shifted fp32": lambda: lambda x: plain(x) * 1.01,
            "swapped bf16": lambda: lambda x: plain(x.flip(0)),
            "empty bf16": lambda: lambda x: torch.full_like(plain(x), float("nan")),
            "short bf16": lambda: lambda x: plain(x)[:, :1],
            "good fp32": lambda: plain,
        }

    monkeypatch.setattr(engine, "forms", other_forms)
    found = fastest(lived_in(Network()), some_input(6) * torch.arange(1, 7)[:, None, None, None])
    assert found.name == "good fp32"
    assert "broken fp32 left out (NotImplementedError: no such operator: roi)" in found.reasons
    for name in ("shifted fp32", "swapped bf16", "empty bf16", "short bf16"):
        assert f"{name} left out (" in found.reasons


def slowly(call: Call) -> Call:
    def slow(x: Tensor) -> Tensor:
        time.sleep(0.2)
        return call(x)

    return slow


def test_a_network_that_no_tracer_follows_still_has_an_engine() -> None:
    class Moody(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            if torch._C._get_tracing_state() is not None:
                raise RuntimeError("cannot be traced")
            y: Tensor = self.dense(x.mean((2, 3)))
            return y

    found = fastest(Moody(), some_input(4))
    assert found.name.split()[0] in {"eager", "folded"}
    assert "frozen fp32 left out (RuntimeError" in found.reasons
    assert "openvino fp32 left out (" in found.reasons


def test_an_operator_that_openvino_has_not_leaves_the_others() -> None:
    class Rare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = torch.special.bessel_j0(self.dense(x.mean((2, 3))))
            return y

    module, x = Rare().eval(), some_input(4)
    with pytest.raises(MachineProblem) as caught:
        named("openvino fp32", module, x)
    assert caught.value.expected == "a network that OpenVINO takes"
    assert "bessel" in caught.value.found
    assert caught.value.do == "use another form"
    assert not fastest(module, x).name.startswith("openvino")


def test_without_openvino_the_others_are_tried_and_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    found = fastest(lived_in(SimpleCNN()), some_input(4))
    assert not found.name.startswith("openvino")
    assert "openvino fp32 left out (MachineProblem: expected OpenVINO; found no such package" in found.reasons
    with pytest.raises(MachineProblem) as caught:
        named("openvino fp32", SimpleCNN(), some_input(4))
    assert (caught.value.expected, caught.value.found) == ("OpenVINO", "no such package")
    assert "pip install 'sentinode[openvino]'" in caught.value.do


def test_few_tiles_are_not_worth_a_choice() -> None:
    found = fastest(lived_in(SimpleCNN()), some_input(4), tiles=0)
    assert found.name == "eager fp32"
    assert "openvino bf16 left out (not tried" in found.reasons


@pytest.mark.parametrize(("worth_s", "tried"), [(3.0, False), (1.0, True)])
def test_work_that_plain_fp32_soon_has_done_is_left_to_it(monkeypatch: pytest.MonkeyPatch, worth_s: float, tried: bool) -> None:
    """Two seconds of it: four tiles take 0.1 s. What is said of it is the same each time."""
    made: list[str] = []

    def call(x: Tensor) -> Tensor:
        time.sleep(0.1)
        return x.mean((1, 2, 3))

    def other() -> Call:
        made.append("bf16")
        return lambda x: x.mean((1, 2, 3))

    monkeypatch.setattr(engine, "forms", lambda *_: {"eager fp32": lambda: call, "eager bf16": other})
    found = fastest(lived_in(SimpleCNN()), some_input(4), tiles=4 * 20, worth_s=worth_s)
    assert (made, found.name) == ((["bf16"], "eager bf16") if tried else ([], "eager fp32"))
    assert found.reasons == f"less than {worth_s:.0f} s of work" or tried


def test_a_reduced_form_says_how_far_it_is_from_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    def plain(x: Tensor) -> Tensor:
        time.sleep(0.1)
        return x.mean((1, 2, 3))

    monkeypatch.setattr(
        engine, "forms", lambda *_: {"eager fp32": lambda: plain, "eager bf16": lambda: lambda x: 1.02 * x.mean((1, 2, 3))}
    )
    found = fastest(lived_in(SimpleCNN()), some_input(4))
    assert found.name == "eager bf16"
    assert found.reasons.count("away from fp32") == 1
    assert "tiles/s (0.02 away from fp32), eager fp32" in found.reasons


def test_other_forms_in_fp32_are_not_tried_where_less_is_faster_by_far(monkeypatch: pytest.MonkeyPatch) -> None:
    def lasting(seconds: float) -> Call:
        def call(x: Tensor) -> Tensor:
            time.sleep(seconds)
            return x.mean((1, 2, 3))

        return call

    made = {"eager fp32": lambda: lasting(0.2), "eager bf16": lambda: lasting(0.01), "frozen fp32": lambda: lasting(0.0)}
    monkeypatch.setattr(engine, "forms", lambda *_: made)
    hurried = fastest(lived_in(SimpleCNN()), some_input(4), tiles=1_000_000)
    assert hurried.name == "eager bf16"
    assert "frozen fp32 left out (not tried: less precision is faster by far)" in hurried.reasons
    assert fastest(lived_in(SimpleCNN()), some_input(4)).name == "frozen fp32", "without a number of tiles, all are tried"


def test_openvino_is_not_begun_with_where_converting_takes_longer_than_choosing_may(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(x: Tensor) -> Tensor:
        time.sleep(0.1)
        return x.mean((1, 2, 3))

    def never() -> Call:
        raise AssertionError("it was converted")

    monkeypatch.setattr(engine, "forms", lambda *_: {"eager fp32": lambda: call, "openvino fp32": never})
    found = fastest(lived_in(SimpleCNN()), some_input(4), tiles=4 * 20)  # two seconds of work: less than converting takes
    assert "openvino fp32 left out (not tried: too few tiles to pay for it)" in found.reasons


def test_an_unknown_form_is_an_error_in_three_parts() -> None:
    with pytest.raises(MachineProblem) as caught:
        named("openvino fp23", SimpleCNN(), some_input(2))
    assert "form of a network" in caught.value.expected
    assert caught.value.found == "'openvino fp23'"
    assert "openvino fp32" in caught.value.do


def test_less_than_fp32_is_taken_only_where_it_pays() -> None:
    assert choose({"a fp32": 1.0, "b fp32": 0.9, "c bf16": 0.9 / GAIN * 1.01}) == "b fp32"
    assert choose({"a fp32": 1.0, "b fp32": 0.9, "c bf16": 0.9 / GAIN * 0.99}) == "c bf16"


def test_disagreement_is_the_share_of_the_reference() -> None:
    reference = torch.tensor([[3.0, 4.0]])
    assert disagreement(reference + torch.tensor([[0.3, 0.4]]), reference) == pytest.approx(0.1)
    assert disagreement(reference[0], reference) == float("inf")


def test_the_network_is_in_evaluation_mode_and_logits_come_as_they_are() -> None:
    module = SimpleCNN(dropout=0.9).train()
    found = fastest(module, some_input(4))
    assert not module.training
    assert found.call(some_input(3)).shape == (3,)
