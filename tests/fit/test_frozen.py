"""A head on a frozen network, by `train`: what decides it, what is shared between runs, and what stops it before it writes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sentinode
from sentinode.errors import MachineProblem
from sentinode.fit import frozen, heads
from sentinode.fit.parts import choose_parts
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
    true = frozen.extract

    def extract(*of: Any, **how: Any) -> Any:
        found = true(*of, **how)
        made.append(found.made)
        return found

    monkeypatch.setattr(frozen, "extract", extract)
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
