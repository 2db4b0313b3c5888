"""The peers: how the same work is usually done, with the libraries that people use for it, as their tutorials do it."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.clock import Measured

BATCH = 64
"""Tiles a step."""
LOADERS = 2
"""Loader processes of the peer's DataLoader."""
MEAN, STD = (0.70, 0.54, 0.70), (0.24, 0.28, 0.21)
"""Colours that the peers normalise by: about those of PatchCamelyon."""


def pillow_pack(folder: Path, out: Path, threads: int = 1) -> int:
    """Read every training TIFF of a Kaggle folder with Pillow, one after another, save them as one array; return how many."""

    def read(path: Path) -> Any:
        with Image.open(path) as image:
            return np.asarray(image)

    paths = sorted((folder / "train").glob("*.tif"))
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            tiles = list(pool.map(read, paths))
    else:
        tiles = [read(path) for path in paths]
    np.save(out, np.stack(tiles))
    return len(tiles)


def class_folders(kaggle: Path, out: Path, limit: int | None = None) -> Path:
    """Lay the Kaggle training files out as class folders, which torchvision's and Keras's readers take; links, not copies."""
    lines = (kaggle / "train_labels.csv").read_text(encoding="utf-8").split()[1:]
    for line in sorted(lines)[:limit]:
        name, label = line.split(",")
        (out / label).mkdir(parents=True, exist_ok=True)
        source = kaggle / "train" / f"{name}.tif"
        try:
            (out / label / source.name).symlink_to(source.resolve())
        except OSError:
            (out / label / source.name).write_bytes(source.read_bytes())
    return out


def import_torchvision() -> Any:
    """Import torchvision; where the registry's build finds no CUDA to load its operators for, their signatures are enough."""
    import torch

    try:
        import torchvision  # type: ignore[import-untyped]
    except RuntimeError:
        # Loaders and transforms use neither operator. The library object must live as long as the definitions.
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
        globals()["_TORCHVISION_OPERATORS"] = library
        import torchvision
    return torchvision


def loader(folders: Path, workers: int = LOADERS) -> Any:
    """Return torchvision's dataset of class folders in a DataLoader: shuffled, random flips, scaled to 0..1, normalised."""
    torchvision = import_torchvision()
    from torch.utils.data import DataLoader
    from torchvision import transforms

    transform = transforms.Compose(
        [
            transforms.RandomHorizontalFlip(),
            transforms.RandomVerticalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    dataset = torchvision.datasets.ImageFolder(str(folders), transform)
    return DataLoader(dataset, batch_size=BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)


def feeding(folders: Path) -> Callable[[], Measured]:
    """Return a function that runs once through the DataLoader and does nothing with the batches; its processes already run."""
    batches = loader(folders)

    def work() -> Measured:
        start, n, total = time.perf_counter(), 0, 0.0
        for x, _ in batches:
            n += len(x)
            total += float(x[0, 0, 0, 0])
        return {"seconds": time.perf_counter() - start, "n": n, "touched": total}

    work()
    return work


def usual_cnn() -> Any:
    """Return the baseline network written as tutorials write it: convolution, batch norm, ReLU, then pooling."""
    from torch import nn
    from torch.nn import functional

    from sentinode.nets.simple_cnn import Block, SimpleCNN

    class UsualBlock(Block):
        def forward(self, x: Any) -> Any:
            return functional.max_pool2d(functional.relu(self.norm(self.conv(x))), 2)

    model = SimpleCNN()
    for block in model.blocks:
        block.__class__ = UsualBlock
    if not isinstance(model, nn.Module):
        raise TypeError("a network")
    return model


def training(folders: Path, *, usual_order: bool, steps: int | None = None, switches: bool = False) -> Callable[[], Measured]:
    """Return a function that trains one epoch in a plain loop: DataLoader, NCHW, fp32, batch 64, Adam, cross-entropy.

    `usual_order`: pooling after the activation, as tutorials do; otherwise our own module, whose order is cheaper.
    `switches`: channels-last and bf16 autocast.
    """
    import torch
    from torch.nn import functional

    from sentinode.nets.simple_cnn import SimpleCNN

    torch.manual_seed(0)
    layout = torch.channels_last if switches else torch.contiguous_format
    model = (usual_cnn() if usual_order else SimpleCNN()).to(memory_format=layout)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batches = loader(folders)
    model.train()

    def step(x: Any, y: Any) -> float:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=switches):
            logits = model(x.to(memory_format=layout))
        loss = functional.binary_cross_entropy_with_logits(logits.float(), y.float())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(loss.item())

    def work() -> Measured:
        start, n, total = time.perf_counter(), 0, 0.0
        for index, (x, y) in enumerate(batches):
            if steps is not None and index >= steps:
                break
            total += step(x, y) * len(y)
            n += len(x)
        return {"seconds": time.perf_counter() - start, "n": n, "loss": total / n}

    for x, y in batches:
        step(x, y)
        break
    return work
