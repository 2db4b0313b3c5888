"""Synthetic tissue: the same seed gives the same tile, the centre decides the label, and colour alone does not solve it."""

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from sentinode.errors import MachineProblem, UsageProblem
from sentinode.tiles.synth import Tissue, synthesise, write_kaggle_folder


@pytest.fixture(scope="module")
def tissue() -> Tissue:
    return synthesise(12, 40, seed=3)


def test_shapes_and_kinds(tissue: Tissue) -> None:
    assert tissue.tiles.shape == (480, 96, 96, 3)
    assert np.uint8 == tissue.tiles.dtype
    assert np.int8 == tissue.labels.dtype
    assert {0, 1} == set(tissue.labels.tolist())
    assert len(set(tissue.groups)) == 12
    assert [f"synthetic-3-{k:03d}" for k in range(12)] == tissue.groups[::40]


def test_ids_are_sha1_of_the_pixels_and_no_tile_comes_twice(tissue: Tissue) -> None:
    assert hashlib.sha1(np.ascontiguousarray(tissue.tiles[7]).data).hexdigest() == tissue.ids[7]
    assert len(tissue.ids) == len(set(tissue.ids))


def test_a_slide_is_the_same_whatever_is_asked_for_beside_it(tissue: Tissue) -> None:
    fewer = synthesise(2, 6, seed=3)
    for slide in range(2):
        assert np.array_equal(tissue.tiles[slide * 40 : slide * 40 + 6], fewer.tiles[slide * 6 : slide * 6 + 6])
        assert np.array_equal(tissue.labels[slide * 40 : slide * 40 + 6], fewer.labels[slide * 6 : slide * 6 + 6])


def test_another_seed_shares_no_slide_and_no_tile(tissue: Tissue) -> None:
    other = synthesise(2, 6, seed=4)
    assert set(tissue.groups).isdisjoint(other.groups)
    assert set(tissue.ids).isdisjoint(other.ids)


@pytest.mark.parametrize("per_slide", [4, 5, 9])
def test_every_slide_of_four_tiles_or_more_holds_both_classes(per_slide: int) -> None:
    labels = synthesise(20, per_slide, px=24, seed=per_slide).labels.reshape(20, per_slide)
    assert (labels.min(axis=1) == 0).all()
    assert (labels.max(axis=1) == 1).all()


def test_about_two_in_five_tiles_are_tumour_and_slides_differ() -> None:
    by_slide = synthesise(40, 20, px=24, seed=1).labels.reshape(40, 20).mean(axis=1)
    assert 0.33 < by_slide.mean() < 0.47
    assert by_slide.min() < 0.35
    assert by_slide.max() > 0.45


@pytest.mark.parametrize("px", [24, 33, 64, 128])
def test_other_sizes(px: int) -> None:
    tiles = synthesise(1, 4, px=px).tiles
    assert (4, px, px, 3) == tiles.shape
    assert (tiles.reshape(4, -1).std(axis=1) > 5).all()


@pytest.mark.parametrize("difficulty", [0.0, 1.0])
def test_the_largest_nuclei_of_many_slides_fit_at_the_edge(difficulty: float) -> None:
    assert len(synthesise(60, 4, px=32, difficulty=difficulty, seed=9).tiles) == 240


