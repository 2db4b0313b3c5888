"""The scaling guard: a network must get the numbers that its weights were trained on.

A wrong range costs more accuracy than a wrong network and raises no error by itself. Two checks:

1. The preprocessing against what the weights' own configuration declares: where it was taken from there, as `train` does, this holds.
2. The preprocessing against what the weights remember. The first batch norm keeps mean and variance of its inputs in training, and
   those are affine in the image: the mean colour that the network saw follows by least squares (32 equations for three unknowns; on
   EfficientNet-Lite0 the residual is below 1 %), the range from the variance, by comparison with images of natural statistics.
   An alternative preprocessing that fits far better than the configured one stops the run.

What it cannot see, and says so: networks without batch norm at the input (ViT, ConvNeXt), or with more than convolutions before it;
networks that were never trained (nothing is remembered, and nothing is wrong). What it cannot see and does not know of: swapped
channels where every channel was normalised to mean 0 by itself, which leaves no trace of their order.

Source: mean of ImageNet's colours as everyone normalises with them; covariance of ImageNet's colours, Krizhevsky et al. 2012 (its
eigenvectors as published with fb.resnet.torch); amplitudes fall as 1/frequency, Field 1987.
"""

import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sentinode.errors import UsageProblem
from sentinode.nets.transform import Preprocessing

NATURAL = (0.485, 0.456, 0.406)
"""Mean colour (red, green, blue; 0 to 1) of ImageNet."""
STAINED = (0.70, 0.54, 0.66)
"""The same of H&E tiles, for encoders that were trained on them."""
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
"""Of the covariance of ImageNet's colours."""
SPREAD = 0.28
"""Standard deviation of a channel of it."""
LOW = 0.3
"""A filter whose variance lies by at least this share in the mean colour of its window tells the range: the spectrum matters less."""
TOLERATED = 0.1
"""By how much a declared mean (in standard deviations) or standard deviation (its logarithm) may be missed."""
WRONG = 1.3
"""Misfit from which a preprocessing counts as wrong, if another has less than half of this. EfficientNet-Lite 0, 1 and 2, as they
are and folded to want other ranges: right ones 0.15 to 0.21, wrong ones 2.0 and more."""
UNSEEN = "no batch norm at the input: range not checked"
"""What is said of a network that remembers nothing of the images it was trained on."""
ALTERNATIVES = {
    "0 to 1": Preprocessing((0, 0, 0), (1, 1, 1)),
    "0 to 255": Preprocessing((0, 0, 0), (1 / 255,) * 3),
    "-1 to 1 (mean and std 0.5)": Preprocessing((0.5,) * 3, (0.5,) * 3),
    "normalised with ImageNet's mean and std": Preprocessing(NATURAL, (0.229, 0.224, 0.225)),
    "0 to 255 less the mean": Preprocessing(NATURAL, (1 / 255,) * 3),
}
"""What networks are trained on, in the words of the error."""


@dataclass(frozen=True)
class Remembered:
    """What the first batch norm tells of the images that the network was trained on.

    `mean`: of the three channels, in the order and units in which the network takes them; `error`: its standard error; `scale`: how
    many of these units one unit of colour (black to white) is.
    """

    mean: Tensor
    error: float
    scale: float


