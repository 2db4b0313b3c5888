"""Occlusion: a model that looks at one place only is moved by that place only, by what brute force says."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch

from sentinode.errors import UsageProblem
from sentinode.infer.saliency import covered, occlusion
from sentinode.infer.stress import logits_of
from sentinode.nets.simple_cnn import SimpleCNN
from sentinode.nets.trained import ModelFacts, Run
from sentinode.nets.transform import Preprocessing


class Looks:
    """A run whose logit is the mean red of a square, times a weight."""

    def __init__(self, rows: slice, columns: slice, weight: float) -> None:
        self.rows, self.columns, self.weight = rows, columns, weight
        self.largest = 0

    def logits(self, tiles: npt.NDArray[np.uint8], batch: int = 64, **_: Any) -> npt.NDArray[np.float32]:
        self.largest = max(self.largest, batch)
        return np.asarray(self.weight * tiles[:, self.rows, self.columns, 0].mean(axis=(1, 2)) / 255, np.float32)


def tile(px: int = 32) -> npt.NDArray[np.uint8]:
    tiles = np.full((1, px, px, 3), 40, np.uint8)
    tiles[0, :8, :8] = 240
    return tiles


def test_only_the_place_that_is_looked_at_moves_the_logit() -> None:
    tiles, run = tile(), Looks(slice(0, 8), slice(0, 8), 2.0)
    (found,) = occlusion([cast(Run, run)], tiles, cells=8)
    for row in range(8):
        for column in range(8):
            image = tiles.copy()
            y, x = max(0, 4 * row - 2), max(0, 4 * column - 2)
            hidden = np.ma.array(image[0, ..., 0], mask=False)
            hidden[y : 4 * row + 6, x : 4 * column + 6] = np.ma.masked
            image[0, y : 4 * row + 6, x : 4 * column + 6] = round(float(hidden.mean()))
            assert found[row, column] == pytest.approx(float(run.logits(tiles)[0] - run.logits(image)[0]), abs=1e-6)
    assert (found[:2, :2] > 0.1).all()
    assert (found[3:] == 0).all()
    assert (found[:, 3:] == 0).all()


def test_an_ensemble_is_the_mean_of_its_members() -> None:
    one, other = (Looks(slice(0, 8), slice(0, 8), weight) for weight in (2.0, -1.0))
    maps = [occlusion([cast(Run, run)], tile()) for run in (one, other)]
    both = occlusion([cast(Run, one), cast(Run, other)], tile())
    np.testing.assert_allclose(both, (maps[0] + maps[1]) / 2, atol=1e-6)
    assert (both[0, :2, :2] > 0).all()


def test_the_cover_tells_nothing_of_what_it_hides() -> None:
    tiles = np.random.default_rng(0).integers(0, 200, (32, 32, 3), dtype=np.uint8)
    other = tiles.copy()
    other[6:10, 6:10] = 255
    at = 2 * 8 + 2  # Covers rows and columns 6 to 13.
    np.testing.assert_array_equal(covered(tiles, 8)[at], covered(other, 8)[at])


@pytest.mark.parametrize("px", [9, 24, 96])
def test_covers_reach_every_pixel_at_any_size(px: int) -> None:
    image = np.random.default_rng(0).integers(0, 200, (px, px, 3), dtype=np.uint8)
    image[0, 0] = 255
    images = covered(image, 8)
    assert images.shape == (64, px, px, 3)
    changed = (images != image).any(axis=3)
    assert changed.any(axis=0).mean() > 0.95
    assert changed.reshape(64, -1).any(axis=1).all()


def test_cells_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageProblem, match="2 to 6 cells along an edge of 6 px; found 8; ask for fewer"):
        occlusion([], np.zeros((1, 6, 6, 3), np.uint8))


def test_too_little_memory_changes_no_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in every forward pass: half as many images at a time, down to what there is room for."""
    torch.manual_seed(0)
    network = SimpleCNN()
    grey = Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    run = Run(Path("run"), network, ModelFacts("simple-cnn", {}, grey, 32, ("0", "1")), {})
    expected = occlusion([run], tile())
    true, most = SimpleCNN.forward, []

    def forward(self: SimpleCNN, x: torch.Tensor) -> torch.Tensor:
        most.append(len(x))
        if len(x) > 9:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")
        return true(self, x)

    monkeypatch.setattr(SimpleCNN, "forward", forward)
    np.testing.assert_allclose(occlusion([run], tile()), expected, atol=1e-5)
    assert max(most) == 64
    most.clear()
    stressed = logits_of([run], np.repeat(tile(), 20, axis=0), np.array)
    assert stressed == pytest.approx(np.full(20, run.logits(tile())[0]), abs=1e-5)
    assert max(most) == 20
