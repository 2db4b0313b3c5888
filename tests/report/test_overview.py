"""The newcomer's picture: right tiles of both classes, the surest wrong ones first, no file where it cannot be drawn."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from sentinode.errors import UndefinedScore
from sentinode.report.overview import COLUMNS, choose_tiles, draw_tile, write_overview
from sentinode.tiles.synth import synthesise

HISTORY = pd.DataFrame({"train_loss": [0.6, 0.4], "valid_loss": [0.5, 0.4], "valid_auroc": [0.8, 0.9]})
FIGURE = {"estimate": 0.9, "low": 0.8, "high": 0.95, "method": "slide bootstrap (2000 resamples)", "n": 40, "n_groups": 4}
JUDGEMENT = {"figures": {"auroc": FIGURE}, "floor": {}, "threshold": {"value": 0.5, "source": "valid"}, "n": 40, "n_groups": 4}


def test_wrong_tiles_come_surest_first_and_right_ones_of_both_classes() -> None:
    labels = np.array([1, 1, 1, 0, 0, 0])
    probability = np.array([0.9, 0.05, 0.45, 0.2, 0.99, 0.6])
    right, wrong = choose_tiles(labels, probability, 0.5)
    assert right == [0, 3]
    assert wrong == [4, 1, 5, 2]


@pytest.mark.parametrize("cut", [0.0, 0.01, 0.5, 0.99, 1.0])
def test_no_tile_is_both_right_and_wrong_and_rows_are_short_enough(cut: float) -> None:
    rng = np.random.default_rng(0)
    labels, probability = rng.integers(0, 2, 500), rng.uniform(0, 1, 500)
    right, wrong = choose_tiles(labels, probability, cut)
    called = probability >= cut
    assert all(called[row] == (labels[row] == 1) for row in right)
    assert all(called[row] != (labels[row] == 1) for row in wrong)
    assert max(len(right), len(wrong)) <= COLUMNS
    assert len(set(right)) == len(right)


def test_nothing_wrong_gives_an_empty_row() -> None:
    assert choose_tiles(np.array([0, 1]), np.array([0.1, 0.9]), 0.5) == ([1, 0], [])


def test_the_centre_is_marked() -> None:
    axes = Figure().add_subplot()
    draw_tile(axes, np.zeros((96, 96, 3), np.uint8), 1, 0.25, "#000000")
    boxes = [patch.get_bbox().bounds for patch in axes.patches]  # type: ignore[attr-defined]
    assert boxes[0] == (-0.5, -0.5, 96, 96)
    assert boxes[1] == (31.5, 31.5, 32, 32)
    assert axes.texts[0].get_text() == "p 0.25, is positive"


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_the_picture_is_written_and_repeats(tmp_path: Path, noise: float) -> None:
    tissue = synthesise(4, 10, px=32)
    probability = np.clip(tissue.labels * (1 - noise) + noise * np.random.default_rng(0).uniform(0, 1, 40), 0, 1)
    first, second = (
        write_overview(tmp_path / name, HISTORY, tissue.labels, probability, None, tissue.tiles, JUDGEMENT)
        for name in ("a.png", "b.png")
    )
    assert first == [tmp_path / "a.png"]
    assert first[0].read_bytes() == second[0].read_bytes()
    with Image.open(first[0]) as image:
        assert (image.format, image.width) == ("PNG", 1430)


def test_tiles_and_scores_must_be_as_many(tmp_path: Path) -> None:
    tiles = np.zeros((3, 24, 24, 3), np.uint8)
    with pytest.raises(UndefinedScore) as caught:
        write_overview(tmp_path / "a.png", HISTORY, np.array([0, 1]), np.array([0.2, 0.7]), None, tiles, JUDGEMENT)
    assert caught.value.found == "2 scores, 3 tiles"
    assert list(tmp_path.iterdir()) == []
