"""Domains: laboratories and file formats are told apart, one cloud is left whole, order changes nothing."""

import io

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import adjusted_rand_score

from sentinode.qc.domains import PREFIX, STATISTICS, class_balance, domains_of, statistics_of, strength
from sentinode.tiles.synth import synthesise

Tiles = npt.NDArray[np.uint8]
TISSUE = synthesise(8, 30, px=32, difficulty=0.0, seed=5)
IDS = TISSUE.ids


def stained(tiles: Tiles, laboratory: int) -> Tiles:
    """Change the density of each channel as another laboratory's dyes would."""
    powers = [(1.0, 1.0, 1.0), (0.5, 1.3, 0.5), (1.6, 0.7, 1.5)][laboratory]
    return np.asarray((255 * (tiles / 255.0) ** np.array(powers)).round(), np.uint8)


def recompressed(tile: Tiles) -> Tiles:
    file = io.BytesIO()
    Image.fromarray(tile).save(file, format="JPEG", quality=75)
    return np.array(Image.open(file))


def test_laboratories_are_found_again() -> None:
    laboratory = np.arange(240) % 3
    tiles = np.stack([stained(tile[None], lab)[0] for tile, lab in zip(TISSUE.tiles, laboratory.tolist(), strict=True)])
    found = domains_of(IDS, statistics_of(tiles))
    assert found.n_stains >= 3
    # No pseudo-group mixes laboratories much: each one's tiles are mostly of one.
    share = pd.crosstab(found.table["pseudo_group"], laboratory)
    assert (share.max(axis=1).sum() / len(tiles)) > 0.9
    assert found.table["pseudo_group"].str.startswith(PREFIX).all()


def test_file_formats_are_found_again() -> None:
    rng = np.random.default_rng(0)
    smooth = np.stack([np.array(Image.fromarray(tile).resize((64, 64), Image.Resampling.BICUBIC)) for tile in TISSUE.tiles])
    tiles = np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
    jpeg = np.arange(len(tiles)) % 2 == 0
    tiles[jpeg] = np.stack([recompressed(tile) for tile in tiles[jpeg]])
    found = domains_of(IDS, statistics_of(tiles)).table
    share = pd.crosstab(found["compression"], jpeg)
    assert share.max(axis=1).sum() / len(tiles) > 0.95
    assert adjusted_rand_score(found["compression"] == 1, jpeg) > 0.5


def test_one_cloud_is_one_domain() -> None:
    rng = np.random.default_rng(4)
    found = domains_of([f"{at}" for at in range(600)], np.abs(rng.normal(1, 0.1, (600, len(STATISTICS)))))
    assert (found.n_stains, found.n_compressions) == (1, 1)
    assert max(found.stain_strength.values()) < 0.8


def test_prediction_strength_is_the_share_of_pairs_found_again() -> None:
    rng = np.random.default_rng(1)
    apart = np.concatenate([rng.normal(0, 0.1, (40, 2)), rng.normal(9, 0.1, (40, 2))])[rng.permutation(80)]
    assert strength(apart, 2, 0) == 1
    assert strength(rng.normal(size=(200, 6)), 6, 0) < 0.6


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_order_changes_nothing(seed: int) -> None:
    statistics = statistics_of(np.concatenate([TISSUE.tiles[:120], stained(TISSUE.tiles[120:], 1)]))
    order = np.random.default_rng(seed).permutation(len(IDS))
    place = np.argsort(order)
    one = domains_of(IDS, statistics, [np.array([3, 200, 70])])
    other = domains_of([IDS[at] for at in order], statistics[order], [place[[200, 70, 3]]])
    merged = one.table.merge(other.table, on="id")
    assert (merged["pseudo_group_x"] == merged["pseudo_group_y"]).all()
    assert (merged["compression_x"] == merged["compression_y"]).all()
    assert one.stain_strength == other.stain_strength


def test_duplicates_share_a_pseudo_group() -> None:
    statistics = statistics_of(np.concatenate([TISSUE.tiles[:120], stained(TISSUE.tiles[120:], 1)]))
    apart = domains_of(IDS, statistics).table["pseudo_group"]
    rows = np.array([0, 1, 2, 239])
    assert apart[rows].nunique() > 1
    assert domains_of(IDS, statistics, [rows]).table.loc[rows, "pseudo_group"].nunique() == 1


def test_statistics_are_what_their_names_say() -> None:
    tile = TISSUE.tiles[0]
    row = dict(zip(STATISTICS, statistics_of(tile[None])[0], strict=True))
    few = tile[::2, ::2].reshape(-1, 3).astype(float)
    tissue = few[few.min(axis=1) < 220]
    density = -np.log10((tissue + 1) / 256)
    assert row["tissue"] == pytest.approx(len(tissue) / len(few))
    assert [row["od_red"], row["od_green"], row["od_blue"]] == pytest.approx(density.mean(axis=0), rel=1e-4)
    assert [row["spread_red"], row["spread_green"], row["spread_blue"]] == pytest.approx(density.std(axis=0), rel=1e-3, abs=1e-4)


def test_few_or_empty_tiles_are_one_domain_and_balance_is_counted() -> None:
    glass = np.full((60, 32, 32, 3), 240, np.uint8)
    found = domains_of([f"{at}" for at in range(60)], statistics_of(glass))
    assert found.n_stains == 1
    assert found.stain_strength == {}
    balance = class_balance(["b", "a", "a", "a"], np.array([-1, 0, 1, 1]))
    assert balance["group"].tolist() == ["a", "b"]
    assert balance.iloc[0].to_list() == ["a", 3, 1, 2, 0, 2 / 3]
    assert balance.loc[1, "unknown"] == 1
    assert balance["positive_share"].isna().tolist() == [False, True]
