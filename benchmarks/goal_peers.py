"""The peers of the suite `goal`: usual trainings from image files, judged as they go. Imports nothing of ours but this folder.

Each starts from the same pretrained weights of tf_efficientnet_lite0 at the tiles' own 96 px, but for the small CNN, which starts from
nothing. The clock begins before the libraries are imported and stands still while the judge's tiles are scored.
"""

import argparse
import ctypes
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.peers import BATCH, LOADERS, import_torchvision, usual_cnn
from benchmarks.workers import serve

NETWORK, PX = "tf_efficientnet_lite0", 96
CHECKS = 4
"""Looks at the judge an epoch; one more just before the time is over."""


RECENT = 6
"""Steps that the next one's time is told by."""


class Judged:
    """The clock, and AUROC on the judge's tiles against it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.scores: Callable[[], tuple[Any, Any]] = lambda: ([], [])
        self.goal, self.limit, self.looks = options.goal, 60 * options.minutes, options.looks
        self.marks = sorted({60 * minutes for minutes in [*options.at, options.minutes]})
        self.curve: list[tuple[float, float]] = []
        self.start = time.perf_counter()
        self.stepped: list[float] = []

    @property
    def seconds(self) -> float:
        """Seconds so far, without those of looking."""
        return time.perf_counter() - self.start

    @property
    def over(self) -> bool:
        """Whether the goal is reached, or the time is over, or there were looks enough."""
        if not self.curve:
            return False
        return self.curve[-1][1] >= self.goal or self.seconds >= self.limit or len(self.curve) == self.looks

    def step(self, *, quarter: bool) -> None:
        """Look after a step where a quarter of an epoch ends, or where another step would end behind a mark."""
        self.stepped.append(self.seconds)
        lately = self.stepped[-RECENT:]
        # The median: a step may hold the start of the loaders, or a validation of the peer's own.
        step = statistics.median([b - a for a, b in pairwise(lately)]) if len(lately) > 1 else 0.0
        due = [mark for mark in self.marks if lately[-1] + step > mark]
        self.marks = self.marks[len(due) :]
        if quarter or due:
            self.look()

    def look(self) -> None:
        """Score the judge's tiles with the clock stopped."""
        from sklearn.metrics import roc_auc_score

        now = time.perf_counter()
        labels, scores = self.scores()
        self.curve.append((now - self.start, float(roc_auc_score(labels, scores))))
        self.start += time.perf_counter() - now
        print(f"  {self.curve[-1][0]:.0f} s: {self.curve[-1][1]:.4f}", flush=True)


