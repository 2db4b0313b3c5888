"""Quickstart goes the whole way on made tissue and on one's own, says by which protocol, and tells what to type next."""

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from sentinode.errors import UsageProblem
from sentinode.flows import quickstart as module
from sentinode.flows.quickstart import CHOSEN_HERE, quickstart
from sentinode.tiles.synth import synthesise, write_kaggle_folder


def test_synthetic_tissue_is_judged_on_slides_that_did_not_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TRAIN_SLIDES": 6, "JUDGE_SLIDES": 4, "TEST_SLIDES": 1, "TILES": 12}.items():
        monkeypatch.setattr(module, name, value)
    done = quickstart(tmp_path / "q", minutes=0.05, quiet=True)
    assert done.judgement.protocol == "other slides"
    assert not done.judgement.contaminated
    assert (done.judgement.n, done.judgement.n_groups) == (48, 4)
    assert "auroc" in done.judgement.floor
    with Image.open(tmp_path / "q" / "overview.png") as picture:
        assert picture.format == "PNG"
    assert done.submission is not None
    with done.submission.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["id"] for row in rows} == {path.stem for path in (tmp_path / "q" / "tissue" / "test").iterdir()}
    assert all(0 <= float(row["label"]) <= 1 for row in rows)
    assert json.loads(json.dumps(done.as_dict(), allow_nan=False))["judgement"]["protocol"] == "other slides"
    assert any(line.lstrip().startswith("sentinode quickstart --data") for line in done.lines())
    assert not (tmp_path / "q" / "unfinished.json").exists()


def test_ones_own_tiles_are_judged_by_the_part_that_chose_and_it_says_so(tmp_path: Path) -> None:
    write_kaggle_folder(tmp_path / "mine", synthesise(6, 12, px=32))
    done = quickstart(tmp_path / "q", tmp_path / "mine", minutes=0.05, quiet=True)
    assert done.judgement.protocol == "grouped"
    assert done.judgement.warnings[0] == CHOSEN_HERE
    assert done.submission is None, "its test/ is empty"
    assert f"warning: {CHOSEN_HERE}" in done.lines()
    assert (tmp_path / "q" / "judgement" / "judgement.json").is_file()
    assert (tmp_path / "q" / "overview.png").is_file()


def test_data_that_is_not_there_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(UsageProblem) as caught:
        quickstart(tmp_path / "q", tmp_path / "nowhere")
    assert "--data" in caught.value.expected
    assert "nowhere" in caught.value.found
    assert caught.value.do
    assert list(tmp_path.iterdir()) == []
