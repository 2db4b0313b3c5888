"""Recalibrated batch norm against the same statistics computed step by step, and everything else left alone."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sentinode.errors import DataProblem, UsageProblem
from sentinode.nets.forward import slices
from sentinode.nets.recalibrate import recalibrate_bn
from sentinode.nets.transform import Preprocessing, Transform

TRANSFORM = Transform(Preprocessing((0.7, 0.5, 0.6), (0.2, 0.25, 0.3)), 16)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.2), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5)
    )
    for tensor in layers.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
    return layers


def tiles() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(1).integers(0, 256, (12, 16, 16, 3), np.uint8)


def by_hand(model: nn.Sequential) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    """Return mean and variance of the two batch norms in numpy, torch only convolving."""
    found: list[list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]] = []
    for start in (0, 4, 8):
        x = (tiles()[start : start + 4].astype(np.float64) / 255 - [0.7, 0.5, 0.6]) / [0.2, 0.25, 0.3]
        x = x.transpose(0, 3, 1, 2)
        each = []
        for conv, norm in ((model[0], model[1]), (model[4], model[5])):
            weight, bias = (getattr(conv, name).detach().double() for name in ("weight", "bias"))
            y = nn.functional.conv2d(torch.from_numpy(x), weight, bias).numpy()
            mean, n = y.mean((0, 2, 3)), y.size / y.shape[1]
            each += [mean, y.var((0, 2, 3)) * n / (n - 1)]
            scaled = (y - mean[:, None, None]) / np.sqrt(y.var((0, 2, 3)) + 1e-5)[:, None, None]
            gamma, beta = (getattr(norm, name).detach().double().numpy()[:, None, None] for name in ("weight", "bias"))
            x = np.maximum(scaled * gamma + beta, 0)
        found.append(each)
    return [np.mean([each[i] for each in found], axis=0) for i in range(4)]


@pytest.mark.parametrize("training", [False, True])
def test_statistics_are_those_of_the_tiles_and_nothing_else_changes(training: bool) -> None:
    model = network().train(training)
    model[3].train(not training)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    modes = [part.training for part in model.modules()]
    expected = by_hand(model)
    recalibrate_bn(model, slices(tiles(), 4), TRANSFORM)
    norms = [part for part in model if isinstance(part, nn.BatchNorm2d)]
    measured = [getattr(norm, name).numpy() for norm in norms for name in ("running_mean", "running_var")]
    for ours, theirs in zip(measured, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert [part.training for part in model.modules()] == modes
    assert [norm.momentum for norm in norms] == [0.2, 0.1]
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]) != ("running" in key or "num_batches" in key), key


def test_once_more_gives_the_same() -> None:
    model = network()
    recalibrate_bn(model, slices(tiles(), 4), TRANSFORM)
    first = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    recalibrate_bn(model, slices(tiles(), 4), TRANSFORM)
    assert all(torch.equal(tensor, first[key]) for key, tensor in model.state_dict().items())


def broken() -> Iterator[Tensor]:
    yield torch.from_numpy(tiles()[:4])
    raise OSError("the disk went away")


@pytest.mark.parametrize(("parts", "error"), [(iter(()), DataProblem), (broken(), OSError)])
def test_after_an_error_all_is_as_before(parts: Iterator[Tensor], error: type[Exception]) -> None:
    model = network().eval()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(error, match=r"expected training tiles .*; found none; give a larger|went away"):
        recalibrate_bn(model, parts, TRANSFORM)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert not any(part.training for part in model.modules())


def test_a_network_without_batch_norm_is_told() -> None:
    with pytest.raises(UsageProblem, match=r"expected a network with batch norm .*; found Conv2d; leave --recalibrate-bn out"):
        recalibrate_bn(nn.Conv2d(3, 3, 1), iter(()), TRANSFORM)
