"""What no plain use of torch can beat: a network's convolutions alone, and with its pooling, forward and backward.

Inside the clock is each layer's kernel, one after the other, on tensors that are in memory in the best layout (channels-last, 32
tiles); no normalisation, activation, head, loss, optimiser, augmentation or feeding. The whole of training must be slower, so these are
bounds on its tiles a second, and on its share of the convolution peak measured beside them: of the simple CNN with torch's own pooling,
of ResNet18 without any.
"""

import time
from collections.abc import Callable

from benchmarks.clock import Measured, in_turn, spread
from benchmarks.records import Record, conditions, figure
from benchmarks.suite import clock_of, finish, parser, turns
from sentinode.machine.memory import set_allocator
from sentinode.machine.probe import convolution_peak

Layer = tuple[int, int, int, int, int]
"""Channels in and out, edge of the maps that come in, edge of the kernel, stride."""
CNN: tuple[Layer, ...] = ((3, 32, 96, 3, 1), (32, 64, 48, 3, 1), (64, 128, 24, 3, 1))
"""The convolutions of simple-cnn at 96x96; each is pooled by two."""
RESNET18: tuple[Layer, ...] = (
    (3, 64, 96, 7, 2),
    *4 * [(64, 64, 24, 3, 1)],
    *((64, 128, 24, 3, 2), (64, 128, 24, 1, 2), *3 * [(128, 128, 12, 3, 1)]),
    *((128, 256, 12, 3, 2), (128, 256, 12, 1, 2), *3 * [(256, 256, 6, 3, 1)]),
    *((256, 512, 6, 3, 2), (256, 512, 6, 1, 2), *3 * [(512, 512, 3, 3, 1)]),
)
"""Those of ResNet18 at 96x96."""
TILES = 32
"""Tiles a call: the plan's micro-batch."""
VARIANTS = {
    "convolutions_bf16": "convolutions alone, bf16",
    "with_pooling_bf16": "convolutions and torch's maximum pooling, bf16",
    "convolutions_fp32": "convolutions alone, fp32",
    "with_pooling_fp32": "convolutions and torch's maximum pooling, fp32",
    "resnet18_bf16": "ResNet18's convolutions alone, bf16",
    "resnet18_fp32": "ResNet18's convolutions alone, fp32",
}


def kernels(network: tuple[Layer, ...], precision: str, *, pooling: bool, calls: int) -> Callable[[], Measured]:
    """Return a function that times `calls` rounds of the kernels of one precision."""
    import torch
    from torch.nn import functional

    kind = {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    layers = []
    for c_in, c_out, px, edge, stride in network:
        x = torch.randn(TILES, c_in, px, px, dtype=kind).contiguous(memory_format=torch.channels_last)
        w = torch.randn(c_out, c_in, edge, edge, dtype=kind).contiguous(memory_format=torch.channels_last)
        layers.append((x.requires_grad_(c_in > 3), w.requires_grad_(), stride))

    def once() -> None:
        for x, w, stride in layers:
            y = functional.conv2d(x, w, padding=w.shape[-1] // 2, stride=stride)
            y = functional.max_pool2d(y, 2) if pooling else y
            y.backward(torch.ones_like(y))  # type: ignore[no-untyped-call]
            x.grad = w.grad = None

    def timed() -> Measured:
        once()
        start = time.perf_counter()
        for _ in range(calls):
            once()
        seconds = time.perf_counter() - start
        flop = sum((2 if a == 3 else 3) * 2 * k * k * a * b * (px // s) ** 2 for a, b, px, k, s in network)
        rate = calls * TILES / seconds
        return {"seconds": seconds, "n": calls * TILES, "share_of_peak": rate * flop / convolution_peak("cpu", precision)}

    return timed


def main() -> None:
    options = parser(__doc__ or "", repeats=7, tiles=False).parse_args()
    set_allocator()
    started = conditions(repeats=options.repeats, tiles_a_call=TILES)
    calls = 3 if options.quick else 20
    variants = {}
    for name in VARIANTS:
        what, precision = name.rsplit("_", 1)
        network = RESNET18 if what == "resnet18" else CNN
        variants[name] = kernels(network, precision, pooling=what == "with_pooling", calls=calls)
    raw = in_turn(variants, turns(options))
    figures = {name: figure(spread([m["n"] / m["seconds"] for m in raw[name]]), " tiles/s", digits=0) for name in VARIANTS} | {
        f"share_{name}": figure(spread([100 * m["share_of_peak"] for m in raw[name]]), " %") for name in VARIANTS
    }
    notes = ["The first layer needs no gradient of its input: twice its forward work instead of three times."]
    finish(Record("bound", clock_of(__doc__ or ""), VARIANTS, raw, figures, started, notes), options)


if __name__ == "__main__":
    main()
