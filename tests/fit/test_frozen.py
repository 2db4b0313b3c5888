"""A head on a frozen network, by `train`: what decides it, what is shared between runs, and what stops it before it writes."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import sentinode
from sentinode.errors import MachineProblem, RunProblem, UsageProblem
from sentinode.fit import features, frozen, heads
from sentinode.fit.parts import choose_parts
from sentinode.fit.start import classifier_of, weights_of
from sentinode.nets.backbone import timm_module
from sentinode.nets.engine import named
from sentinode.nets.transform import Transform
from sentinode.nets.weights import find, load_into
from sentinode.settings import TrainSettings
from sentinode.tiles.arrays import store_of
from sentinode.tiles.pack import pack
from sentinode.tiles.store import Store
from sentinode.tiles.synth import synthesise, write_kaggle_folder

FROZEN: dict[str, Any] = {"backbone": "frozen", "input_size": 32, "split": "random", "precision": "fp32", "quiet": True}


@pytest.fixture(autouse=True)
def _one_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which form of a network extracts is timed, and forms differ in their last digits: here it is always the plain one."""
    monkeypatch.setattr(features, "fastest", lambda module, example, **_: named("eager fp32", module, example))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    write_kaggle_folder(tmp_path / "kaggle", synthesise(5, 12, px=32, seed=3))
    return pack(tmp_path / "kaggle", out=tmp_path / "s.store", quiet=True)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the number of tiles that each extraction made."""
    made: list[int] = []
    true = features.extracted

    def extracted(*of: Any, **how: Any) -> Any:
        found = true(*of, **how)
        made.append(found.made)
        return found

    monkeypatch.setattr(frozen, "extracted", extracted)
    return made


def test_another_seed_and_another_sample_extract_what_is_missing_and_a_run_depends_on_nothing_else(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = counted(monkeypatch)
    parts = choose_parts(store, None, TrainSettings(split="random", seed=0, sample="50%"))
    sentinode.train(store, out=tmp_path / "half", sample="50%", **FROZEN)
    assert made == [len(parts.train[1]), len(parts.valid[1])]
    assert sum(made) < 0.75 * len(store)
    second = sentinode.train(store, out=tmp_path / "second", seed=1, **FROZEN)
    assert sum(made) == len(store)
    sentinode.train(store, out=tmp_path / "third", seed=2, **FROZEN)
    assert made[4:] == [0, 0]
    alone = sentinode.train(store, out=tmp_path / "alone", seed=1, features=str(tmp_path / "empty"), **FROZEN)
    assert (second.path / "model.safetensors").read_bytes() == (alone.path / "model.safetensors").read_bytes()


def test_in_default_precision_another_seed_extracts_nothing_again_where_fp32_is_the_fastest(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, how = counted(monkeypatch), FROZEN | {"precision": "auto"}
    sentinode.train(store, out=tmp_path / "first", **how)
    second = sentinode.train(store, out=tmp_path / "second", seed=1, **how)
    assert sum(made[:2]) == len(store)
    assert made[2:] == [0, 0]
    alone = sentinode.train(store, out=tmp_path / "alone", seed=1, features=str(tmp_path / "empty"), **how)
    assert (second.path / "model.safetensors").read_bytes() == (alone.path / "model.safetensors").read_bytes()


def test_the_plan_of_a_frozen_run_has_a_reason_for_each_choice(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = sentinode.train(store, out=tmp_path / "run", **FROZEN | {"quiet": False}).record["plan"]
    assert set(plan) == {*plan["reasons"], "reasons"} == {"device", "threads", "precision", "engine", "reasons"}
    told = capsys.readouterr().err
    assert all(f"  {name}: {plan[name]} ({plan['reasons'][name]})" in told for name in ("device", "threads"))
    assert f"features by {plan['engine']}" in told


def test_where_features_are_kept_is_no_part_of_a_training(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(frozen, "fitted_head", stop)
        with pytest.raises(KeyboardInterrupt):
            sentinode.train(store, out=tmp_path / "run", features=str(tmp_path / "here"), **FROZEN)
    (tmp_path / "here").rename(tmp_path / "moved")
    made = counted(monkeypatch)
    run = sentinode.train(store, out=tmp_path / "run", features=str(tmp_path / "moved"), resume=True, **FROZEN)
    assert made == [0, 0]
    again = sentinode.train(store, out=tmp_path / "run", resume=True, **FROZEN)
    assert again.facts == run.facts


def test_no_room_for_a_logistic_head_is_told_before_anything_is_extracted(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = counted(monkeypatch)
    monkeypatch.setattr(heads, "available_bytes", lambda: 50_000)
    with pytest.raises(MachineProblem, match=r"memory for a logistic regression on .*; use --head linear"):
        sentinode.train(store, out=tmp_path / "run", **FROZEN)
    assert made == []
    assert not (tmp_path / "s.features").exists()
    run = sentinode.train(store, out=tmp_path / "linear", head="linear", epochs=1, **FROZEN)
    assert np.isfinite(run.record["valid"]["auroc"])


def saved_lite(folder: Path, *, swapped: bool = False, **facts: Any) -> str:
    """Save EfficientNet-Lite0 as a folder with a config.json; `swapped`: made to take blue first."""
    model = timm_module().create_model("tf_efficientnet_lite0")
    load_into(model, find("tf_efficientnet_lite0"))
    state = model.state_dict()
    if swapped:
        state["conv_stem.weight"] = state["conv_stem.weight"].flip(1).contiguous()
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    cfg = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 64, 64]} | facts
    (folder / "config.json").write_text(json.dumps({"architecture": "tf_efficientnet_lite0", "pretrained_cfg": cfg}))
    return str(folder)


@pytest.mark.parametrize(
    ("swapped", "facts", "message"),
    [
        (
            False,
            {"mean": [0, 0, 0], "std": [1 / 255] * 3},
            r"an input -1 to 1 .*remembers.*; found colours less \(0, 0, 0\) over",
        ),
        (False, {"mean": [0, 0, 0], "std": [255] * 3}, r"an input -1 to 1 .*remembers"),
        (False, {"channels": "bgr"}, r"channels in the order rgb, which the weights' first batch norm remembers; found bgr"),
        (True, {}, r"channels in the order bgr, which the weights' first batch norm remembers; found rgb"),
    ],
)
@pytest.mark.parametrize("backbone", ["frozen", "finetune"])
def test_the_guard_stops_a_training_on_weights_that_declare_the_wrong_thing_and_nothing_is_written(
    store: Store, tmp_path: Path, backbone: str, swapped: bool, facts: dict[str, Any], message: str
) -> None:
    weights = saved_lite(tmp_path / "weights", swapped=swapped, **facts)
    there = sorted(tmp_path.iterdir())
    with pytest.raises(UsageProblem, match=rf"expected {message}.*--no-guard"):
        sentinode.train(store, out=tmp_path / "run", weights=weights, **FROZEN | {"backbone": backbone})
    assert sorted(tmp_path.iterdir()) == there


def test_weights_that_take_blue_first_predict_and_export_as_those_that_take_red_first(store: Store, tmp_path: Path) -> None:
    plain = saved_lite(tmp_path / "rgb")
    turned = saved_lite(tmp_path / "bgr", swapped=True, channels="bgr")
    runs = [
        sentinode.train(
            store, out=tmp_path / f"run-{Path(weights).name}", model=f"local-dir:{weights}", **FROZEN | {"input_size": 0}
        )
        for weights in (plain, turned)
    ]
    assert [run.facts.preprocessing.channels for run in runs] == ["rgb", "bgr"]
    assert [run.facts.preprocessing.input_px for run in runs] == [64, 64], "what the configuration says, not our default"
    tiles = np.array(store.tiles)
    looks = [
        classifier_of(run.model).pooled(Transform(run.facts.preprocessing, store.px)(torch.from_numpy(tiles))).detach()
        for run in runs
    ]
    torch.testing.assert_close(looks[1], looks[0], rtol=1e-3, atol=1e-4)
    # Two heads were fitted: last digits of 60 tiles' features show.
    np.testing.assert_allclose(runs[1].predict_proba(tiles), runs[0].predict_proba(tiles), atol=0.01)
    made = sentinode.export(runs[1].path, to="torchscript", out=tmp_path / "bgr.pt", quiet=True)
    assert made.parity.largest_difference <= 1e-4


def saved(folder: Path, name: str, **model_args: Any) -> str:
    """Return a folder that timm saved a network with random weights into."""
    torch.manual_seed(1)
    source = timm_module().create_model(name, **model_args)
    facts = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 32, 32]}
    config = {"pretrained_cfg": facts, "model_args": model_args}
    timm_module().models.save_for_hf(source, folder, model_config=config, safe_serialization=True)
    return str(folder)


@pytest.fixture
def resnet(tmp_path: Path) -> str:
    return saved(tmp_path / "saved", "test_resnet")


@pytest.mark.parametrize("backbone", ["frozen", "finetune"])
def test_weights_that_bring_another_network_train_nothing(store: Store, tmp_path: Path, resnet: str, backbone: str) -> None:
    there = sorted(tmp_path.iterdir())
    with pytest.raises(RunProblem, match=r"expected weights of 'test_efficientnet'; found those of 'test_resnet'"):
        sentinode.train(store, out=tmp_path / "run", model="test_efficientnet", weights=resnet, **FROZEN | {"backbone": backbone})
    assert sorted(tmp_path.iterdir()) == there


def test_a_model_that_was_left_open_comes_with_its_weights_and_the_record_repeats_it(
    store: Store, tmp_path: Path, resnet: str
) -> None:
    run = sentinode.train(store, out=tmp_path / "run", weights=resnet, **FROZEN)
    assert (run.facts.network, run.record["settings"]["model"]) == ("test_resnet", f"local-dir:{resnet}")
    again = sentinode.train(store, out=tmp_path / "again", settings=TrainSettings(**run.record["settings"]), quiet=True)
    named = sentinode.train(store, out=tmp_path / "named", model="test_resnet", weights=resnet, **FROZEN)
    for other in (again, named):
        assert (other.path / "model.safetensors").read_bytes() == (run.path / "model.safetensors").read_bytes()


def test_an_encoder_that_leaves_its_pooling_open_trains_and_says_that_its_range_is_not_checked(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = saved(tmp_path / "vit", "test_vit", img_size=32, global_pool="", reg_tokens=2)
    run = sentinode.train(store, out=tmp_path / "run", weights=weights, **FROZEN | {"quiet": False})
    unseen = "no batch norm at the input: range not checked"
    assert f"guard: {unseen}\n" in capsys.readouterr().err
    assert run.record["weights"]["guard"] == unseen
    assert classifier_of(run.model).pooled.width == 2 * 64
    assert np.isfinite(run.predict_proba(np.array(store.tiles[:3]))).all()
    checked = sentinode.train(store, out=tmp_path / "lite", **FROZEN | {"quiet": False})
    assert "guard" not in capsys.readouterr().err
    assert checked.record["weights"]["guard"] == ""


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "pytorch_model.bin"])
@pytest.mark.parametrize("place", ["folder", "home", "relative", "model"])
def test_weights_that_were_changed_are_read_again_and_others_are_not(
    tmp_path: Path, resnet: str, monkeypatch: pytest.MonkeyPatch, file: str, place: str
) -> None:
    if file == "pytorch_model.bin":
        torch.save(timm_module().create_model("test_resnet").state_dict(), tmp_path / "saved" / file)
        (tmp_path / "saved" / "model.safetensors").unlink()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    name = {"folder": resnet, "home": "~/saved", "relative": "saved", "model": "auto"}[place]
    model = f"local-dir:{resnet}" if place == "model" else "test_resnet"
    settings = TrainSettings(backbone="frozen", model=model, weights=name)
    first = weights_of(settings)
    assert first is not None
    assert weights_of(settings) is first
    if file == "config.json":
        text = (tmp_path / "saved" / file).read_text("utf-8")
        (tmp_path / "saved" / file).write_text(text.replace("0.5", "0.25"), "utf-8")
    else:
        some = next(name for name in first.state if name.startswith("conv1"))
        state = first.state | {some: first.state[some] + 1}
        (save_file if file.endswith("safetensors") else torch.save)(state, tmp_path / "saved" / file)
    second = weights_of(settings)
    assert second is not None
    assert (second.digest != first.digest, second.config["mean"] != first.config["mean"]) == (
        file != "config.json",
        file == "config.json",
    )


def test_batch_norm_is_recalibrated_on_training_tiles_alone(tmp_path: Path, resnet: str) -> None:
    tissue = synthesise(6, 10, px=32, seed=3)
    how = FROZEN | {"weights": resnet, "features": str(tmp_path / "features"), "recalibrate_bn": True}
    whole = store_of(tissue.tiles, tissue.labels, tissue.groups)
    parts = choose_parts(whole, None, TrainSettings(split="random"))
    statistics = {}
    for changed, rows in {"nothing": parts.train[1][:0], "valid": parts.valid[1], "train": parts.train[1]}.items():
        tiles = tissue.tiles.copy()
        tiles[rows] = 255 - tiles[rows]
        # The digests that split the tiles stay as they were noted: only pixels change.
        run = sentinode.train(dataclasses.replace(whole, tiles=tiles), out=tmp_path / changed, **how)
        state = run.model.state_dict()
        statistics[changed] = torch.cat([value.flatten() for name, value in state.items() if "running" in name])
    assert torch.equal(statistics["valid"], statistics["nothing"])
    assert not torch.allclose(statistics["train"], statistics["nothing"])
    assert find("test_resnet", resnet).state["bn1.running_mean"].sum() == 0, "they came untrained"