def dark_areas(tiles: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Return for each centre square how thick its dark bodies are: the largest distance from a dark pixel to a light one."""
    thickness = []
    for tile in tiles:
        red = ndimage.gaussian_filter(tile[..., 0].astype(np.float64), 0.7)
        low, high = np.percentile(red, (3, 97))
        inside = ndimage.distance_transform_edt(red < (low + high) / 2)
        thickness.append(float(np.sort(inside[32:64, 32:64], axis=None)[-20:].mean()))
    return np.array(thickness)


def test_size_of_nuclei_in_the_centre_separates_the_classes(tissue: Tissue) -> None:
    assert roc_auc_score(tissue.labels, dark_areas(tissue.tiles)) > 0.65


def test_difficulty_brings_the_classes_closer() -> None:
    easy, hard = (synthesise(8, 30, difficulty=d, seed=5) for d in (0.0, 1.0))
    scores = [roc_auc_score(t.labels, dark_areas(t.tiles)) for t in (easy, hard)]
    assert scores[0] > scores[1] + 0.05


def colours(tiles: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    codes = (tiles >> 5).astype(np.int64) @ np.array([64, 8, 1])
    return np.stack([np.bincount(code.ravel(), minlength=512) for code in codes])


def test_colour_alone_does_not_solve_it_on_other_slides(tissue: Tissue) -> None:
    seen, unseen = colours(tissue.tiles[:320]), colours(tissue.tiles[320:])
    floor = HistGradientBoostingClassifier(random_state=0, max_iter=30).fit(seen, tissue.labels[:320])
    assert roc_auc_score(tissue.labels[320:], floor.predict_proba(unseen)[:, 1]) < 0.8


def test_the_rim_says_nothing_about_the_label(tissue: Tissue) -> None:
    rim = np.concatenate([tissue.tiles[:, :16].reshape(480, -1), tissue.tiles[:, 80:].reshape(480, -1)], axis=1)
    darkness = -rim.mean(axis=1)
    by_slide = [roc_auc_score(tissue.labels[k : k + 40], darkness[k : k + 40]) for k in range(0, 480, 40)]
    assert abs(np.mean(by_slide) - 0.5) < 0.1


@pytest.mark.parametrize(
    ("arguments", "expected", "found"),
    [
        ({"n_slides": 0}, "n_slides of at least 1", "'0'"),
        ({"tiles_per_slide": 0}, "tiles_per_slide of at least 1", "'0'"),
        ({"px": 23}, "px of at least 24", "'23'"),
        ({"seed": -1}, "seed of at least 0", "'-1'"),
        ({"difficulty": 1.5}, "a difficulty from 0 to 1", "'1.5'"),
        ({"difficulty": float("nan")}, "a difficulty from 0 to 1", "'nan'"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments: dict[str, float], expected: str, found: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        synthesise(**{"n_slides": 1, "tiles_per_slide": 1, "px": 24, **arguments})  # type: ignore[arg-type]
    assert (expected, found) == (caught.value.expected, caught.value.found)
    assert caught.value.do


def test_kaggle_folder_reads_back_with_pillow(tmp_path: Path) -> None:
    tissue = synthesise(2, 5, px=24)
    write_kaggle_folder(tmp_path / "a kaggle ö", tissue, n_unlabelled=3)
    folder = tmp_path / "a kaggle ö"
    assert sorted(p.name for p in folder.iterdir()) == ["slides.csv", "test", "train", "train_labels.csv"]
    for row, (name, tile) in enumerate(zip(tissue.ids, tissue.tiles, strict=True)):
        with Image.open(folder / ("train" if row < 7 else "test") / f"{name}.tif") as image:
            assert (image.format, image.mode, image.info["compression"]) == ("TIFF", "RGB", "raw")
            assert np.array_equal(tile, np.asarray(image))
    expected = ["id,label", *(f"{a},{b}" for a, b in zip(tissue.ids[:7], tissue.labels[:7], strict=True))]
    assert expected == (folder / "train_labels.csv").read_text(encoding="utf-8").splitlines()
    expected = ["id,slide", *(f"{a},{b}" for a, b in zip(tissue.ids[:7], tissue.groups[:7], strict=True))]
    assert expected == (folder / "slides.csv").read_text(encoding="utf-8").splitlines()


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageProblem) as caught:
        write_kaggle_folder(tmp_path, synthesise(1, 1, px=24))
    assert "a new folder" in caught.value.expected
    assert [p.name for p in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize("n_unlabelled", [-1, 2])
def test_more_unlabelled_tiles_than_there_are_is_refused(tmp_path: Path, n_unlabelled: int) -> None:
    with pytest.raises(UsageProblem) as caught:
        write_kaggle_folder(tmp_path / "k", synthesise(1, 1, px=24), n_unlabelled=n_unlabelled)
    assert ("0 to 1 unlabelled tiles", f"'{n_unlabelled}'") == (caught.value.expected, caught.value.found)


def test_a_full_disk_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(MachineProblem):
        write_kaggle_folder(tmp_path / "k", synthesise(1, 1, px=24))
    assert list(tmp_path.iterdir()) == []
