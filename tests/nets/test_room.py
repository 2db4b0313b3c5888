"""Where memory is too small, half as many tiles at a time go on: with the same figures, down to one, and no further."""

import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from sentinode.nets.forward import logits, slices
from sentinode.nets.room import SameDrop, with_room
from sentinode.nets.transform import Preprocessing, Transform

FULL: dict[str, Callable[[], Exception]] = {
    "torch": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB"),
    "allocator": lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
    "python": MemoryError,
}


class Limited(nn.Module):
    """A logit from the mean colour, for at most `most` tiles at a time."""

    def __init__(self, most: int, full: Callable[[], Exception] = MemoryError) -> None:
        super().__init__()
        self.most, self.full, self.asked = most, full, list[int]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked.append(len(x))
        if len(x) > self.most:
            raise self.full()
        return x.mean((1, 2, 3))


@settings(max_examples=20)
@given(at_once=st.integers(1, 10_000), most=st.integers(300, 10_000), kind=st.sampled_from(sorted(FULL)))
def test_the_first_half_that_fits_is_taken(at_once: int, most: int, kind: str) -> None:
    def work(k: int) -> str:
        if k > most:
            raise FULL[kind]()
        return f"{k} done"

    fitting = next(at_once >> n for n in range(20) if at_once >> n <= most)
    assert with_room(work, at_once) == (f"{fitting} done", fitting)


@pytest.mark.parametrize("kind", sorted(FULL))
def test_a_single_tile_that_does_not_fit_is_the_callers_matter(kind: str) -> None:
    asked = []

    def work(k: int) -> None:
        asked.append(k)
        raise FULL[kind]()

    with pytest.raises(type(FULL[kind]())):
        with_room(work, 12)
    assert asked == [12, 6, 3, 1]


def test_other_errors_are_not_tried_again() -> None:
    asked = []

    def work(k: int) -> None:
        asked.append(k)
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        with_room(work, 12)
    assert asked == [12]


def test_what_a_failed_attempt_made_is_gone_before_the_next() -> None:
    made: list[weakref.ref[torch.Tensor]] = []

    def work(k: int) -> int:
        assert not any(one() is not None for one in made)
        big = torch.zeros(1000)
        made.append(weakref.ref(big))
        if k > 2:
            raise MemoryError
        return len(big)

    assert with_room(work, 8) == (1000, 2)
    assert len(made) == 3


@pytest.mark.parametrize("at_once", [1, 3, 5])
def test_dropout_of_parts_drops_what_it_would_in_the_whole(at_once: int) -> None:
    x = torch.randn(8, 4, 3)
    drop = nn.Dropout(0.5).train()
    torch.manual_seed(1)
    whole, after = drop(x), torch.rand(3)
    parts = []
    for first in range(0, 8, at_once):
        torch.manual_seed(1)
        with SameDrop(8, first):
            parts.append(drop(x[first : first + at_once]))
    torch.testing.assert_close(torch.cat(parts), whole)
    assert torch.equal(torch.rand(3), after)


def test_dropout_that_is_off_changes_nothing() -> None:
    x = torch.randn(3, 4)
    with SameDrop(8, 2):
        assert torch.equal(functional.dropout(x, 0.5, training=False), x)
        assert torch.equal(functional.dropout(x, 0.0), x)


@pytest.mark.parametrize("kind", sorted(FULL))
@pytest.mark.parametrize("views", [1, 8])
def test_logits_are_the_same_with_fewer_at_a_time_and_it_is_said_once(kind: str, views: int) -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    transform = Transform(Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)), 8)
    said: list[str] = []
    narrow = Limited(3, FULL[kind])
    found = logits(narrow, slices(tiles, 16), transform, views=views, say=said.append)
    expected = (tiles.astype(np.float64).mean((1, 2, 3)) / 255 - 0.5) / 0.25
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert said == ["memory is too small for 16 tiles at a time: 2 from here on"]
    assert narrow.asked[:3] == [16, 8, 4]
    assert set(narrow.asked[3:]) <= {1, 2}
