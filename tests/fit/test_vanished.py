"""A store that is lost, cut or changed under a run ends it cleanly: what was reached is kept, and goes on when the store is back."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sentinode.errors import RunProblem, StoreProblem
from sentinode.fit.feed import Feed, make_feed
from sentinode.fit.train import train
from sentinode.fit.trials import Trial, read_logits, read_trials, write_trial
from sentinode.infer.predict import score_store
from sentinode.tiles.pack import pack
from sentinode.tiles.store import Store, open_store
from sentinode.tiles.synth import synthesise, write_kaggle_folder

FAST: dict[str, Any] = {"epochs": 2, "precision": "fp32", "batch": 16, "split": "random", "quiet": True}
TILE = 32 * 32 * 3


def flip(path: Path) -> None:
    """Change one pixel of each tile a little."""
    data = bytearray(path.read_bytes())
    for at in range(200, len(data), TILE):
        data[at] ^= 4
    with path.open("rb+") as file:
        file.write(data)


HARMS: dict[str, Callable[[Path], None]] = {
    "gone": Path.unlink,
    "cut": lambda path: os.truncate(path, path.stat().st_size // 3),
    "changed": flip,
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    write_kaggle_folder(tmp_path / "kaggle", synthesise(6, 16, px=32, difficulty=0.0, seed=3))
    return pack(tmp_path / "kaggle", out=tmp_path / "s.store", quiet=True)


@pytest.mark.parametrize("harm", sorted(HARMS))
def test_a_store_knows_whether_its_tiles_are_still_there(store: Store, harm: str) -> None:
    store.check()
    HARMS[harm](store.path / "tiles.npy")
    with pytest.raises(StoreProblem) as caught:
        store.check()
    assert caught.value.expected.startswith("tiles.npy of")
    assert ("No such file" if harm == "gone" else "written since") in caught.value.found
    assert "bring back the store" in caught.value.do
    assert "--resume" in caught.value.do


@pytest.mark.parametrize("harm", sorted(HARMS))
def test_a_run_whose_store_is_lost_goes_on_when_it_is_back(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    """In the second epoch, tiles read from disk: a mapped file that was cut would end the process with a bus error."""
    whole = train(store, out=tmp_path / "whole", resident="no", **FAST)
    path, true, calls = store.path / "tiles.npy", Feed.gather, list[int]()
    kept = path.read_bytes()

    def gather(self: Feed, positions: Any) -> Any:
        calls.append(1)
        if len(calls) == 9:
            HARMS[harm](path)
        return true(self, positions)

    with monkeypatch.context() as patch:
        patch.setattr(Feed, "gather", gather)
        with pytest.raises(StoreProblem, match="to stay"):
            train(store.path, out=tmp_path / "run", resident="no", **FAST)
    assert (tmp_path / "run" / "resume" / "state.safetensors").exists()
    assert not (tmp_path / "run" / "model.json").exists()
    path.write_bytes(kept)
    run = train(store.path, out=tmp_path / "run", resident="no", resume=True, **FAST)
    assert (run.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()


@pytest.mark.parametrize("resident", [True, False])
def test_a_changed_pixel_is_told_when_it_is_read(store: Store, resident: bool) -> None:
    """Also one that was there before the store was opened, of which time and size say nothing."""
    flip(store.path / "tiles.npy")
    again = open_store(store.path)
    with pytest.raises(StoreProblem) as caught:
        make_feed(again, np.arange(20), device="cpu", resident=resident).gather(np.arange(10))
    assert caught.value.expected.startswith("the pixels that were packed into")
    assert "others in row 0" in caught.value.found
    assert "--verify" in caught.value.do


@pytest.mark.parametrize("harm", sorted(HARMS))
def test_no_score_is_given_to_tiles_that_are_not_those_packed(store: Store, tmp_path: Path, harm: str) -> None:
    run = train(store, out=tmp_path / "run", **FAST).path
    opened = open_store(store.path)
    HARMS[harm](store.path / "tiles.npy")
    with pytest.raises(StoreProblem, match="to stay"):
        score_store([run], opened, quiet=True)
    if harm == "changed":
        with pytest.raises(StoreProblem, match="the pixels that were packed"):
            score_store([run], open_store(store.path), quiet=True)


def test_a_trial_whose_file_was_changed_is_told_in_three_parts(tmp_path: Path) -> None:
    logits = np.zeros(4, np.float32)
    np.save(tmp_path / "0003.npy", logits)
    write_trial(tmp_path, Trial(3, {"lr": 0.25}, "done", 0.5, 0.7), (tmp_path / "0003.npy").read_bytes())
    (trial,) = read_trials(tmp_path)
    assert trial == Trial(3, {"lr": 0.25}, "done", 0.5, 0.7)
    assert read_logits(tmp_path, trial, 4).tolist() == [0, 0, 0, 0]
    np.save(tmp_path / "0003.npy", logits + 1)
    with pytest.raises(RunProblem) as caught:
        read_logits(tmp_path, trial, 4)
    assert caught.value.expected.startswith("the scores of a trial in")
    assert "not what was written" in caught.value.found
    assert "--resume" in caught.value.do
    text = (tmp_path / "0003.json").read_text("utf-8")
    (tmp_path / "0003.json").write_text(text.replace("0.5", "0.9"), "utf-8")
    with pytest.raises(RunProblem) as caught:
        read_trials(tmp_path)
    assert caught.value.expected.startswith("a trial in")
    assert "not what was written" in caught.value.found
    assert "--resume" in caught.value.do
