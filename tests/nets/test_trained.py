"""A saved network: what is written is what is read, and a file that could run something does not."""

import dataclasses
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from sentinode.errors import DataProblem, RunProblem
from sentinode.nets.simple_cnn import SimpleCNN
from sentinode.nets.trained import ModelFacts, build, load, save_model, weights_digest
from sentinode.nets.transform import Preprocessing

FACTS = ModelFacts(
    "simple-cnn", {"widths": [4, 4, 8], "hidden": 8}, Preprocessing((0.7, 0.5, 0.6), (0.2, 0.2, 0.2)), 32, ("0", "1")
)


def saved(folder: Path, facts: ModelFacts = FACTS) -> SimpleCNN:
    torch.manual_seed(0)
    model = SimpleCNN((4, 4, 8), hidden=8).eval()
    save_model(folder, model.state_dict(), facts)
    return model


def tiles(n: int = 5, px: int = 32) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (n, px, px, 3), np.uint8)


def test_what_was_saved_predicts_the_same(tmp_path: Path) -> None:
    model = saved(tmp_path)
    run = load(tmp_path)
    x = (torch.from_numpy(tiles()).permute(0, 3, 1, 2) / 255 - torch.tensor([0.7, 0.5, 0.6])[:, None, None]) / 0.2
    with torch.no_grad():
        expected = torch.sigmoid(model(x)).numpy()
    np.testing.assert_allclose(run.predict_proba(tiles()), expected, atol=1e-6)
    assert run.facts == dataclasses.replace(FACTS, arguments={"widths": [4, 4, 8], "hidden": 8})


def test_a_model_without_its_record_still_says_what_it_is(tmp_path: Path) -> None:
    saved(tmp_path)
    run = load(tmp_path)
    assert "simple-cnn, without its record (run.json)" in repr(run)
    assert f"threshold  {FACTS.threshold:.4f}" in repr(run)


def test_shift_and_temperature_move_the_logit(tmp_path: Path) -> None:
    saved(tmp_path)
    plain = load(tmp_path).logits(tiles())
    save_model(tmp_path, load(tmp_path).model.state_dict(), dataclasses.replace(FACTS, logit_shift=1.0, temperature=2.0))
    np.testing.assert_allclose(load(tmp_path).logits(tiles()), (plain + 1) / 2, atol=1e-6)


class Payload:
    """Runs when unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.proof),)


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_weights_that_are_a_pickle_are_refused_and_do_not_run(tmp_path: Path, writer: str) -> None:
    saved(tmp_path)
    payload = Payload(tmp_path / "proof")
    if writer == "pickle":
        (tmp_path / "model.safetensors").write_bytes(pickle.dumps(payload))
    else:
        torch.save({"weights": payload}, tmp_path / "model.safetensors")
    with pytest.raises(RunProblem, match=r"expected readable weights.*found.*train again"):
        load(tmp_path)
    assert not (tmp_path / "proof").exists()


def test_a_folder_without_a_model_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunProblem, match=r"expected a run folder.*no model.json.*sentinode train"):
        load(tmp_path)


def test_cut_weights_are_told(tmp_path: Path) -> None:
    saved(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunProblem, match=r"expected readable weights"):
        load(tmp_path)


def test_weights_of_another_network_are_told(tmp_path: Path) -> None:
    saved(tmp_path)
    save_model(tmp_path, SimpleCNN((8, 8, 8), hidden=8).state_dict(), FACTS)
    with pytest.raises(RunProblem, match=r"expected the weights of simple-cnn.*blocks.*together"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, r"format 1; found format '99'; train again"),
        ({"network": "simple-cn"}, r"a network this version knows; found 'simple-cn'; did you mean simple-cnn"),
        ({"surprise": 1}, r"fields of a model.json"),
        *(
            ({"classes": classes}, r"expected two names as classes in model.json; found '.*'; train again, or mend")
            for classes in (["tumour"], ["a", "b", "c"], [], "ab", [0, 1], None, {"a": 0, "b": 1})
        ),
    ],
)
def test_foreign_facts_are_told(tmp_path: Path, change: dict[str, object], message: str) -> None:
    saved(tmp_path)
    facts = json.loads((tmp_path / "model.json").read_text("utf-8")) | change
    (tmp_path / "model.json").write_text(json.dumps(facts), "utf-8")
    with pytest.raises(RunProblem, match=message):
        load(tmp_path)


def test_facts_that_are_no_json_are_told(tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / "model.json").write_text("{", "utf-8")
    with pytest.raises(RunProblem, match=r"expected a readable '.*model.json'"):
        load(tmp_path)


@pytest.mark.parametrize("wrong", [tiles(2, 24), tiles(2).astype(np.float32), tiles(2)[..., :1]])
def test_tiles_of_another_kind_are_told(tmp_path: Path, wrong: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    saved(tmp_path)
    with pytest.raises(DataProblem, match=r"expected uint8 tiles \[n, 32, 32, 3\].*found.*--px"):
        load(tmp_path).predict_proba(wrong)


def test_the_digest_names_weights_and_facts(tmp_path: Path) -> None:
    saved(tmp_path)
    first = weights_digest(tmp_path)
    save_model(tmp_path, load(tmp_path).model.state_dict(), dataclasses.replace(FACTS, threshold=0.4))
    assert weights_digest(tmp_path) != first
    assert len(first) == 32


def test_an_unknown_network_is_answered_with_the_nearest() -> None:
    with pytest.raises(RunProblem, match=r"did you mean simple-cnn"):
        build("simple_cnn", {})