def check_scaling(model: nn.Module, preprocessing: Preprocessing, config: dict[str, Any] | None) -> str:
    """Stop a run whose preprocessing does not fit the network.

    Parameters
    ----------
    model
        With its pretrained weights, before any training; left as it was.
    preprocessing
        What tiles will go through.
    config
        timm's `pretrained_cfg` of the weights; None where nothing is declared.

    Returns
    -------
    str
        What was not checked, "" if all was: the range is known of networks alone that have a trained batch norm at the input.

    Raises
    ------
    UsageProblem
        It says what the network seems to want, what it gets, and how to go on in spite of it.
    """
    do = "mend mean, std or channels in the weights' config.json (a FILE takes timm's: give a folder with one), or use --no-guard"
    if config and len(config.get("mean") or ()) == len(config.get("std") or ()) == 3:
        off = [abs(a - b) / c for a, b, c in zip(preprocessing.mean, config["mean"], config["std"], strict=True)]
        off += [abs(math.log(a / b)) for a, b in zip(preprocessing.std, config["std"], strict=True)]
        if max(off) > TOLERATED:
            wanted = f"colours less {in_words(config['mean'])} over {in_words(config['std'])}, as the weights declare"
            raise UsageProblem(wanted, f"less {in_words(preprocessing.mean)} over {in_words(preprocessing.std)}", do)
    declared = (config or {}).get("channels", preprocessing.channels)
    if declared != preprocessing.channels:
        raise UsageProblem(f"channels in the order {declared}, as the weights declare", preprocessing.channels, do)
    memory = remembered(model, preprocessing.input_px or 224)
    if memory is None:
        return UNSEEN
    given = mismatch(memory, preprocessing)
    fits = {words: mismatch(memory, other) for words, other in ALTERNATIVES.items()}
    best = min(fits, key=lambda words: fits[words])
    if given > WRONG and fits[best] < WRONG / 2:
        raise UsageProblem(
            f"an input {best}, which the weights' first batch norm remembers (misfit {fits[best]:.1f})",
            f"colours less {in_words(preprocessing.mean)} over {in_words(preprocessing.std)} (misfit {given:.1f})",
            do,
        )
    if swapped(memory, preprocessing):
        other = "bgr" if preprocessing.channels == "rgb" else "rgb"
        found = f"{preprocessing.channels}, with which their mean colour would be bluish, as that of no set of photographs is"
        raise UsageProblem(f"channels in the order {other}, which the weights' first batch norm remembers", found, do)
    return ""


def in_words(values: Iterable[float]) -> str:
    """Return numbers for a message."""
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"


def mismatch(memory: Remembered, preprocessing: Preprocessing) -> float:
    """Return how badly a preprocessing fits what the weights remember; 1 is a range off by 1.4, or a colour by half its spread."""
    mean, std = (torch.tensor(v) for v in (preprocessing.mean, preprocessing.std))
    scale = float((1 / std).mean())
    range_off = abs(math.log(memory.scale / scale)) / 0.35
    order = (0, 1, 2) if preprocessing.channels == "rgb" else (2, 1, 0)
    colours = [((torch.tensor(colour) - mean) / std)[list(order)] for colour in (NATURAL, STAINED)]
    colour_off = min(float((memory.mean - colour).pow(2).mean().sqrt()) for colour in colours) / (SPREAD * scale) / 0.5
    return math.hypot(range_off, colour_off)


def swapped(memory: Remembered, preprocessing: Preprocessing) -> bool:
    """Return whether the colours that the weights remember are those of photographs with red and blue exchanged."""
    mean, std = (torch.tensor(v) for v in (preprocessing.mean, preprocessing.std))
    channels = memory.mean if preprocessing.channels == "rgb" else memory.mean.flip(0)
    red, green, blue = (channels * std + mean).tolist()
    sure = max(0.004, 3 * memory.error * float(std.max()))
    return bool(blue - green > sure and green - red > sure)


class Reached(Exception):
    """The first batch norm was reached; nothing behind it is computed."""


