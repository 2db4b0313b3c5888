"""One shard of a store, taken for the whole: training and judging say so. And a judgement that is broken off leaves no folder."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sentinode.errors import UsageProblem
from sentinode.fit.parts import choose_parts
from sentinode.flows.compare import compare
from sentinode.flows.evaluate import evaluate
from sentinode.settings import TrainSettings
from sentinode.tiles.pack import pack
from sentinode.tiles.store import Store
from sentinode.tiles.synth import synthesise, write_kaggle_folder

SAID = "'tissue.store' holds shard 2 of 2 alone: 'sentinode pack' of all of them makes one store"


def packed(folder: Path, shard: str | None) -> Store:
    tissue = synthesise(8, 8, px=24, seed=1)
    write_kaggle_folder(folder / "images", tissue)
    slides = str(folder / "images" / "slides.csv")
    return pack(folder / "images", out=folder / "tissue.store", groups=slides, shard=shard, quiet=True)


def predictions(store: Store, path: Path) -> Path:
    logit = 2.0 * store.rows["label"].to_numpy() - 1 + np.random.default_rng(0).normal(size=len(store))
    pd.DataFrame({"id": store.rows["id"], "probability": 1 / (1 + np.exp(-logit))}).to_csv(path, index=False)
    return path


@pytest.mark.parametrize(("shard", "said"), [("2/2", (SAID,)), ("1/1", ()), (None, ())])
def test_training_and_judging_on_one_shard_say_so(tmp_path: Path, shard: str | None, said: tuple[str, ...]) -> None:
    store = packed(tmp_path, shard)
    parts = choose_parts(store, None, TrainSettings(valid_share=0.5))
    assert parts.split.warnings == parts.lines()[1:] == said
    theirs = predictions(store, tmp_path / "theirs.csv")
    judged = evaluate(theirs, store.path, out=tmp_path / "out", resamples=100, mistakes=0, quiet=True)
    assert [text for text in judged.warnings if "shard" in text] == list(said)


def test_a_judgement_that_is_broken_off_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    store = packed(tmp_path, None)
    theirs = predictions(store, tmp_path / "theirs.csv")
    monkeypatch.setattr("sentinode.flows.evaluate.judge_scores", interrupted)
    monkeypatch.setattr("sentinode.flows.compare.compared", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate(theirs, store.path, out=tmp_path / "judged", quiet=True)
    other = theirs.rename(tmp_path / "ours.csv")
    with pytest.raises(KeyboardInterrupt):
        compare(predictions(store, theirs), other, test=store.path, out=tmp_path / "compared", quiet=True)
    assert not (tmp_path / "judged").exists()
    assert not (tmp_path / "compared").exists()
    (tmp_path / "judged").mkdir()
    (tmp_path / "judged" / "mine.txt").write_text("mine", "utf-8")
    with pytest.raises(UsageProblem, match="files that Sentinode did not write"):
        evaluate(theirs, store.path, out=tmp_path / "judged", quiet=True)
    assert (tmp_path / "judged" / "mine.txt").exists()
