"""What training costs, measured: seconds a step, arithmetic a tile."""

import copy
import math
import time
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sentinode.fit.layers import parameter_groups
from sentinode.fit.loop import Progressing, take_step
from sentinode.machine.plan import Plan
from sentinode.nets.backbone import Classifier
from sentinode.nets.compiled import compiled
from sentinode.nets.forward import placed
from sentinode.nets.trainable import trainable
from sentinode.nets.transform import ORDERS, Preprocessing, Transform
from sentinode.settings import TrainSettings

GREY = Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
"""Any mean and standard deviation: cost does not depend on them."""


def new_state(model: nn.Module, settings: TrainSettings, plan: Plan) -> Progressing:
    """Return the state of an untrained `model`: its running mean, optimiser and loss scaler.

    A network of timm's is trained in a faster form on a CPU, and any is compiled where the plan says so; its parameters keep their
    names. Where there is a running mean, it is not compiled: it is judged once an epoch.
    """
    on_gpu = plan.device.startswith("cuda")
    if isinstance(model, Classifier) and not on_gpu:
        px = model.pooled.px
        model = placed(trainable(model.train(), torch.zeros(2, 3, px, px)), plan.device)
    model = model.to(memory_format=ORDERS[plan.memory_format])  # type: ignore[call-overload]
    model = compiled(model) if plan.compile else model
    groups = parameter_groups(model.train(), settings)
    optimizer: torch.optim.Optimizer
    if settings.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, nesterov=True, fused=on_gpu or None)
    else:
        optimizer = torch.optim.AdamW(groups, lr=settings.lr, fused=on_gpu or None)
    give_moments(optimizer)
    average = copy.deepcopy(model) if settings.ema else model
    scaler = torch.amp.GradScaler("cuda" if on_gpu else "cpu", enabled=plan.precision == "fp16")
    return Progressing(model, average, optimizer, scaler)


def give_moments(optimizer: torch.optim.Optimizer) -> None:
    """Let the optimiser take the memory of its moments now, all of them 0, as it would in the first step.

    There they would come on top of what a forward pass takes, where too little memory can no longer be met with fewer tiles.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    for held in optimizer.state.values():
        for value in held.values():  # the count of steps among them
            value.zero_()


def step_seconds(
    model: nn.Module, settings: TrainSettings, plan: Plan, transform: Transform, repeats: int = 2, enough: float = math.inf
) -> float:
    """Return the least seconds of `repeats` training steps of a copy of `model` on noise, after one step of warm-up.

    Where steps have taken `enough` seconds together, no further one is taken.
    """
    px, transform = transform.px, copy.deepcopy(transform).to(plan.device)
    transform.memory_format = plan.memory_format
    state = new_state(copy.deepcopy(model).to(plan.device), settings, plan)
    noise = torch.Generator().manual_seed(0)
    tiles = torch.randint(0, 256, (settings.batch, px, px, 3), dtype=torch.uint8, generator=noise).to(plan.device)
    labels = (torch.arange(settings.batch) % 2).float().to(plan.device)
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        take_step(state, (tiles, labels), transform, settings, plan)
        if plan.device.startswith("cuda"):
            torch.cuda.synchronize(plan.device)
        times.append(time.perf_counter() - began)
        if sum(times) >= enough:
            break
    return min(times[1:] or times)


def flop_per_tile(model: nn.Module, px: int) -> int:
    """Return the multiplications and additions of one training step, forward and backward, for one tile of edge `px`."""
    with Grouped() as convolutions:  # type: ignore[no-untyped-call]
        forward = forward_flop(model, px)
    # torch's counter takes the backward pass of a grouped convolution for that of a full one; each pass back costs as one forward.
    return 3 * forward if convolutions.found else counted(model, px, backward=True)


class Grouped(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees whether a network computes convolutions in groups, its own modules' too."""

    found = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func` and look at the number of groups, a convolution's last argument."""
        self.found = self.found or (func is torch.ops.aten.convolution.default and args[8] > 1)
        return func(*args, **(kwargs or {}))


def forward_flop(model: nn.Module, px: int) -> int:
    """Return the multiplications and additions of one forward pass for one tile of edge `px`."""
    return counted(model, px, backward=False)


def counted(model: nn.Module, px: int, *, backward: bool) -> int:
    """Return the arithmetic of one tile, by torch's own counter."""
    from torch.utils.flop_counter import FlopCounterMode

    trial = copy.deepcopy(model).cpu().eval()
    with torch.set_grad_enabled(backward), FlopCounterMode(display=False) as counter:
        logits = trial(torch.zeros(2, 3, px, px))
        if backward:
            logits.sum().backward()
    return int(counter.get_total_flops()) // 2
