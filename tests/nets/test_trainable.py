"""The form that trains fastest: the same logits, gradients, parameters and names as the network it was made of."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sentinode.nets.backbone import Classifier
from sentinode.nets.forward import placed
from sentinode.nets.trainable import Folding, padded, trainable

PX = 64


def network(name: str = "tf_efficientnet_lite0", *, keep_statistics: bool = True, frozen: float = 0.0) -> Classifier:
    """Return a network in training mode whose norms remember something."""
    torch.manual_seed(0)
    model = Classifier(name, input_px=PX, keep_statistics=keep_statistics, frozen=frozen)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    for parameter in model.head.parameters():
        nn.init.normal_(parameter, 0, 0.1)
    placed(model, "cpu").train()
    return model


def tiles(n: int = 4) -> Tensor:
    return torch.randn(n, 3, PX, PX, generator=torch.Generator().manual_seed(1)).to(memory_format=torch.channels_last)


def gradients(model: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the logits of some tiles and the gradient of their loss by each parameter that has one.

    In doubles up to the features: in singles the two forms round apart, a value near the kink of an activation falls on either side of
    it, and how far that moves a gradient depends on the processor's kernels.
    """
    model.get_submodule("pooled").double()
    model.zero_grad()
    logits = model(tiles().double())
    functional.binary_cross_entropy_with_logits(logits, torch.tensor([0.0, 1.0, 1.0, 0.0])).backward()  # type: ignore[no-untyped-call]
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet18", "mobilenetv3_small_050", "resnext26ts"])
def test_logits_and_gradients_are_those_of_the_network(name: str) -> None:
    plain = network(name)
    fast = trainable(plain, tiles(2))
    assert any(isinstance(module, Folding) for module in fast.modules())
    assert {k: tuple(v.shape) for k, v in fast.state_dict().items()} == {k: tuple(v.shape) for k, v in plain.state_dict().items()}
    (logits, by_name), (theirs, their_names) = gradients(fast), gradients(plain)
    torch.testing.assert_close(logits, theirs, rtol=1e-5, atol=1e-5)
    assert by_name.keys() == their_names.keys()
    for parameter, gradient in by_name.items():
        error = (gradient - their_names[parameter]).norm()
        assert error <= 1e-5 * their_names[parameter].norm() + 1e-9, parameter


def test_a_step_of_either_form_leads_to_the_same_weights() -> None:
    plain = network()
    fast = trainable(plain, tiles(2))
    for model in (plain, fast):
        gradients(model)
        torch.optim.SGD(model.parameters(), lr=1e-3).step()
    for (name, mine), theirs in zip(fast.state_dict().items(), plain.state_dict().values(), strict=True):
        assert (mine - theirs).float().norm() <= 1e-6 * theirs.float().norm(), name
    plain.load_state_dict(fast.state_dict())
    torch.testing.assert_close(plain.eval()(tiles().double()), fast.eval()(tiles().double()), rtol=1e-5, atol=1e-5)


def test_a_copy_is_a_network_of_its_own() -> None:
    """The running mean of the weights is a deep copy: what its norms fold must be its own statistics and factors."""
    fast = trainable(network(), tiles(2))
    copied = copy.deepcopy(fast)
    before = copied.eval()(tiles())
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter.mul_(1.5)
    torch.testing.assert_close(copied(tiles()), before, rtol=0, atol=0)


def test_norms_that_learn_their_statistics_are_left_alone() -> None:
    plain = network("resnet18", keep_statistics=False)
    fast = trainable(plain, tiles(2))
    assert not any(isinstance(module, Folding) for module in fast.modules())
    before = copy.deepcopy(fast.state_dict())
    fast(tiles())
    assert any(not torch.equal(value, before[name]) for name, value in fast.state_dict().items() if "running" in name)


def test_frozen_parts_stay_frozen() -> None:
    plain = network(frozen=0.5)
    fast = trainable(plain, tiles(2))
    assert {name for name, p in fast.named_parameters() if p.requires_grad} == {
        name for name, p in plain.named_parameters() if p.requires_grad
    }
    assert gradients(fast)[1].keys() == gradients(plain)[1].keys()


class Odd(nn.Module):
    """A network whose second pass differs from its first: no form of it could be checked."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.calls = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4).eval(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.norm(self.conv(x)).mean((1, 2, 3)) * self.calls  # type: ignore[no-any-return]


def test_a_form_that_does_not_agree_is_not_taken() -> None:
    plain = Odd()
    plain.norm.eval()
    nn.init.ones_(plain.norm.bias)
    fast = trainable(plain, tiles(2))
    assert isinstance(fast.conv, nn.Conv2d)
    assert isinstance(fast.norm, nn.BatchNorm2d)


@pytest.mark.parametrize("edge", [5, 6, 7, 8])
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_padding_is_timms(edge: int, k: int, stride: int) -> None:
    from timm.layers.padding import pad_same

    x = torch.randn(1, 2, edge, edge + 1)
    torch.testing.assert_close(padded(x, k, stride), pad_same(x, [k, k], [stride, stride]), rtol=0, atol=0)
