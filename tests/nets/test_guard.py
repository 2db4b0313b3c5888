"""The scaling guard: it fires on every wrong input, and on none that is right."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sentinode.errors import UsageProblem
from sentinode.nets.backbone import timm_module
from sentinode.nets.guard import UNSEEN, check_scaling, covariance, natural_images, remembered
from sentinode.nets.simple_cnn import SimpleCNN
from sentinode.nets.transform import Preprocessing
from sentinode.nets.weights import find, load_into

timm = timm_module()
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5,) * 3, (0.5,) * 3)
UNIT = ((0.0,) * 3, (1.0,) * 3)
BYTES = ((0.0,) * 3, (1 / 255,) * 3)
LESS_MEAN = (IMAGENET[0], (1 / 255,) * 3)
RANGES = {"half": HALF, "0 to 1": UNIT, "0 to 255": BYTES, "imagenet": IMAGENET, "0 to 255 less the mean": LESS_MEAN}


def lite(number: int = 0) -> nn.Module:
    name = f"tf_efficientnet_lite{number}"
    model: nn.Module = timm.create_model(name, num_classes=0)
    load_into(model, find(name))
    return model.eval()


@pytest.fixture(scope="module")
def lite0() -> nn.Module:
    return lite()


class Wants(nn.Module):
    """EfficientNet-Lite (which wants colours less 0.5 over 0.5) behind the affine map that makes it want another preprocessing."""

    def __init__(self, network: nn.Module, wanted: Preprocessing) -> None:
        super().__init__()
        self.network, self.wanted = network, wanted

    def forward(self, x: Tensor) -> Tensor:
        mean, std = (torch.tensor(v, device=x.device)[:, None, None] for v in (self.wanted.mean, self.wanted.std))
        colours = (x if self.wanted.channels == "rgb" else x.flip(1)) * std + mean
        result: Tensor = self.network((colours - 0.5) / 0.5)
        return result


def folded(network: nn.Module, wanted: Preprocessing) -> nn.Module:
    """Return a Lite0 with the map inside its first convolution and batch norm, as a converted network has it."""
    model: Any = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    model.load_state_dict(network.state_dict())
    slope = torch.tensor(wanted.std) / 0.5
    shift = (torch.tensor(wanted.mean) - 0.5) / 0.5
    weight = model.conv_stem.weight.data
    model.bn1.running_mean -= (weight * shift[None, :, None, None]).sum((1, 2, 3))
    weight *= slope[None, :, None, None]
    if wanted.channels == "bgr":
        model.conv_stem.weight.data = weight.flip(1).contiguous()
    return model  # type: ignore[no-any-return]


@pytest.mark.parametrize("px", [96, 128, 160, 224])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_real_weights_with_their_own_preprocessing_pass(number: int, px: int) -> None:
    config = find(f"tf_efficientnet_lite{number}").config
    assert check_scaling(lite(number), Preprocessing(config["mean"], config["std"], px), config) == ""


@pytest.mark.parametrize("given", list(RANGES))
@pytest.mark.parametrize("wanted", list(RANGES))
def test_every_range_is_told_from_every_other(lite0: nn.Module, wanted: str, given: str) -> None:
    network = Wants(lite0, Preprocessing(*RANGES[wanted]))
    if wanted == given:
        check_scaling(network, Preprocessing(*RANGES[given]), None)
        return
    with pytest.raises(
        UsageProblem,
        match=r"expected an input .*remembers.*; found colours less .*; mend mean, .* config.json .* --no-guard",
    ):
        check_scaling(network, Preprocessing(*RANGES[given]), None)


@pytest.mark.parametrize(
    ("wanted", "given", "told"),
    [
        (BYTES, UNIT, "expected an input 0 to 255"),  # [0, 1] fed to a network that wants 0 to 255
        (UNIT, BYTES, "expected an input 0 to 1,"),  # and the reverse
        (UNIT, IMAGENET, "expected an input 0 to 1,"),  # normalised input fed to networks that normalise themselves
        (BYTES, IMAGENET, "expected an input 0 to 255"),
    ],
)
def test_the_four_mistakes_with_folded_weights(
    lite0: nn.Module, wanted: tuple[Any, Any], given: tuple[Any, Any], told: str
) -> None:
    network = folded(lite0, Preprocessing(*wanted))
    check_scaling(network, Preprocessing(*wanted), None)
    with pytest.raises(UsageProblem, match=told):
        check_scaling(network, Preprocessing(*given), None)


@pytest.mark.parametrize("scale", [HALF, UNIT, BYTES])
@pytest.mark.parametrize("wanted", ["rgb", "bgr"])
def test_swapped_channels_are_caught_either_way(lite0: nn.Module, wanted: Any, scale: tuple[Any, Any]) -> None:
    network = folded(lite0, Preprocessing(*scale, channels=wanted))
    check_scaling(network, Preprocessing(*scale, channels=wanted), None)
    other: Any = "bgr" if wanted == "rgb" else "rgb"
    with pytest.raises(
        UsageProblem,
        match=rf"channels in the order {wanted}.*; found {other}, .*; mend mean, .* config.json .* --no-guard",
    ):
        check_scaling(network, Preprocessing(*scale, channels=other), None)


def test_the_declaration_is_checked_for_networks_without_batch_norm() -> None:
    vit = timm.create_model("test_vit", num_classes=0)
    config = {"mean": IMAGENET[0], "std": IMAGENET[1]}
    check_scaling(vit, Preprocessing(*IMAGENET, 160), config)
    check_scaling(vit, Preprocessing(*HALF, 160), None)
    for wrong in (HALF, UNIT, BYTES):
        with pytest.raises(
            UsageProblem, match=r"expected colours less \(0.485, .*as the weights declare; found less .*; mend mean"
        ):
            check_scaling(vit, Preprocessing(*wrong, 160), config)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_a_network_without_batch_norm_at_the_input_is_said_to_be_unchecked(name: str) -> None:
    model, config = timm.create_model(name, num_classes=0), timm.get_pretrained_cfg(name).to_dict()
    told = check_scaling(model, Preprocessing(config["mean"], config["std"], 160), config)
    assert told == UNSEEN == "no batch norm at the input: range not checked"


@pytest.mark.parametrize("name", ["resnet18", "test_efficientnet", "test_vit", "test_convnext"])
def test_fresh_networks_remember_nothing(name: str) -> None:
    px = timm.get_pretrained_cfg(name).input_size[-1]
    for scale in RANGES.values():
        check_scaling(timm.create_model(name, num_classes=0), Preprocessing(*scale, px), None)


def test_declared_channels_are_checked() -> None:
    model, plain = SimpleCNN(), Preprocessing(*HALF)
    check_scaling(model, Preprocessing(*HALF, channels="bgr"), {"mean": HALF[0], "std": HALF[1], "channels": "bgr"})
    check_scaling(model, plain, {"mean": HALF[0], "std": HALF[1]})
    with pytest.raises(UsageProblem, match=r"channels in the order bgr, as the weights declare; found rgb; .*--no-guard"):
        check_scaling(model, plain, {"mean": HALF[0], "std": HALF[1], "channels": "bgr"})


@pytest.mark.parametrize("seed", range(3))
def test_what_is_not_affine_before_the_first_norm_is_not_judged(seed: int) -> None:
    """The first norm stands behind a maximum, which is affine of flat images alone: with seed 1 a range would be read out of it."""
    torch.manual_seed(seed)
    model = SimpleCNN()
    model.train()
    for _ in range(3):
        model(torch.rand(4, 3, 48, 48))
    assert remembered(model, 224) is None
    assert check_scaling(model, Preprocessing(*BYTES), None) == UNSEEN


@pytest.mark.parametrize("colours", [((0.70, 0.54, 0.66), 0.22), ((0.485, 0.456, 0.406), 0.28)])
def test_the_memory_of_a_norm_trained_here_is_read_back(colours: tuple[tuple[float, float, float], float]) -> None:
    """A network whose batch norm saw known images: their mean colour and spread come out, and its preprocessing passes."""
    mean, spread = colours
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 7, stride=2, bias=False), nn.BatchNorm2d(32, momentum=None))
    images = torch.tensor(mean)[:, None, None] + natural_images(24, 96).flip(2) * spread / 0.28
    preprocessing = Preprocessing(*IMAGENET)
    shift, std = (torch.tensor(v)[:, None, None] for v in IMAGENET)
    model((images - shift) / std)
    memory = remembered(model, 96)
    assert memory is not None
    torch.testing.assert_close(memory.mean * std[:, 0, 0] + shift[:, 0, 0], images.mean((0, 2, 3)), atol=0.01, rtol=0)
    assert memory.scale == pytest.approx(1 / 0.226 * spread / 0.28, rel=0.1)
    check_scaling(model, preprocessing, None)
    for wrong in (BYTES, UNIT, LESS_MEAN):
        if mean[0] == 0.485:
            with pytest.raises(UsageProblem):
                check_scaling(model, Preprocessing(*wrong), None)


def test_the_network_is_left_as_it_was(lite0: nn.Module) -> None:
    before = {key: tensor.clone() for key, tensor in lite0.state_dict().items()}
    lite0.train()
    check_scaling(lite0, Preprocessing(*HALF), None)
    assert lite0.training
    lite0.eval()
    assert all(torch.equal(tensor, before[key]) for key, tensor in lite0.state_dict().items())
    assert not any(part._forward_pre_hooks for part in lite0.modules())


def test_natural_images_have_the_published_covariance_and_spectrum() -> None:
    images = natural_images(32, 128)
    centred = images.permute(1, 0, 2, 3).reshape(3, -1)
    torch.testing.assert_close(torch.cov(centred), covariance(), atol=0.02, rtol=0.1)
    power = torch.fft.fft2(images).abs().square().mean((0, 1))
    ratio = float((power[0, 4] + power[4, 0]) / (power[0, 16] + power[16, 0]))
    assert 8 < ratio < 32  # amplitude 1/f: power falls by 16 over two octaves
