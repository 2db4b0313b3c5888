"""Batch-norm statistics of other images: those of the tiles at hand instead of those of the pretraining."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sentinode.errors import DataProblem, UsageProblem
from sentinode.nets.transform import Transform


def recalibrate_bn(model: nn.Module, parts: Iterable[Tensor], transform: Transform) -> None:
    """Estimate the statistics of every batch norm anew; weights, and the mode of every part, stay as they are.

    Each becomes the plain mean over the batches of the batch's mean and (unbiased) variance; in the meantime batch norm works on
    the batch's own statistics, as in training, and everything else as in evaluation. Batches of equal size count each tile once.

    Parameters
    ----------
    model
        Takes what `transform` gives.
    parts
        Batches of training tiles, uint8 [k, px, px, 3].
    transform
        The network's own.

    Raises
    ------
    UsageProblem
        If the network has no batch norm that keeps statistics.
    DataProblem
        If there is no tile. The statistics are then, and after any other error, what they were.
    """
    norms = [part for part in model.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    if not norms:
        raise UsageProblem("a network with batch norm to recalibrate", type(model).__name__, "leave --recalibrate-bn out")
    modes = {part: part.training for part in model.modules()}
    momenta = [norm.momentum for norm in norms]
    before = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    device = next(model.parameters()).device
    seen = 0
    model.eval()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's word for a cumulative mean
            norm.training = True
        with torch.no_grad():
            for part in parts:
                model(transform(part.to(device)))
                seen += len(part)
        if not seen:
            raise DataProblem("training tiles to recalibrate batch norm with", "none", "give a larger --sample")
    except BaseException:
        for norm, buffers in zip(norms, before, strict=True):
            norm.load_state_dict(buffers, strict=False)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
