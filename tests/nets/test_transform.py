"""The transform is timm's own evaluation transform on the whole tile, in every form it has."""

import dataclasses
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sentinode.nets.backbone import preprocessing_of, timm_module
from sentinode.nets.forward import view
from sentinode.nets.portable import PortableTransform
from sentinode.nets.transform import Preprocessing, Transform, normalise
from sentinode.tiles.synth import synthesise

Tiles = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
IMAGENET = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
LEVEL = 1 / 255 / 0.224
"""One grey level, normalised."""


def tissue(n: int = 3) -> Tiles:
    return synthesise(1, n, px=96, seed=1).tiles[:n]


@pytest.mark.parametrize("input_px", [64, 96, 128, 224])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("form", [Transform, PortableTransform])
def test_it_is_timms_evaluation_transform(
    input_px: int, interpolation: Literal["bilinear", "bicubic"], form: type[Transform] | type[PortableTransform]
) -> None:
    timm_module()
    from timm.data.transforms_factory import create_transform

    theirs = create_transform(
        (3, input_px, input_px),
        is_training=False,
        crop_pct=1.0,
        interpolation=interpolation,
        mean=IMAGENET.mean,
        std=IMAGENET.std,
    )
    tiles = tissue()
    expected = torch.stack([theirs(Image.fromarray(tile)) for tile in tiles])
    preprocessing = dataclasses.replace(IMAGENET, input_px=input_px, interpolation=interpolation)
    ours = form(preprocessing, 96)(torch.from_numpy(tiles))
    assert ours.shape == expected.shape
    assert (ours - expected).abs().max() <= 1.01 * LEVEL
    assert (ours - expected).abs().mean() < 0.02 * LEVEL


@pytest.mark.parametrize("name", ["resnet50", "tf_efficientnet_lite0"])
@pytest.mark.parametrize("input_px", [160, 224])
def test_it_is_timms_own_configuration_of_a_network_but_for_size_and_crop(name: str, input_px: int) -> None:
    """160 px and the whole tile are ours; mean, standard deviation and interpolation are the configuration's."""
    config = timm_module().get_pretrained_cfg(name).to_dict()
    from timm.data.config import resolve_data_config
    from timm.data.transforms_factory import create_transform

    facts = resolve_data_config({}, pretrained_cfg=config)  # type: ignore[no-untyped-call]
    assert facts["crop_pct"] < 1, "timm's own crops: where it does not, nothing deviates"
    theirs = create_transform(**facts | {"crop_pct": 1.0, "input_size": (3, input_px, input_px)}, is_training=False)
    tiles = tissue()
    expected = torch.stack([theirs(Image.fromarray(tile)) for tile in tiles])
    ours = Transform(preprocessing_of(config, input_px), 96)(torch.from_numpy(tiles))
    level = 1 / 255 / min(facts["std"])
    assert (ours - expected).abs().max() <= 1.01 * level
    assert (ours - expected).abs().mean() < 0.02 * level


def test_floats_are_resized_as_bytes_are() -> None:
    transform = Transform(dataclasses.replace(IMAGENET, input_px=160), 96)
    tiles = torch.from_numpy(tissue())
    assert (transform(tiles.float()) - transform(tiles)).abs().max() <= 1.01 * LEVEL


def test_what_augmentation_normalised_is_resized_to_the_same_input() -> None:
    transform = Transform(dataclasses.replace(IMAGENET, input_px=160), 96)
    tiles = torch.from_numpy(tissue())
    ready = transform.of_augmented(normalise(tiles, transform.mean, transform.std))
    assert (ready - transform(tiles)).abs().max() <= 1.51 * LEVEL  # bytes are rounded twice, these are not


def test_a_network_that_wants_bgr_gets_blue_first() -> None:
    tiles = torch.from_numpy(tissue())
    rgb, bgr = (Transform(dataclasses.replace(IMAGENET, channels=order), 96)(tiles) for order in ("rgb", "bgr"))
    assert torch.equal(rgb[:, [2, 1, 0]], bgr)


def test_a_network_of_0_to_255_gets_bytes_less_the_mean() -> None:
    mean = (103.939, 116.779, 123.68)
    caffe = Preprocessing((mean[0] / 255, mean[1] / 255, mean[2] / 255), (1 / 255, 1 / 255, 1 / 255))
    tiles = tissue()
    expected = (tiles.astype(np.float64) - np.array(mean)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(Transform(caffe, 96)(torch.from_numpy(tiles)).numpy(), expected, atol=1e-3)


@settings(max_examples=16, deadline=None)
@given(number=st.integers(0, 7), input_px=st.sampled_from([48, 128, 130]))
def test_turning_before_or_after_is_the_same(number: int, input_px: int) -> None:
    transform = Transform(dataclasses.replace(IMAGENET, input_px=input_px), 96)
    tiles = torch.from_numpy(tissue(1))
    after = view(transform(tiles).permute(0, 2, 3, 1), number).permute(0, 3, 1, 2)
    # Columns are rounded after rows: in a transposed tile the other way round, and a filter may carry a level over into another.
    assert (transform(view(tiles, number).contiguous()) - after).abs().max() <= 2.01 * LEVEL