def told(judged: Judged, n: int) -> dict[str, Any]:
    """Return what one training measured: seconds until the goal, or until it ended without it, and the curve."""
    reached = judged.curve[-1][1] >= judged.goal
    return {"seconds": judged.curve[-1][0], "n": n, "reached": reached, "curve": judged.curve}


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Judge in evaluation mode without gradients, and go back to the mode of training."""
    import torch

    modes = {module: module.training for module in model.modules()}
    model.eval()
    with torch.inference_mode():
        yield
    for module, mode in modes.items():
        module.training = mode


def fastai(options: argparse.Namespace) -> dict[str, Any]:
    """Train as fastai's documentation does: ImageDataLoaders, vision_learner, fine_tune (the head for one epoch, then all)."""
    judged = Judged(options)
    import_torchvision()
    from fastai.callback.core import Callback, CancelFitException
    from fastai.vision.all import ImageDataLoaders, aug_transforms, vision_learner

    views = aug_transforms(flip_vert=True, max_lighting=0.1, max_rotate=0.0, max_zoom=1.0, max_warp=0.0)
    # A look must not use fastai's own validation, whose tiles are a part of the training folder.
    loaders = ImageDataLoaders.from_folder(
        options.folders, valid_pct=0.1, seed=options.seed, bs=BATCH, num_workers=LOADERS, batch_tfms=views
    )
    learner = vision_learner(loaders, NETWORK, pretrained_cfg_overlay={"file": str(options.weights)})
    files = sorted(options.judge.rglob("*.*"))
    judge = loaders.test_dl(files, num_workers=LOADERS)

    def scores() -> tuple[Any, Any]:
        with evaluating(learner.model):
            logits = [learner.model(batch[0]) for batch in judge]
        return [int(file.parent.name) for file in files], [float(row[1] - row[0]) for part in logits for row in part]

    judged.scores = scores
    steps = len(loaders.train)

    class Looking(Callback):  # type: ignore[misc, unused-ignore]
        def before_fit(self) -> None:
            if judged.over:  # fine_tune fits twice
                raise CancelFitException

        def after_step(self) -> None:
            judged.step(quarter=(self.iter + 1) % max(steps // CHECKS, 1) == 0)
            if judged.over:
                raise CancelFitException

    learner.add_cb(Looking())
    with learner.no_bar(), learner.no_logging():
        if options.looks:  # its rate is asked for, not that of the head alone
            learner.unfreeze()
            learner.fit_one_cycle(1)
        else:
            learner.fine_tune(options.epochs)
    return told(judged, len(loaders.train_ds))


def plain(options: argparse.Namespace, network: str) -> dict[str, Any]:
    """Train in a plain loop: torchvision's folders in a DataLoader, AdamW, a cosine of the rate, all weights at once."""
    judged = Judged(options)
    import_torchvision()
    import timm
    import torch
    from timm.data import create_transform
    from torch.nn import functional
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    torch.manual_seed(options.seed)
    overlay = {"file": str(options.weights)}
    pretrained = timm.create_model(NETWORK, pretrained=True, num_classes=1, pretrained_cfg_overlay=overlay)
    facts = {name: pretrained.pretrained_cfg[name] for name in ("mean", "std", "interpolation")}
    model, rate = (pretrained, 1e-3) if network == "timm" else (usual_cnn(), 1e-3)
    layout = torch.channels_last if options.switches else torch.contiguous_format
    model = model.to(memory_format=layout).train()
    views = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "hflip": 0.5, "vflip": 0.5, "color_jitter": None}
    batches = DataLoader(
        ImageFolder(str(options.folders), create_transform(PX, is_training=True, **views, **facts)),
        batch_size=BATCH,
        shuffle=True,
        num_workers=LOADERS,
        persistent_workers=True,
    )
    still = DataLoader(ImageFolder(str(options.judge), create_transform(PX, crop_pct=1.0, **facts)), BATCH, num_workers=LOADERS)

    def scores() -> tuple[Any, Any]:
        with evaluating(model):
            logits = [model(x.to(memory_format=layout)).flatten() for x, _ in still]
        return still.dataset.targets, torch.cat(logits).tolist()  # type: ignore[attr-defined]

    judged.scores = scores
    optimizer, steps = torch.optim.AdamW(model.parameters(), lr=rate), options.epochs * len(batches)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(options.epochs):
        for index, (x, y) in enumerate(batches):
            with torch.autocast("cpu", torch.bfloat16, enabled=options.switches is not None):
                logits = model(x.to(memory_format=layout)).flatten()
            loss = functional.binary_cross_entropy_with_logits(logits.float(), y.float())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            judged.step(quarter=(index + 1) % max(len(batches) // CHECKS, 1) == 0)
            if judged.over:
                break
        if judged.over:
            break
    return told(judged, len(batches.dataset))  # type: ignore[arg-type]


PEERS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "fastai": fastai,
    "timm": partial(plain, network="timm"),
    "cnn": partial(plain, network="cnn"),
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("peer", choices=tuple(PEERS))
    options.add_argument("--folders", type=Path, required=True, help="class folders that train")
    options.add_argument("--judge", type=Path, required=True, help="class folders that judge")
    options.add_argument("--weights", type=Path, required=True, help="the pretrained weights' file")
    options.add_argument("--goal", type=float, required=True)
    options.add_argument("--minutes", type=float, required=True, help="give up after them")
    options.add_argument("--epochs", type=int, required=True)
    options.add_argument("--at", type=float, nargs="+", default=[], help="minutes at which it is judged as well, as at the end")
    options.add_argument("--looks", type=int, help="end after so many looks; fastai then trains all weights at once")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--switches", type=json.loads, metavar="MALLOPT", help="set every switch; the allocator's as JSON")
    chosen = options.parse_args()

    def work() -> dict[str, Any]:
        for name, value in (chosen.switches or {}).items():
            ctypes.CDLL(None).mallopt(int(name), value)
        return PEERS[chosen.peer](chosen)

    serve(work)


if __name__ == "__main__":
    main()
