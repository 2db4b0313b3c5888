"""`export`: a file that runs without Sentinode and gives what `predict` gives; a file that does not is not kept."""

import builtins
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from torch import Tensor, nn

from sentinode.errors import MachineProblem, RunProblem, UsageProblem
from sentinode.infer.export import ENDINGS, Export, export
from sentinode.infer.graph import Portable
from sentinode.infer.parity import parity_tiles
from sentinode.infer.predict import predict
from sentinode.nets.trained import ModelFacts, build, load, save_model, weights_digest
from sentinode.nets.transform import Preprocessing
from sentinode.tiles.pack import pack
from sentinode.tiles.synth import synthesise, write_kaggle_folder

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
Tiles = npt.NDArray[np.uint8]
PX = 24
FACTS = ModelFacts("simple-cnn", {"dropout": 0.3}, Preprocessing((0.7, 0.5, 0.7), (0.2, 0.25, 0.2)), PX, ("normal", "tumour"))


def write_run(folder: Path, seed: int = 0, **facts: Any) -> Path:
    """Write a run with random weights and random statistics, whose logits spread over several units."""
    torch.manual_seed(seed)
    network = build("simple-cnn", {"dropout": 0.3})
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.weight, 1, 0.3)
            nn.init.normal_(part.bias, 0, 0.3)
            nn.init.normal_(part.running_mean, 0, 0.3)  # type: ignore[arg-type]
            nn.init.uniform_(part.running_var, 0.3, 2)  # type: ignore[arg-type]
    nn.init.normal_(network.get_parameter("head.weight"), 0, 1)
    save_model(folder, network.state_dict(), dataclasses.replace(FACTS, **facts))
    return folder


def random_tiles(n: int, seed: int = 0, px: int = PX) -> Tiles:
    return np.random.default_rng(seed).integers(0, 256, (n, px, px, 3), dtype=np.uint8)


def runner(path: Path) -> Callable[[Tiles], npt.NDArray[np.float32]]:
    """Run a file as a stranger would, with the library of its format alone."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda tiles: session.run(["probability"], {"tiles": tiles})[0]
    network = torch.jit.load(path)  # type: ignore[no-untyped-call]
    return lambda tiles: network(torch.from_numpy(tiles)).detach().numpy()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two members that differ in all that a run brings along."""
    folder = tmp_path_factory.mktemp("runs")
    other = Preprocessing((0.4, 0.5, 0.6), (0.3, 0.2, 0.4), 32, "bilinear", "bgr")
    first = write_run(folder / "first", logit_shift=0.7, temperature=1.9, threshold=0.3, threshold_rule="a rule")
    return [first, write_run(folder / "second", 1, preprocessing=other, logit_shift=-0.4, threshold=0.8)]


@pytest.fixture(scope="module", params=["onnx", "torchscript"])
def made(request: pytest.FixtureRequest, runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Export]:
    """In one format: the first run; the ensemble of both over eight views."""
    folder, ending = tmp_path_factory.mktemp("files"), ENDINGS[request.param]
    alone = export(runs[0], to=request.param, out=folder / f"alone{ending}", quiet=True)
    with pytest.MonkeyPatch.context() as patch:  # sixteen passes a tile: fewer tiles do
        patch.setattr("sentinode.infer.export.parity_tiles", lambda *_: (random_tiles(100), "random"))
        return [alone, export(*runs, to=request.param, out=folder / f"all{ending}", views=8, quiet=True)]


