"""The feed: what is resident, what is gathered, and that both give the same tiles."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinode.errors import StoreProblem
from sentinode.fit.feed import Feed, epoch_order, make_feed, read_rows
from sentinode.tiles.arrays import store_of
from sentinode.tiles.store import Store


def on_disk(folder: Path, n: int = 40, px: int = 8) -> Store:
    """A store whose tiles are a memory map of a real tiles.npy."""
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 256, (n, px, px, 3), np.uint8)
    np.save(folder / "tiles.npy", tiles)
    store = store_of(tiles, (np.arange(n) % 2).astype(np.int8))
    return dataclasses.replace(store, path=folder, tiles=np.load(folder / "tiles.npy", mmap_mode="r"))


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 300), batch=st.integers(1, 80), seed=st.integers(0, 99), epoch=st.integers(0, 9))
def test_an_epoch_shows_each_tile_once(n: int, batch: int, seed: int, epoch: int) -> None:
    order = epoch_order(n, batch, seed, epoch)
    sizes = [len(part) for part in order]
    assert sorted(np.concatenate(order).tolist()) == list(range(n))
    assert max(sizes) <= batch
    assert max(sizes) - min(sizes) <= 1


def test_epochs_differ_and_seeds_repeat() -> None:
    first, again, other = (np.concatenate(epoch_order(50, 8, 1, epoch)) for epoch in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("rows", [[3], [5, 1, 30, 2], list(range(40)), [39, 0]])
def test_rows_are_read_in_the_order_asked_for(tmp_path: Path, rows: list[int]) -> None:
    store = on_disk(tmp_path)
    np.testing.assert_array_equal(read_rows(store, np.array(rows)), np.asarray(store.tiles)[rows])


def test_resident_and_gathered_feeds_agree(tmp_path: Path) -> None:
    store, rows = on_disk(tmp_path), np.array([4, 9, 2, 33, 17, 20, 8])
    order = epoch_order(len(rows), 3, 0, 0)
    feeds = [make_feed(store, rows, device="cpu", resident=resident) for resident in (True, False)]
    for (a, la), (b, lb) in zip(*(feed.batches(order) for feed in feeds), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(la, lb)
    assert torch.equal(torch.cat(list(feeds[0].in_order(2))), torch.cat(list(feeds[1].in_order(5))))
    np.testing.assert_array_equal(feeds[0].labels.numpy(), rows % 2)


def test_leaving_an_epoch_early_ends_the_reading_thread(tmp_path: Path) -> None:
    import threading

    feed = make_feed(on_disk(tmp_path), np.arange(40), device="cpu", resident=False)
    batches = feed.batches(epoch_order(40, 2, 0, 0))
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name == "sentinode-read-ahead"]


def test_a_disk_that_fails_while_training_is_told(tmp_path: Path) -> None:
    class Failing:
        shape, dtype = (4, 8, 8, 3), np.dtype(np.uint8)

        def __getitem__(self, rows: object) -> object:
            raise OSError(5, "Input/output error")

    feed = Feed(Failing(), np.arange(4), torch.zeros(4))  # type: ignore[arg-type]
    with pytest.raises(StoreProblem, match=r"expected the store's tiles.*found.*Input/output.*--resume"):
        list(feed.batches(epoch_order(4, 2, 0, 0)))


def test_a_cut_tiles_file_is_told(tmp_path: Path) -> None:
    store = on_disk(tmp_path)
    whole = (tmp_path / "tiles.npy").read_bytes()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "tiles.npy").write_bytes(whole[:-500])
    cut = dataclasses.replace(store, path=tmp_path / "other")
    with pytest.raises(StoreProblem, match=r"expected 40 tiles.*found a shorter.*pack it again"):
        read_rows(cut, np.arange(40))