def at_norm(model: nn.Module, images: Tensor) -> tuple[nn.BatchNorm2d, Tensor] | None:
    """Return the first batch norm that runs and the middle of its input [n, c, h, w] for images [n, 3, p, p]; None without one."""
    kept: list[tuple[nn.BatchNorm2d, Tensor]] = []

    def stop(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        maps = inputs[0].detach().float()
        edge = maps.shape[-1] // 8  # where padding shows, which is no colour
        kept.append((norm, maps[..., edge : maps.shape[-2] - edge, edge : maps.shape[-1] - edge]))  # type: ignore[arg-type]
        raise Reached

    hooks = [part.register_forward_pre_hook(stop) for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), suppress(Reached):
            model(images)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return kept[0] if kept else None


def remembered(model: nn.Module, px: int) -> Remembered | None:
    """Return what the first batch norm remembers; None if there is none, it was never trained, or more than affine maps precede it."""
    if not any(isinstance(part, nn.BatchNorm2d) for part in model.modules()):
        return None
    device = next(model.parameters()).device
    # Black, the three primaries, white: enough for an affine map of colours and to see that it is one. Then something with texture
    # and its negative, since of flat images the maximum is affine, too.
    flat = torch.cat([torch.zeros(1, 3), torch.eye(3), torch.ones(1, 3)])[:, :, None, None].expand(-1, 3, px, px)
    texture = natural_images(1, px)
    reached = at_norm(model, torch.cat([flat, texture, -texture]).to(device))
    if reached is None:
        return None
    norm, maps = reached
    if norm.running_mean is None or norm.running_var is None:
        return None
    running_mean, running_var = norm.running_mean.double().cpu(), norm.running_var.double().cpu()
    if not running_mean.any():
        return None
    response = maps[:5].mean((2, 3)).double().cpu()
    black, primaries, white = response[0], response[1:4], response[4]
    tolerance = 1e-3 * float(response.abs().max())
    affine = torch.allclose(white, primaries.sum(0) - 2 * black, rtol=1e-3, atol=tolerance)
    if not affine or not torch.allclose(maps[5] + maps[6], 2 * maps[0], rtol=1e-3, atol=tolerance):
        return None
    matrix = (primaries - black).T
    alive = running_var > 1e-6 * running_var.max()
    weight = running_var[alive].rsqrt()
    a, b = matrix[alive] * weight[:, None], (running_mean - black)[alive] * weight
    if len(a) < 8 or torch.linalg.matrix_rank(a) < 3:
        return None
    mean = torch.linalg.lstsq(a, b).solution
    variance = (a @ mean - b).pow(2).sum() / (len(a) - 3) * torch.linalg.inv(a.T @ a).diagonal()
    scale = remembered_scale(model, px, device, matrix, alive)
    return Remembered(mean.float(), float(variance.sqrt().max()), scale) if scale else None


def remembered_scale(model: nn.Module, px: int, device: torch.device, matrix: Tensor, alive: Tensor) -> float | None:
    """Return the network's units a unit of colour: by how much its remembered spread exceeds that under natural images."""
    reached = at_norm(model, natural_images(16, px).to(device))
    if reached is None or reached[0].running_var is None:
        return None
    spread = reached[1].var((0, 2, 3)).double().cpu()
    of_colour = torch.einsum("ci,ij,cj->c", matrix, covariance().double(), matrix)
    low = alive & (of_colour > LOW * spread)
    if int(low.sum()) < 4:
        return None
    return float((reached[0].running_var.double().cpu()[low] / spread[low]).sqrt().median())


def covariance() -> Tensor:
    """Return the covariance of ImageNet's colours [3, 3], colours from 0 to 1."""
    vectors = torch.tensor(EIGENVECTORS)
    return vectors @ torch.diag(torch.tensor(EIGENVALUES)) @ vectors.T


def natural_images(n: int, px: int) -> Tensor:
    """Return noise [n, 3, px, px] with the colours' covariance and the 1/frequency amplitudes of photographs, mean 0, always the same."""
    generator = torch.Generator().manual_seed(0)
    across, down = torch.fft.rfftfreq(px), torch.fft.fftfreq(px)
    frequency = (down[:, None] ** 2 + across[None] ** 2).sqrt()
    frequency[0, 0] = 0.5 / px
    white = torch.fft.rfft2(torch.randn(n, 3, px, px, generator=generator))
    noise = torch.fft.irfft2(white / frequency, s=(px, px))
    noise = noise / noise.std(dim=(0, 2, 3), keepdim=True)
    mixed: Tensor = torch.einsum("ij,njhw->nihw", torch.tensor(EIGENVECTORS) * torch.tensor(EIGENVALUES).sqrt(), noise)
    return mixed
