"""Networks of timm's: named, pooled, frozen in part; every bad name and size is told."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from sentinode.errors import MachineProblem, RunProblem, UsageProblem
from sentinode.nets import backbone
from sentinode.nets.backbone import Classifier, Pooled, create, own_px, preprocessing_of, timm_module
from sentinode.nets.trained import build

torch.manual_seed(0)
INPUT = torch.randn(2, 3, 96, 96)


def test_features_are_mean_and_maximum_of_the_last_stages_over_tile_and_centre() -> None:
    pooled = Pooled("resnet18", 96).eval()
    with torch.inference_mode():
        ours = pooled(INPUT)
        x = pooled.backbone.maxpool(pooled.backbone.act1(pooled.backbone.bn1(pooled.backbone.conv1(INPUT))))
        third = pooled.backbone.layer3(pooled.backbone.layer2(pooled.backbone.layer1(x)))
        fourth = pooled.backbone.layer4(third)
    expected = []
    for maps in (third, fourth):
        size = maps.shape[-1]
        kept = slice(size // 3, size - size // 3)
        for part in (maps, maps[..., kept, kept]):
            expected += [part.flatten(2).mean(2), part.flatten(2).amax(2)]
    torch.testing.assert_close(ours, torch.cat(expected, 1), atol=1e-5, rtol=1e-5)
    assert pooled.width == ours.shape[1] == 4 * (256 + 512)


def test_of_a_transformer_the_pooling_is_timms_own() -> None:
    pooled = Pooled("vit_tiny_patch16_224", 224).eval()
    x = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(pooled(x), pooled.backbone(x))


@pytest.mark.parametrize(("registers", "classed"), [(0, True), (4, True), (0, False), (2, False)])
def test_tokens_are_the_class_beside_the_mean_of_the_patches(registers: int, classed: bool) -> None:
    pooled = Pooled("test_vit", 64, global_pool="", reg_tokens=registers, class_token=classed).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        tokens = pooled.backbone.forward_features(x)
        assert tokens.shape == (2, 16 + registers + classed, 64)
        expected = tokens[:, -16:].sum(1) / 16
        expected = torch.cat([tokens[:, 0], expected], 1) if classed else expected
        torch.testing.assert_close(pooled(x), expected)
    assert pooled.width == expected.shape[1] == (128 if classed else 64)
    assert build("test_vit", {"input_px": 64, "model_args": {"global_pool": ""}})(x).shape == (2,)


def test_a_network_that_gives_neither_features_nor_tokens_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(nn.Module):
        def forward_features(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :, :2]

        forward = forward_features

    monkeypatch.setattr(backbone, "create", lambda *_, **__: Odd())
    with pytest.raises(RunProblem, match=r"features \[n, width\] or tokens .* of 'odd'; found \[2, 3, 2, 64\]; mend model_args"):
        Pooled("odd", 64)


@pytest.mark.parametrize("layer", ["SwiGLUPackd", 3, None])
def test_an_unknown_layer_in_the_arguments_is_told(layer: object) -> None:
    with pytest.raises(
        RunProblem, match=r"the name of a layer of timm's as mlp_layer, such as SwiGLUPacked; found .*; mend model"
    ):
        create("test_vit", 160, mlp_layer=layer)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_050", "convnext_atto", "densenet121"])
def test_networks_of_other_families_give_a_logit_a_tile(name: str) -> None:
    model = build(name, {"input_px": 64}).eval()
    with torch.inference_mode():
        assert model(torch.randn(2, 3, 64, 64)).shape == (2,)


def test_frozen_parts_keep_weights_and_batch_norm() -> None:
    model = Classifier("resnet18", input_px=96, frozen=0.5).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(INPUT).square().sum().backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    depths = model.pooled.depths()
    most = max(depths.values()) + 1
    for name, depth in depths.items():
        assert model.pooled.backbone.get_parameter(name).requires_grad == (depth >= 0.5 * most), name
        if depth < 0.5 * most:
            assert f"pooled.backbone.{name}" not in changed, name
    assert not {
        name for name in changed if "running" in name and name.startswith(("pooled.backbone.bn1", "pooled.backbone.layer1"))
    }
    assert any("layer4" in name and "running_mean" in name for name in changed)


def test_nothing_is_frozen_unless_asked() -> None:
    model = Classifier("resnet18", input_px=96).train()
    assert all(p.requires_grad for p in model.parameters())
    assert all(m.training for m in model.modules())


def test_dropout_of_features_is_for_training_alone() -> None:
    model = Classifier("resnet18", input_px=96, dropout=0.9).eval()
    nn.init.ones_(model.head.dense.weight)
    with torch.inference_mode():
        assert torch.equal(model(INPUT), model(INPUT))


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(UsageProblem, match=r"expected a network of ours or of timm's.*; found 'resnet5O'; did you mean resnet50"):
        create("resnet5O", 96)


def test_a_size_that_the_network_cannot_take_is_told() -> None:
    with pytest.raises(
        UsageProblem,
        match=r"an input size that 'vit_tiny_patch16_224' takes, as 224; found 100.*no multiple of 16.*--input-size 224",
    ):
        create("vit_tiny_patch16_224", 100)
    with pytest.raises(UsageProblem, match=r"an input size that 'mixer_s32_224' takes, as 224; found 64.*--input-size 224"):
        create("mixer_s32_224", 64)


@pytest.mark.parametrize("arguments", [{}, {"img_size": 160, "init_values": 1e-5}, {"img_size": 160, "dynamic_img_size": True}])
def test_a_transformer_is_made_for_the_size_that_is_asked_for(arguments: dict[str, Any]) -> None:
    model = create("test_vit", 96, **arguments)
    assert model.patch_embed.img_size == (96, 96)
    with torch.inference_mode():
        assert model(torch.zeros(2, 3, 96, 96)).shape == (2, 64)


@pytest.mark.parametrize("arguments", [{"nonsense": 1}, {"embed_dim": "wide"}, {"patch_size": 0}, {"depth": "deep"}])
def test_arguments_that_a_network_does_not_take_are_told(arguments: dict[str, Any]) -> None:
    with pytest.raises(
        RunProblem, match=r"expected arguments that 'test_vit' takes; found .*; mend model_args in its config.json"
    ):
        create("test_vit", 160, **arguments)


def test_without_timm_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(
        MachineProblem, match=r"timm and torchvision.*; found no package 'timm'; pip install 'sentinode\[backbones\]'"
    ):
        timm_module()


def test_preprocessing_is_read_from_the_configuration() -> None:
    timm = timm_module()
    for name in ("resnet50", "tf_efficientnet_lite0", "vit_tiny_patch16_224", "inception_v3"):
        config = timm.get_pretrained_cfg(name).to_dict()
        ours = preprocessing_of(config, 96)
        assert (ours.mean, ours.std, ours.interpolation) == (config["mean"], config["std"], config["interpolation"])
        assert own_px(config) == (224 if config.get("fixed_input_size") else backbone.USUAL_PX)
        assert own_px(config | {"model_args": {}}) == config["input_size"][-1], "a hub network's own configuration"
        assert (ours.channels, preprocessing_of(config | {"channels": "bgr"}, 96).channels) == ("rgb", "bgr")


def test_layers_learn_slower_towards_the_input() -> None:
    from sentinode.fit.layers import HEAD_RATE, layer_scales

    model = Classifier("resnet18", input_px=96)
    scales = layer_scales(model, 0.5)
    assert set(scales) == {name for name, _ in model.named_parameters()}
    depths = model.pooled.depths()
    for name, depth in depths.items():
        assert math.isclose(scales[f"pooled.backbone.{name}"], 0.5 ** (max(depths.values()) - depth))
    assert scales["pooled.backbone.conv1.weight"] < scales["pooled.backbone.layer4.0.conv1.weight"]
    assert scales["head.dense.weight"] == HEAD_RATE
