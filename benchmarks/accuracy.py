"""What the baseline learns: simple-cnn on `kaggle/` + `pcam/train` (7,000 tiles), three seeds, nothing chosen by the judge.

`random`: a random 80/20 split of the 7,000, AUROC on the 20 % that chose the epoch, as the study reported it: optimistic twice
over. `judged`: the model of the same run, judged on `pcam/valid` (other slides), which chose nothing. Beside each stands the
floor: what colour alone reaches on the same tiles.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.records import Figure, Record, conditions
from benchmarks.suite import finish, parser
from sentinode.run import read_json

SEEDS = (0, 1, 2)
"""The first is the one quoted."""
KEPT_OF_RUN = ("settings", "data", "best_epoch", "stopped_by", "valid", "cost", "plan", "warnings")
"""What the record keeps of run.json."""
KEPT_OF_JUDGEMENT = ("figures", "floor", "protocol", "threshold", "n", "warnings")
"""What the record keeps of judgement.json."""


def one_seed(store: Path, judge: Path, folder: Path, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train, evaluate on the judge's tiles, return the figures of one seed."""
    import sentinode

    shorter = {"epochs": 1} if options.quick else {name: value for name, value in (("epochs", options.epochs),) if value}
    start = time.perf_counter()
    run = folder / f"run{seed}"
    sentinode.train(store, out=run, seed=seed, split="random", valid_share=0.2, quiet=True, **shorter)
    seconds = time.perf_counter() - start
    sentinode.evaluate(run, judge, out=folder / f"judged{seed}", quiet=True)
    record, judged = read_json(run / "run.json"), read_json(folder / f"judged{seed}" / "judgement.json")
    return {
        "seed": seed,
        "n": record["data"]["train"]["n"],
        "seconds": seconds,
        "random_auroc": record["valid"]["auroc"],
        "random_floor": floor_on_valid(run, store),
        "judged_auroc": judged["figures"]["auroc"]["estimate"],
        "judged_floor": judged["floor"]["auroc"]["estimate"],
        "run": {name: record[name] for name in KEPT_OF_RUN},
        "judgement": {name: judged[name] for name in KEPT_OF_JUDGEMENT},
    }


def floor_on_valid(run: Path, store: Path) -> float:
    """Return the AUROC of colour alone on the tiles that chose the epoch, fitted on those that trained."""
    from sklearn.metrics import roc_auc_score

    from sentinode.fit.probe import colour_histogram, load_floor
    from sentinode.tiles.store import open_store

    opened, chose = open_store(store), pd.read_parquet(run / "valid.parquet", columns=["id", "label"])
    where = pd.Series(np.arange(len(opened)), index=opened.rows["id"].astype(str))
    rows = where.loc[chose["id"].astype(str)].to_numpy()
    floor = load_floor(run / "floor.npz").probability(colour_histogram(opened.tiles, rows))
    return float(roc_auc_score(chose["label"], floor))


def summary(values: list[float], bar: float) -> Figure:
    """Return the quoted seed's figure with the spread of all seeds."""
    text = f"{values[0]:.4f} (seeds {min(values):.4f} to {max(values):.4f}, mean {statistics.mean(values):.4f})"
    return Figure(values[0], text, "AUROC", bar)


def measure(options: argparse.Namespace) -> Record:
    """Pack, train every seed, judge every run."""
    import sentinode

    seeds = SEEDS[:1] if options.quick else SEEDS
    started = conditions(seeds=list(seeds), network="simple-cnn", split="random 80/20", epochs=options.epochs)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store, judge = folder / "train.store", folder / "valid.store"
        sentinode.pack(options.tiles / "kaggle", options.tiles / "pcam/train", out=store, quiet=True)
        sentinode.pack(options.tiles / "pcam/valid", out=judge, quiet=True)
        raw = []
        for seed in seeds:
            raw.append(one_seed(store, judge, folder, seed, options))
            print(f"  seed {seed}: {raw[-1]['random_auroc']:.4f} random, {raw[-1]['judged_auroc']:.4f} judged", flush=True)
        digests = {part.stem: read_json(part / "store.json").get("digest") for part in (store, judge)}
    minutes = statistics.median(m["seconds"] for m in raw) / 60
    return Record(
        suite="accuracy",
        clock="training, from the packed store to the finished run",
        variants={},
        raw={"seeds": raw},
        figures={
            "random": summary([m["random_auroc"] for m in raw], 0.955),
            "judged": summary([m["judged_auroc"] for m in raw], 0.930),
            "random_floor": Figure(raw[0]["random_floor"], f"{raw[0]['random_floor']:.3f}", "AUROC"),
            "judged_floor": Figure(raw[0]["judged_floor"], f"{raw[0]['judged_floor']:.3f}", "AUROC"),
            "minutes": Figure(minutes, f"{minutes:.1f} minutes"),
        },
        conditions=started | {"digests": digests},
        notes=[
            "The random split's tiles chose the epoch, and neighbours of a tile may be on both sides: an optimistic figure.",
            "pcam/valid shares no slide with the training tiles and chose nothing.",
        ],
    )


def main() -> None:
    options = parser(__doc__ or "", repeats=1)
    options.add_argument("--epochs", type=int, help="epochs; default: those of `sentinode train`")
    chosen = options.parse_args()
    finish(measure(chosen), chosen)


if __name__ == "__main__":
    main()
