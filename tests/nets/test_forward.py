"""The forward pass: views are the dihedral group, normalisation is arithmetic anyone can repeat, batches do not matter."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sentinode.nets.forward import VIEWS, Kept, arithmetic, logits, slices, view
from sentinode.nets.simple_cnn import SimpleCNN
from sentinode.nets.transform import Preprocessing, Transform, normalise

PLAIN = Preprocessing((0.7, 0.5, 0.6), (0.2, 0.25, 0.15))
TRANSFORM = Transform(PLAIN, 24)


def some_tiles(n: int, px: int = 24, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (n, px, px, 3), np.uint8)


def test_views_are_the_eight_of_numpy() -> None:
    tile = some_tiles(1)[0]
    turned = [np.rot90(base, k) for base in (tile, tile.transpose(1, 0, 2)) for k in range(4)]
    ours = [view(torch.from_numpy(tile[None]), number)[0].numpy() for number in range(8)]
    assert {t.tobytes() for t in turned} == {np.ascontiguousarray(o).tobytes() for o in ours}
    assert len({np.ascontiguousarray(o).tobytes() for o in ours}) == 8


def test_four_views_are_the_rotations() -> None:
    tile = some_tiles(1)[0]
    ours = {view(torch.from_numpy(tile[None]), number)[0].numpy().tobytes() for number in VIEWS[4]}
    assert {np.ascontiguousarray(np.rot90(tile, k)).tobytes() for k in range(4)} == ours


def test_normalise_is_the_textbook_formula() -> None:
    tiles = some_tiles(3)
    ours = normalise(torch.from_numpy(tiles), torch.tensor(PLAIN.mean), torch.tensor(PLAIN.std)).numpy()
    expected = ((tiles / 255 - np.array(PLAIN.mean)) / np.array(PLAIN.std)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_normalise_leaves_its_input_alone() -> None:
    tiles = torch.from_numpy(some_tiles(2)).float()
    before = tiles.clone()
    normalise(tiles, torch.tensor(PLAIN.mean), torch.tensor(PLAIN.std))
    assert torch.equal(before, tiles)


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 9), batch=st.integers(1, 12), views=st.sampled_from([1, 4, 8]))
def test_batches_do_not_change_logits(n: int, batch: int, views: int) -> None:
    torch.manual_seed(0)
    model = SimpleCNN((4, 4, 8), hidden=8)
    tiles = some_tiles(n)
    whole = logits(model, slices(tiles, n), TRANSFORM, views=views)
    parts = logits(model, slices(tiles, batch), TRANSFORM, views=views)
    np.testing.assert_allclose(parts, whole, atol=1e-5)


def test_eight_views_give_every_view_of_a_tile_the_same_logit() -> None:
    torch.manual_seed(0)
    model = SimpleCNN((4, 4, 8), hidden=8)
    tiles = torch.from_numpy(some_tiles(4))
    reference = logits(model, [tiles], TRANSFORM, views=8)
    for number in range(8):
        np.testing.assert_allclose(logits(model, [view(tiles, number)], TRANSFORM, views=8), reference, atol=1e-5)
    assert not np.allclose(logits(model, [tiles], TRANSFORM), logits(model, [view(tiles, 5)], TRANSFORM), atol=1e-6)


def test_the_mode_of_the_model_is_left_and_dropout_is_off() -> None:
    model = SimpleCNN((4, 4, 8), hidden=8, dropout=0.9).train()
    tiles = some_tiles(6)
    first, second = (logits(model, slices(tiles, 6), TRANSFORM) for _ in range(2))
    assert model.training
    np.testing.assert_array_equal(first, second)


def test_no_tiles_give_no_logits() -> None:
    assert logits(SimpleCNN((4, 4, 8)), slices(some_tiles(0), 4), TRANSFORM).shape == (0,)


@pytest.mark.parametrize("precision", ["bf16"])
def test_reduced_precision_stays_near(precision: str) -> None:
    torch.manual_seed(0)
    model = SimpleCNN((8, 8, 16))
    tiles = some_tiles(8, 48)
    exact = logits(model, slices(tiles, 8), TRANSFORM)
    reduced = logits(model, slices(tiles, 8), TRANSFORM, precision=precision)
    np.testing.assert_allclose(reduced, exact, atol=0.05)
    assert not np.array_equal(reduced, exact)


def test_logits_come_back_in_order_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Kept, "BLOCK", 5)
    kept = Kept(torch.device("cpu"))
    for part in torch.split(torch.arange(23.0), 4):
        kept.add(part)
    np.testing.assert_array_equal(kept.all(), np.arange(23))


def flags() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def test_a_gpu_tries_its_kernels_for_each_shape_and_not_beyond() -> None:
    before = torch.backends.cudnn.benchmark
    with arithmetic("cuda", "fp32"):
        assert torch.backends.cudnn.benchmark
    assert torch.backends.cudnn.benchmark == before
    with arithmetic("cpu", "bf16"):
        assert torch.backends.cudnn.benchmark == before


@pytest.mark.parametrize(("precision", "on"), [("fp32", False), ("tf32", True)])
def test_a_gpu_multiplies_in_tf32_where_asked_and_nowhere_else(precision: str, on: bool) -> None:
    before = flags()
    assert before == (False, True)  # torch's own: convolutions are in TF32 unasked
    with arithmetic("cuda", precision):
        assert flags() == (on, on)
        assert not torch.is_autocast_enabled("cuda")
        with arithmetic("cuda:0", "fp32"):
            assert flags() == (False, False)
        assert flags() == (on, on)
    assert flags() == before


def test_flags_come_back_after_an_error_and_a_cpu_has_none() -> None:
    before = flags()
    with pytest.raises(ValueError, match="inside"), arithmetic("cuda", "tf32"):
        raise ValueError("inside")
    assert flags() == before
    with arithmetic("cpu", "tf32"):
        assert flags() == before
        assert not torch.is_autocast_enabled("cpu")


def test_a_network_computes_where_memory_beyond_a_containers_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    @contextmanager
    def refusing(device: str) -> Iterator[None]:
        seen.append(f"refusing on {device}")
        yield
        seen.append("as before")

    def network(x: Tensor) -> Tensor:
        seen.append("network")
        return x.mean((1, 2, 3))

    monkeypatch.setattr("sentinode.nets.forward.refusing", refusing)
    logits(network, slices(some_tiles(4), 2), TRANSFORM)
    assert seen == ["refusing on cpu", "network", "network", "as before"]
