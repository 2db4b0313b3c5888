"""Weights and networks: whole matches under any of the usual names, and clear errors for everything else."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sentinode.errors import RunProblem
from sentinode.nets.backbone import timm_module
from sentinode.nets.matching import matched
from sentinode.nets.states import State, read_state
from sentinode.nets.weights import package_file

timm = timm_module()


def random(name: str, **how: Any) -> nn.Module:
    """Return a network whose every tensor differs from a fresh one's, batch norm's running ones too."""
    torch.manual_seed(7)
    model: nn.Module = timm.create_model(name, **how)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    return model.eval()


def output(model: nn.Module, px: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        result: Tensor = model(torch.rand(1, 3, px, px, generator=generator))
    return result


def put(model: nn.Module, state: State, **how: Any) -> nn.Module:
    model.load_state_dict(matched(model, state, "net", **how), strict=False)
    return model.eval()


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "backbone.", "encoder.", "module.backbone.", "a.b.c."])
def test_prefixes_do_not_matter(prefix: str) -> None:
    source = random("test_resnet")
    others = {"projector.0.weight": torch.zeros(3, 3)} if prefix else {}
    state = others | {prefix + name: tensor for name, tensor in source.state_dict().items()}
    assert torch.equal(output(put(timm.create_model("test_resnet"), state)), output(source))


def test_a_torchvision_file_gives_torchvisions_numbers() -> None:
    from torchvision.models import resnet18

    torch.manual_seed(3)
    theirs = resnet18(weights=None, num_classes=7).eval()
    ours = put(timm.create_model("resnet18", num_classes=7), theirs.state_dict())
    torch.testing.assert_close(output(ours), output(theirs))


def test_positions_of_a_vit_are_resampled_as_timm_does_it() -> None:
    source = random("test_vit")
    theirs = timm.create_model(
        "test_vit", pretrained=True, pretrained_cfg_overlay={"state_dict": source.state_dict()}, img_size=96
    )
    ours = put(timm.create_model("test_vit", img_size=96), source.state_dict())
    torch.testing.assert_close(output(ours, 96), output(theirs.eval(), 96))


def test_the_package_is_renamed_in_the_order_of_both_and_every_tensor_arrives() -> None:
    file = package_file("tf_efficientnet_lite0")
    assert file is not None
    state = read_state(file)
    model = put(timm.create_model("tf_efficientnet_lite0"), state)
    own = model.state_dict()
    assert len(own) == len(state)
    for theirs, ours in zip(state.values(), own.values(), strict=True):
        assert torch.equal(theirs, ours)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("efficientnet_b0", {"conv_pw": "_expand_conv", "conv_dw": "_depthwise_conv", "conv_pwl": "_project_conv"})],
)
def test_efficientnet_pytorch_names_with_squeeze_and_excitation(name: str, theirs: dict[str, str]) -> None:
    source = random(name, num_classes=0)
    state, number, last = {}, -1, ("", "")
    for key, tensor in source.state_dict().items():
        if not key.startswith("blocks."):
            head = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
            state[head[key.split(".")[0]] + "." + key.split(".", 1)[1]] = tensor
            continue
        _, stage, block, rest = key.split(".", 3)
        number += (stage, block) != last
        last = (stage, block)
        plain = stage == "0"
        inner, kind = rest.rsplit(".", 1)
        names = {"se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand"} | (
            {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
            if plain
            else theirs | {"bn1": "_bn0", "bn2": "_bn1", "bn3": "_bn2"}
        )
        state[f"_blocks.{number}.{names[inner]}.{kind}"] = tensor
    assert torch.equal(output(put(timm.create_model(name, num_classes=0), state)), output(source))


def test_a_head_is_dropped_or_left() -> None:
    source = random("test_resnet", num_classes=10)
    state = source.state_dict()
    assert not [key for key in matched(timm.create_model("test_resnet", num_classes=0), state, "net") if key.startswith("fc")]
    two = timm.create_model("test_resnet", num_classes=2)
    before = two.fc.weight.clone()
    put(two, state)
    assert torch.equal(two.fc.weight, before)


def test_the_norm_inside_a_head_must_come_with_the_weights() -> None:
    state = random("test_convnext").state_dict()
    del state["head.norm.weight"]
    with pytest.raises(RunProblem, match=r"1 missing, as 'head.norm.weight'"):
        matched(timm.create_model("test_convnext"), state, "net")


def test_old_files_without_counters_of_batches_fit() -> None:
    source = random("test_resnet")
    state = {key: tensor for key, tensor in source.state_dict().items() if "num_batches" not in key}
    assert torch.equal(output(put(timm.create_model("test_resnet"), state)), output(source))


@pytest.mark.parametrize(
    ("model", "weights"),
    [("resnet18", "resnet34"), ("resnet18", "resnet26"), ("test_vit", "test_resnet"), ("test_efficientnet", "resnet18")],
)
def test_weights_of_another_network_are_told_with_what_differs(model: str, weights: str) -> None:
    network = timm.create_model(model)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with pytest.raises(RunProblem) as caught:
        matched(network, timm.create_model(weights).state_dict(), model)
    told = str(caught.value)
    assert told.startswith(f"expected weights of {model} ({len(before)} tensors); found ")
    assert re.search(r"\d+ tensors, \d+ of them fitting; \d+ (missing|of another shape|without a place), as '", told)
    assert told.endswith("give weights of this network, or the --model that they are of")
    assert len(told) < 900
    assert "\n" not in told
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


def test_names_from_a_file_are_shown_safely(tmp_path: Path) -> None:
    with pytest.raises(RunProblem, match=r"'\\x1b\[2J'"):
        matched(timm.create_model("test_resnet"), {"\x1b[2J": torch.zeros(1)}, "net")