def by_hand(run: Path, tiles: Tiles) -> npt.NDArray[np.float64]:
    """The logits [n] of a run that resizes nothing, worked out here: float64 arithmetic, the network in torch's."""
    facts, network = load(run).facts, load(run).model.double()
    images = (tiles / 255.0 - np.array(facts.preprocessing.mean)) / np.array(facts.preprocessing.std)
    with torch.no_grad():
        raw = network(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    return np.asarray((raw + facts.logit_shift) / facts.temperature)


@pytest.mark.parametrize("n", [1, 3, 64])
def test_a_file_gives_what_arithmetic_gives_for_any_number_of_tiles(made: list[Export], runs: list[Path], n: int) -> None:
    tiles = random_tiles(n, seed=n)
    found = runner(made[0].path)(tiles)
    assert found.dtype == np.float32
    assert found.shape == (n,)
    np.testing.assert_allclose(found, expit(by_hand(runs[0], tiles)), atol=1e-5)


def test_one_file_holds_an_ensemble_with_views_and_each_runs_preprocessing(made: list[Export], runs: list[Path]) -> None:
    tiles = random_tiles(20, seed=5)
    turned = [np.rot90(image, k, axes=(1, 2)) for image in (tiles, tiles[:, :, ::-1]) for k in range(4)]
    logits = [load(run).logits(np.ascontiguousarray(turn)) for run in runs for turn in turned]
    found = runner(made[1].path)(tiles)
    np.testing.assert_allclose(found, expit(np.mean(logits, axis=0)), atol=1e-5)
    assert np.abs(found - runner(made[0].path)(tiles)).max() > 0.01


def test_a_file_gives_what_predict_writes(made: list[Export], runs: list[Path], tmp_path: Path) -> None:
    write_kaggle_folder(tmp_path / "kaggle", synthesise(3, 10, px=PX, seed=8))
    store = pack(tmp_path / "kaggle", out=tmp_path / "k.store", quiet=True)
    scores = predict(*runs, store.path, out=tmp_path / "s.csv", views=8, quiet=True)
    np.testing.assert_allclose(runner(made[1].path)(np.array(store.tiles)), scores.table["probability"], atol=1e-5)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_with_eight_views_a_tile_may_lie_as_it_likes(made: list[Export], seed: int) -> None:
    tile = random_tiles(1, seed)[0]
    lying = np.stack([np.rot90(side, k) for side in (tile, tile[:, ::-1]) for k in range(4)])
    assert np.ptp(runner(made[1].path)(lying)) < 1e-6
    assert np.ptp(runner(made[0].path)(lying)) > 1e-4  # without views it is seen


def test_the_file_says_what_a_reader_must_know(made: list[Export], runs: list[Path]) -> None:
    path = made[1].path
    if path.suffix == ".onnx":
        told = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).get_modelmeta().custom_metadata_map
    else:
        extra = {"sentinode.json": ""}
        torch.jit.load(path, _extra_files=extra)  # type: ignore[no-untyped-call]
        told = json.loads(extra["sentinode.json"])
    assert told == made[1].facts
    assert (told["format"], told["px"], told["views"]) == ("1", str(PX), "8")
    assert (told["negative"], told["positive"]) == ("normal", "tumour")
    assert json.loads(told["runs"]) == [weights_digest(run) for run in runs]
    odds = [0.3 / 0.7, 0.8 / 0.2]  # the mean in logit space is the geometric mean of the odds
    assert float(told["threshold"]) == pytest.approx(np.sqrt(odds[0] * odds[1]) / (1 + np.sqrt(odds[0] * odds[1])))
    assert "a rule" in told["threshold_rule"]
    assert "not a medical device" in told["note"]
    assert made[0].facts["threshold"] == "0.3"


def test_an_onnx_graph_is_plain(made: list[Export]) -> None:
    """ONNX's own operations, the promised names and types, and no folder of this machine."""
    for result in made if made[0].path.suffix == ".onnx" else []:
        model = onnx.load(result.path)
        onnx.checker.check_model(model, full_check=True)
        assert [(part.domain, part.version) for part in model.opset_import] == [("", 18)]
        (tiles,), (probability,) = model.graph.input, model.graph.output
        assert (tiles.name, probability.name) == ("tiles", "probability")
        assert tiles.type.tensor_type.elem_type == onnx.TensorProto.UINT8
        assert [d.dim_param or d.dim_value for d in tiles.type.tensor_type.shape.dim] == ["n", PX, PX, 3]
        assert [d.dim_param for d in probability.type.tensor_type.shape.dim] == ["n"]
        assert str(Path(__file__).parents[2]).encode() not in result.path.read_bytes()
        assert result.size == result.path.stat().st_size


