"""A head on a frozen network, by `train`: what decides it, what is shared between runs, and what stops it before it writes."""

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
from sentinode.fit.start import classifier_of
from sentinode.nets.backbone import timm_module
from sentinode.nets.engine import named
from sentinode.nets.transform import Transform
from sentinode.nets.weights import find, load_into
from sentinode.settings import TrainSettings
from sentinode.tiles.pack import pack
from sentinode.tiles.store import Store
from sentinode.tiles.synth import synthesise, write_kaggle_folder

FROZEN: dict[str, Any] = {"backbone": "frozen", "input_size": 32, "split": "random", "precision": "fp32", "quiet": True}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    write_kaggle_folder(tmp_path / "kaggle", synthesise(5, 12, px=32, seed=3))
    return pack(tmp_path / "kaggle", out=tmp_path / "s.store", quiet=True)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the number of tiles that each extraction made."""
    made: list[int] = []
    true = features.extract

    def extract(*of: Any, **how: Any) -> Any:
        found = true(*of, **how)
        made.append(found.made)
        return found

    monkeypatch.setattr(frozen, "extract", extract)
    return made


def test_another_seed_and_another_sample_extract_what_is_missing_and_a_run_depends_on_nothing_else(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "fastest", lambda module, example, **_: named("eager fp32", module, example))
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


@pytest.fixture
def resnet(tmp_path: Path) -> str:
    """Return a folder that timm saved a test_resnet into."""
    source = timm_module().create_model("test_resnet")
    facts = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 32, 32]}
    timm_module().models.save_for_hf(source, tmp_path / "saved", model_config={"pretrained_cfg": facts}, safe_serialization=True)
    return str(tmp_path / "saved")


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
