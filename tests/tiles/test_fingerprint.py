"""Eight views and a JPEG file of a tile have one fingerprint; other tiles have others."""

import io

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.fft import dctn

from sentinode.errors import StoreProblem
from sentinode.tiles.fingerprint import (
    NEAR,
    SIDE,
    contrasts,
    distances,
    fingerprints,
    invariants,
    is_blank,
    luminance,
    near_pairs,
    packed,
    spectrum_views,
    unpacked,
)
from sentinode.tiles.passport import views_of
from sentinode.tiles.synth import synthesise

Tiles = npt.NDArray[np.uint8]


def views(tile: Tiles) -> Tiles:
    return np.stack([np.ascontiguousarray(view) for view in views_of(tile)])


def encoded(tile: Tiles, quality: int) -> Tiles:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(tile)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize("px", [24, 33, 96])
def test_the_pattern_is_scipys_cosine_transform(px: int) -> None:
    tiles = synthesise(1, 6, px=px, seed=2).tiles
    made = fingerprints(tiles)
    terms = dctn(luminance(tiles).astype(np.float64), axes=(1, 2), norm="ortho")[:, :SIDE, :SIDE].reshape(6, -1)[:, 1:] / px
    expected = np.sqrt((terms**2).sum(axis=1))
    np.testing.assert_allclose(contrasts(made), expected, atol=0.01)
    np.testing.assert_allclose(made["pattern"] / 127, terms / expected[:, None], atol=0.51 / 127)
    np.testing.assert_allclose(made["mean"], tiles.mean(axis=(1, 2)), atol=0.51)


@given(st.integers(0, 2**32 - 1), st.integers(2, 9))
@settings(max_examples=40, deadline=None)
def test_invariants_are_the_same_for_all_views_and_never_move_two_apart(seed: int, side: int) -> None:
    one, other = np.random.default_rng(seed).normal(size=(2, 3, side, side)).astype(np.float32)
    one[:, 0, 0] = other[:, 0, 0] = 0
    for view in spectrum_views(one):
        np.testing.assert_allclose(invariants(view), invariants(one), atol=1e-5)
    nearest = np.sqrt(((spectrum_views(one) - other) ** 2).sum(axis=(2, 3))).min(axis=0)
    assert (np.sqrt(((invariants(one) - invariants(other)) ** 2).sum(axis=1)) <= nearest + 1e-5).all()


@given(st.integers(0, 10**6), st.integers(0, 7))
@settings(max_examples=10, deadline=None)
def test_the_view_is_found_and_every_view_is_near(seed: int, at: int) -> None:
    tile = synthesise(1, 1, px=48, seed=seed).tiles[0]
    all_views = fingerprints(views(tile))
    distance, view = distances(np.repeat(all_views[:1], 8), all_views)
    assert view.tolist() == list(range(8))
    assert distance.max() < 0.03
    again = fingerprints(encoded(views(tile)[at], 75)[None])
    found, which = distances(all_views[:1], again)
    assert (found[0] <= NEAR, which[0]) == (True, at)


def test_near_pairs_are_those_of_brute_force() -> None:
    tiles = synthesise(3, 12, px=48, seed=4).tiles
    copies = np.stack([encoded(views_of(tile)[at % 8], 80) for at, tile in enumerate(tiles[:10])])
    blank = np.full((3, 48, 48, 3), 240, np.uint8)
    everything = np.concatenate([tiles, copies, tiles[:1], blank])
    prints = fingerprints(everything)
    first, second = np.triu_indices(len(everything), 1)
    expected = distances(prints[first], prints[second])[0] <= NEAR
    got = near_pairs(prints)
    assert list(zip(got[0].tolist(), got[1].tolist(), strict=True)) == list(
        zip(first[expected].tolist(), second[expected].tolist(), strict=True)
    )
    assert {(at, 36 + at) for at in range(10)} | {(0, 46), (36, 46)} == set(zip(got[0].tolist(), got[1].tolist(), strict=True))
    across = near_pairs(fingerprints(tiles), fingerprints(copies))
    assert list(zip(across[0].tolist(), across[1].tolist(), strict=True)) == [(at, at) for at in range(10)]
    assert across[3].tolist() == [at % 8 for at in range(10)]


def test_tiles_without_a_pattern_are_blank_and_near_to_nothing() -> None:
    noise = np.random.default_rng(0).integers(236, 246, (4, 32, 32, 3), dtype=np.uint8)
    flat = np.concatenate([noise, np.full((3, 32, 32, 3), 255, np.uint8), np.zeros((2, 32, 32, 3), np.uint8)])
    prints = fingerprints(flat)
    assert is_blank(prints).all()
    assert len(near_pairs(prints)[0]) == 0


def test_a_fingerprint_depends_on_its_tile_alone_and_survives_storing() -> None:
    tiles = synthesise(2, 100, px=24, seed=5).tiles
    whole = fingerprints(tiles, workers=2)
    assert packed(whole) == packed(np.concatenate([fingerprints(tile[None], workers=1) for tile in tiles]))
    assert packed(unpacked(packed(whole))) == packed(whole)
    assert len(fingerprints(tiles[:0])) == 0
    assert len(near_pairs(whole[:0])[0]) == 0
    with pytest.raises(StoreProblem, match="fingerprints of 68 bytes; found one of 3; train the run again"):
        unpacked([b"abc"])
    with pytest.raises(StoreProblem, match=r"uint8 tiles \[n, px, px, 3\].*4, 5, 3"):
        fingerprints(np.zeros((1, 4, 5, 3), np.uint8))