def test_the_same_run_gives_the_same_file(runs: list[Path], tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        export(runs[0], to="onnx", out=tmp_path / name, quiet=True)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_parity_is_checked_on_a_thousand_tiles_and_told(made: list[Export]) -> None:
    assert (made[0].parity.n, made[0].parity.tiles) == (1000, "synthetic tissue, noise, flat colours")
    for result in made:
        assert 0 <= result.parity.largest_difference <= 1e-4
        told = json.loads(json.dumps(result.as_dict()))
        assert told["parity"] == dataclasses.asdict(result.parity)
        assert Path(told["path"]) == result.path
        assert f"{result.parity.largest_difference:.1e}" in "\n".join(result.lines())
        assert "'tumour'" in "\n".join(result.lines())


def test_parity_is_checked_on_a_stores_own_tiles(runs: list[Path], tmp_path: Path) -> None:
    write_kaggle_folder(tmp_path / "kaggle", synthesise(3, 10, px=PX, seed=8))
    store = pack(tmp_path / "kaggle", out=tmp_path / "k.store", quiet=True)
    result = export(runs[0], to="torchscript", out=tmp_path / "a.pt", tiles=store.path, quiet=True)
    assert (result.parity.n, result.parity.tiles.startswith("30 of 'k.store', ")) == (1000, True)
    tiles, _ = parity_tiles(PX, store.path)
    assert tiles[:30].tobytes() == np.array(store.tiles).tobytes()
    with pytest.raises(RunProblem, match=r"expected --tiles of 32 px, as the run was trained on; found 24 px; name another"):
        parity_tiles(32, store.path)


@pytest.mark.parametrize("to", ["onnx", "torchscript"])
@pytest.mark.parametrize(
    ("network", "arguments", "px"),
    [
        ("p4m-cnn", {}, 24),
        ("resnet18", {"input_px": 64, "head": "mlp"}, 48),
        ("tf_efficientnet_lite0", {"input_px": 128}, 96),
        ("vit_tiny_patch16_224", {"input_px": 32, "model_args": {"img_size": 32, "depth": 2}}, 48),
    ],
)
def test_every_kind_of_network_can_be_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str, arguments: dict[str, Any], px: int, to: Any
) -> None:
    """Random weights. Resized tiles are those of prediction to the byte, and padding that depends on size is a number."""
    torch.manual_seed(0)
    model = build(network, arguments)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, 0, 0.05)
    with torch.no_grad():
        list(model.parameters())[-2].mul_(10)  # a fresh head hardly tells tiles apart
    preprocessing = Preprocessing((0.5, 0.4, 0.6), (0.5, 0.4, 0.6), arguments.get("input_px", 0))
    run = tmp_path / "run"
    facts = dataclasses.replace(FACTS, network=network, arguments=arguments, preprocessing=preprocessing, px=px)
    save_model(run, model.state_dict(), facts)
    monkeypatch.setattr("sentinode.infer.export.parity_tiles", lambda *_: (random_tiles(8, px=px), "random"))
    result = export(run, to=to, quiet=True)
    tiles = random_tiles(9, 1, px)
    found = runner(result.path)(tiles)
    np.testing.assert_allclose(found, load(run).predict_proba(tiles), atol=1e-4)
    assert np.ptp(found) > 1e-3
    if to == "onnx":
        assert not {"Ceil", "Max", "Resize"} & {node.op_type for node in onnx.load(result.path).graph.node}


def spoil(monkeypatch: pytest.MonkeyPatch, wrong: Callable[[Tensor], Tensor]) -> None:
    """Let what is written differ from what predict computes."""
    right = Portable.forward
    monkeypatch.setattr(Portable, "forward", lambda self, tiles: wrong(right(self, tiles)))


