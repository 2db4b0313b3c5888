"""Augmentation: every tile becomes a view of itself, colour changes are linear, chance comes from the generator alone."""

import colorsys

import numpy as np
import pytest
import torch

from sentinode.fit.augment import Augmentation, augmented, colour_transforms, random_views
from sentinode.nets.forward import view
from sentinode.nets.transform import normalise

MEAN, STD = torch.tensor([0.7, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.15])


def tiles(n: int, px: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, (n, px, px, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("n", [1, 3, 8, 21])
def test_each_tile_stays_in_place_as_one_of_its_views(n: int) -> None:
    x = tiles(n)
    out = random_views(x, torch.Generator().manual_seed(0))
    for before, after in zip(x, out, strict=True):
        assert any(torch.equal(view(before[None], k)[0].float(), after) for k in range(8))


def test_all_views_come_up_and_the_first_is_drawn() -> None:
    x = tiles(8)
    seen = set()
    for seed in range(40):
        out = random_views(x, torch.Generator().manual_seed(seed))
        matches = [next(k for k in range(8) if torch.equal(view(t[None], k)[0].float(), o)) for t, o in zip(x, out, strict=True)]
        assert sorted(matches) == list(range(8))
        seen.add(matches[0])
    assert len(seen) == 8


def test_without_changes_it_is_normalisation() -> None:
    x = tiles(5)
    out = augmented(x, MEAN, STD, Augmentation(False, 0.0, 0.0), torch.Generator())
    torch.testing.assert_close(out, normalise(x, MEAN, STD))


def test_the_seed_decides_and_nothing_else() -> None:
    x, changes = tiles(6), Augmentation(True, 1.0, 0.5)
    torch.manual_seed(0)
    one = augmented(x, MEAN, STD, changes, torch.Generator().manual_seed(3))
    torch.manual_seed(99)
    two = augmented(x, MEAN, STD, changes, torch.Generator().manual_seed(3))
    other = augmented(x, MEAN, STD, changes, torch.Generator().manual_seed(4))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_colour_of_strength_zero_changes_nothing() -> None:
    matrix, offset = colour_transforms(4, 0.0, torch.Generator())
    torch.testing.assert_close(matrix, torch.eye(3).expand(4, 3, 3))
    torch.testing.assert_close(offset, torch.zeros(4, 1, 3))


def test_colour_changes_keep_a_grey_nearly_grey_but_for_gains() -> None:
    matrix, _ = colour_transforms(200, 1.0, torch.Generator().manual_seed(0))
    grey = torch.ones(200, 1, 3) @ matrix
    spread = (grey.amax(-1) - grey.amin(-1)) / grey.mean(-1)
    assert spread.max() < 0.22  # gains of +-10 % and nothing else


def test_hue_turns_are_bounded() -> None:
    """Against colorsys: a saturated colour's hue moves by at most 0.1 of a turn and what gains add."""
    matrix, _ = colour_transforms(300, 1.0, torch.Generator().manual_seed(0))
    red = (torch.tensor([[0.8, 0.3, 0.3]]) @ matrix)[:, 0]
    hues = [colorsys.rgb_to_hsv(*np.clip(c.numpy(), 0, 1))[0] for c in red]
    turns = [min(h, 1 - h) for h in hues]
    assert 0.05 < max(turns) < 0.2


def test_the_output_is_channels_last_for_the_convolutions() -> None:
    out = augmented(tiles(4), MEAN, STD, Augmentation(True, 1.0, 0.0), torch.Generator().manual_seed(0))
    assert out.shape == (4, 3, 16, 16)
    assert out.is_contiguous(memory_format=torch.channels_last)
