"""The floor: colour counts by definition, the same floor from the same file, refused without both classes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sentinode.errors import RunProblem, UndefinedScore
from sentinode.fit import probe
from sentinode.fit.probe import colour_histogram, fit_floor, floor_rows, keep_floor_sample, load_floor, save_floor_sample
from sentinode.tiles.store import Store


def pink_or_purple(n: int = 120, px: int = 12) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.uint8]], np.ndarray]:
    """Return tiles whose class is their colour, with noise."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    tiles = np.where(labels[:, None, None, None], [130, 60, 160], [220, 150, 180]) + rng.integers(-30, 31, (n, px, px, 3))
    return tiles.astype(np.uint8), labels


def test_histogram_counts_the_colours_of_each_tile() -> None:
    tiles = np.random.default_rng(1).integers(0, 256, (300, 7, 7, 3), dtype=np.uint8)
    found = colour_histogram(tiles)
    assert found.dtype == np.uint16
    for at in (0, 255, 256, 299):
        expected, _ = np.histogramdd(tiles[at].reshape(-1, 3), bins=(8, 8, 8), range=[(0, 256)] * 3)
        assert found[at].tolist() == expected.ravel().tolist()
    assert (colour_histogram(tiles, np.array([299, 3])) == found[[299, 3]]).all()


def test_a_blank_tile_of_256_px_does_not_wrap_around() -> None:
    assert colour_histogram(np.zeros((1, 256, 256, 3), np.uint8))[0, 0] == 65535


def test_the_floor_sees_colour_and_is_the_same_from_the_file(tmp_path: Path) -> None:
    tiles, labels = pink_or_purple()
    rows = pd.DataFrame({"id": [f"t{i}" for i in range(120)], "label": labels})
    store = Store(tmp_path, tiles, rows, ("a", "b"), "d", {})
    keep_floor_sample(tmp_path / "floor.npz", store, np.arange(100))
    first = (tmp_path / "floor.npz").read_bytes()
    keep_floor_sample(tmp_path / "floor.npz", store, np.arange(100))
    assert (tmp_path / "floor.npz").read_bytes() == first
    floor = load_floor(tmp_path / "floor.npz")
    assert floor.n == 100
    found = floor.probability(colour_histogram(tiles[100:]))
    assert ((found > 0.5) == (labels[100:] == 1)).all()
    again = fit_floor(colour_histogram(tiles[:100]), labels[:100]).probability(colour_histogram(tiles[100:]))
    assert (again == found).all()


def test_the_kept_sample_is_bounded_stratified_and_independent_of_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "MOST_TILES", 50)
    ids, labels = [f"t{i}" for i in range(400)], np.array([int(i % 4 == 0) for i in range(400)])
    labels[:8] = -1
    kept = floor_rows(ids, labels)
    assert 46 <= len(kept) <= 50
    assert 0.2 <= labels[kept].mean() <= 0.3
    assert labels[kept].min() == 0
    back = floor_rows(ids[::-1], labels[::-1])
    assert {ids[at] for at in kept} == {ids[::-1][at] for at in back}


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1], [0, 1, -1], [0, 1]])
def test_both_classes_are_needed(labels: list[int]) -> None:
    with pytest.raises(UndefinedScore, match="training tiles of both classes for the colour floor") as caught:
        fit_floor(np.zeros((3, 512), np.uint16), np.array(labels))
    assert caught.value.do == "take the floor from a run or store with both classes"


def test_foreign_files_hold_no_floor(tmp_path: Path) -> None:
    path = tmp_path / "floor.npz"
    with pytest.raises(RunProblem, match="colour histograms in"):
        load_floor(path)
    for content in (b"", b"PK\x03\x04 cut", b"text"):
        path.write_bytes(content)
        with pytest.raises(RunProblem, match="colour histograms in"):
            load_floor(path)
    save_floor_sample(path, np.zeros((3, 10), np.uint16), np.array([0, 1, 0]))
    with pytest.raises(RunProblem, match=r"uint16 histograms \[n, 512\]"):
        load_floor(path)
    np.savez(path, histograms=np.array([{}], dtype=object), labels=np.array([0]))
    with pytest.raises(RunProblem, match="colour histograms in"):
        load_floor(path)