@pytest.mark.parametrize("to", ["onnx", "torchscript"])
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda p: p * 0.999, r"one that differs by 0.000\d+ on 1,000 tiles"),
        (lambda p: p + p.log() * 0 / 0, r"differs by nan"),
        (lambda p: p.double(), r"differs by nan"),
        (lambda p: p[:2], r"differs by nan|Invalid|Error|axis"),
    ],
)
def test_a_file_that_differs_is_not_kept(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: Any, wrong: Callable[[Tensor], Tensor], told: str
) -> None:
    spoil(monkeypatch, wrong)
    out = tmp_path / f"file{ENDINGS[to]}"
    out.write_text("mine", "utf-8")
    with pytest.raises(RunProblem, match=told) as caught:
        export(runs[0], to=to, out=out, overwrite=True, quiet=True)
    assert caught.value.expected in {
        "a file that gives the probabilities of 'predict' within 0.0001",
        f"a network that can be written as {to}",
    }
    assert "use --to" in caught.value.do
    assert [path.read_text("utf-8") for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("to", ["onnx", "torchscript"])
def test_memory_that_is_too_small_is_no_fault_of_the_format(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: Any
) -> None:
    def full(*_: object) -> None:
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"
        )

    monkeypatch.setattr(f"sentinode.infer.export.write_{to}", full)
    with pytest.raises(MachineProblem, match=r"expected memory enough for the work; found 99 bytes .*; use fewer --views"):
        export(runs[0], to=to, out=tmp_path / f"file{ENDINGS[to]}", quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_an_operation_that_a_format_has_not_is_told(runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, lambda p: p + torch.linalg.svdvals(p[:, None]).sum() * 0)
    with pytest.raises(RunProblem, match=r"expected a network that can be written as onnx; found '.*'; use --to torchscript"):
        export(runs[0], to="onnx", out=tmp_path / "a.onnx", quiet=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_the_packages_the_remedy_is_named(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    real = builtins.__import__

    def without(name: str, *more: Any) -> Any:
        if name == package:
            raise ImportError(f"No module named {name!r}")
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    message = rf"expected onnx and onnxruntime .*; found No module named '{package}'; pip install 'sentinode\[onnx\]'"
    with pytest.raises(MachineProblem, match=message):
        export(runs[0], to="onnx", out=tmp_path / "a.onnx", quiet=True)
    export(runs[0], to="torchscript", out=tmp_path / "a.pt", quiet=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "onx"}, r"expected a format to export to; found 'onx'; did you mean onnx\?"),
        ({"to": "onnx", "views": 3}, r"expected 1, 4 or 8 views; found '3'; change --views"),
        ({"to": "onnx", "out": "a.pt"}, r"expected --out that ends in .onnx for onnx; found 'a.pt'; change the ending"),
        ({"to": "torchscript", "out": "a.onnx"}, r"expected --out that ends in .pt for torchscript; found 'a.onnx'"),
        ({"to": "onnx", "out": "there.onnx"}, r"expected a new file for .*; found one that exists; .*--overwrite"),
        ({"to": "onnx", "out": "folder.onnx", "overwrite": True}, r"expected a file for .*; found a folder; choose another"),
    ],
)
def test_what_cannot_be_meant_is_told(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.onnx").write_text("mine", "utf-8")
    Path("folder.onnx").mkdir()
    with pytest.raises(UsageProblem, match=message):
        export(runs[0], quiet=True, **options)
    assert Path("there.onnx").read_text("utf-8") == "mine"
    assert len(list(tmp_path.iterdir())) == 2


def test_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem, match=r"expected at least one run; found none; sentinode export RUN"):
        export(to="onnx")
    with pytest.raises(RunProblem, match=r"expected a run folder at '.*nowhere'; found no model.json"):
        export(tmp_path / "nowhere", to="torchscript")
    assert list(tmp_path.iterdir()) == []


def test_a_file_lies_beside_its_run_if_nothing_else_is_said(runs: list[Path], tmp_path: Path) -> None:
    shutil.copytree(runs[0], tmp_path / "run 1.5")
    result = export(tmp_path / "run 1.5", to="torchscript", quiet=True)
    assert result.path == tmp_path / "run 1.5.pt"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run 1.5", "run 1.5.pt"]
