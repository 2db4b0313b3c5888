"""TIAToolbox's PatchPredictor over a folder of image files. A child in an environment of its own.

It imports nothing of ours but this folder. The network is its own CNNModel("resnet18") with random weights, its preprocessing that of
its networks for PCam.
"""

import argparse
import ctypes
import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.peers import import_torchvision
from benchmarks.workers import serve

BATCH, WORKERS = 64, 2
"""With every switch set; its defaults are 8 and 0."""
WARM = 64
"""Tiles before the first turn."""


def predictor(switches: dict[str, int] | None) -> Any:
    """Return the engine, on the CPU: with its defaults, or with a larger batch, loader processes and these settings of `mallopt`."""
    import_torchvision()
    for name, value in (switches or {}).items():
        ctypes.CDLL(None).mallopt(int(name), value)
    from tiatoolbox.models.architecture.vanilla import CNNModel
    from tiatoolbox.models.dataset.classification import predefined_preproc_func
    from tiatoolbox.models.engine.patch_predictor import PatchPredictor

    model = CNNModel("resnet18", num_classes=2)
    model.preproc_func = predefined_preproc_func("pcam")
    more = {"batch_size": BATCH, "num_workers": WORKERS} if switches else {}
    return PatchPredictor(model=model, device="cpu", verbose=False, **more)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--folder", type=Path, required=True)
    options.add_argument("--switches", type=json.loads, metavar="MALLOPT", help="set every switch; the allocator's as JSON")
    chosen = options.parse_args()
    engine = predictor(chosen.switches)
    from tiatoolbox.models.engine.io_config import IOPatchPredictorConfig

    config = IOPatchPredictorConfig(
        patch_input_shape=[96, 96], stride_shape=[96, 96], input_resolutions=[{"units": "mpp", "resolution": 0.97}]
    )
    files = sorted(chosen.folder.glob("*/*"))

    def work(files: list[Path] = files) -> dict[str, Any]:
        start = time.perf_counter()
        output = engine.run(images=files, patch_mode=True, ioconfig=config, return_probabilities=True)
        return {"seconds": time.perf_counter() - start, "n": len(output["probabilities"])}

    work(files[:WARM])
    serve(work, **{name: version(name) for name in ("tiatoolbox", "torch", "torchvision", "timm")})


if __name__ == "__main__":
    main()
