"""The forms in which one network can be applied, all with the same values: as it is, batch norm folded, frozen, OpenVINO.

Each is a plain function of tensors. Which is the fastest depends on processor and network: `nets/engine.py` measures.
"""

import copy
import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode

from sentinode.nets.forward import Call, arithmetic, placed
from sentinode.nets.openvino import converted, filled, runner


def forms(module: nn.Module, example: Tensor) -> dict[str, Callable[[], Call]]:
    """Return, by name ("eager fp32"), what makes each form of `module`; the first is the one that all others must agree with.

    Parameters
    ----------
    module
        In evaluation mode, on the device of `example`.
    example
        Network input [b, 3, p, p]. Forms for a CPU may be made for batches of b; they take fewer all the same.
    """
    if example.is_cuda:
        return {f"eager {precision}": functools.partial(eager, module, precision) for precision in ("fp32", "bf16", "fp16")}
    once_folded = functools.cache(lambda: folded(module, example))
    once_converted = functools.cache(lambda: converted(module, example))
    return {
        "eager fp32": lambda: eager(module, "fp32"),
        "eager bf16": lambda: eager(module, "bf16"),
        # Those that win most often come first: few tiles are not worth trying them all.
        "openvino bf16": lambda: runner(once_converted(), len(example), "bf16"),
        "openvino fp32": lambda: runner(once_converted(), len(example), "f32"),
        "folded fp32": lambda: eager(once_folded(), "fp32"),
        "folded bf16": lambda: halved(once_folded()),
        "frozen fp32": lambda: frozen(once_folded(), example),
    }


def eager(module: nn.Module, precision: str) -> Call:
    """Return `module` itself."""

    @torch.inference_mode()
    def call(x: Tensor) -> Tensor:
        with arithmetic(x.device, precision):
            return module(x).float()  # type: ignore[no-any-return]

    return call


def halved(module: nn.Module) -> Call:
    """Return `module` with weights and maps in bf16 throughout: autocast would convert the weights again for each batch.

    Autocast is on all the same, for a head that is handed features in fp32.
    """
    model = copy.deepcopy(module).to(torch.bfloat16)

    @torch.inference_mode()
    def call(x: Tensor) -> Tensor:
        with arithmetic(x.device, "bf16"):
            return model(x.to(torch.bfloat16)).float()  # type: ignore[no-any-return]

    return call


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees what a network computes: which batch norm is the only one to take what a convolution gives.

    Networks that no tracer follows are seen too, and kinds of convolution that pad for themselves.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kept: list[Any] = []  # as long as they live, no other tensor has their id
        self.weight_of: dict[int, int] = {}
        self.uses: dict[int, list[int]] = {}
        self.calls: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func` and note what it took and gave."""
        result = func(*args, **(kwargs or {}))
        taken = [a for a in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
        normalises = "batch_norm" in func.__name__
        for tensor in taken:
            if id(tensor) in self.weight_of:
                # The running mean says which batch norm it is; any other use says that the pair cannot be folded.
                self.uses[id(tensor)].append(id(args[3]) if normalises else 0)
        if func.__name__.startswith("convolution"):
            self.kept.append(result)
            self.weight_of[id(result)], self.uses[id(result)] = id(args[1]), []
            self.calls[id(args[1])] = self.calls.get(id(args[1]), 0) + 1
        elif normalises:
            self.calls[id(args[3])] = self.calls.get(id(args[3]), 0) + 1
        return result

    def pairs(self) -> list[tuple[int, int]]:
        """Return (id of a convolution's weight, id of a running mean) of those that were called once and belong together."""
        found = [(self.weight_of[output], uses[0]) for output, uses in self.uses.items() if len(uses) == 1 and uses[0]]
        return [(w, m) for w, m in found if self.calls[w] == 1 and self.calls.get(m) == 1]


def folded(module: nn.Module, example: Tensor) -> nn.Module:
    """Return a copy of `module` whose batch norms stand in the weights of the convolutions before them, where they can.

    Source: y = s (w * x + b - mean) + shift with s = scale / sqrt(var + eps) is a convolution with weights s w.
    """
    model = copy.deepcopy(module)
    with torch.no_grad(), Watch() as watch:
        model(example[:2])
    convolutions = {id(m.weight): m for m in model.modules() if isinstance(m, nn.Conv2d)}
    norms = {id(m.running_mean): (name, m) for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    for weight, mean in watch.pairs():
        if weight not in convolutions or mean not in norms:
            continue
        conv, (name, norm) = convolutions[weight], norms[mean]
        after = what_follows(norm)
        if after is None or norm.running_mean is None or norm.running_var is None:
            continue
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, after)
    return placed(model, example.device)


def what_follows(norm: nn.BatchNorm2d) -> nn.Module | None:
    """Return what a batch norm does after normalising (timm's may hold dropout and activation); None for one we do not know."""
    if type(norm) is nn.BatchNorm2d:
        return nn.Identity()
    if type(norm).__name__ == "BatchNormAct2d" and isinstance(norm.drop, nn.Module) and isinstance(norm.act, nn.Module):
        return nn.Sequential(norm.drop, norm.act)
    return None


def frozen(module: nn.Module, example: Tensor) -> Call:
    """Return `module` traced, with weights packed for the processor and activations fused into convolutions."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(module, example, check_trace=False).eval()))  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def call(x: Tensor) -> Tensor:
        # Another batch size would be compiled anew: a smaller one is filled up.
        return traced(filled(x, len(example)))[: len(x)].float()  # type: ignore[no-any-return]

    return call
