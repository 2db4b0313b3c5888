"""The ladder on real tiles: what each rung reaches, what it costs, and what the study's scaling mistake costs.

Inside the clock is each rung's training, from the packed store to the finished run, as `sentinode ladder` tells it.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.records import Figure, Record, conditions
from benchmarks.suite import clock_of, finish, parser
from sentinode.run import read_json

BARS = {"frozen": 0.910, "finetune": 0.955, "p4m-cnn": 0.940, "ensemble": 0.965}
"""AUROC on pcam/valid that each rung was to reach."""
KEPT_OF_RUN = ("settings", "best_epoch", "stopped_by", "valid", "cost", "plan", "weights", "preprocessing", "versions")
"""What the record keeps of each rung's run.json."""


def measure(options: argparse.Namespace) -> Record:
    """Pack, climb (or go on with the ladder in `--ladder`), and read what was found."""
    import sentinode

    started = conditions(seed=0, split="random 80/20", quick=options.quick)
    home: Path = options.ladder
    stores = {"train": home.with_name(home.name + "-train.store"), "judge": home.with_name(home.name + "-judge.store")}
    sentinode.pack(options.tiles / "kaggle", options.tiles / "pcam/train", out=stores["train"], resume=True, quiet=True)
    sentinode.pack(options.tiles / "pcam/valid", out=stores["judge"], resume=True, quiet=True)
    shorter: dict[str, Any] = {"epochs": 1, "resamples": 200} if options.quick else {}
    climbed = sentinode.ladder(stores["train"], out=home, test=stores["judge"], resume=home.exists(), **shorter)
    print("\n".join(climbed.lines()), flush=True)
    values = climbed.as_dict()
    rungs = {row["name"]: row for row in values["rungs"]}
    runs = {path.parent.name: read_json(path) for path in sorted(home.glob("rungs/*/run.json"))}
    return Record(
        suite="ladder",
        clock=clock_of(__doc__ or ""),
        variants={},
        raw={
            "rungs": values["rungs"],
            "study": values["study"],
            "mistakes": [values["mistakes"]],
            "runs": [{"rung": name} | {key: run[key] for key in KEPT_OF_RUN} for name, run in runs.items()],
        },
        figures=figures_of(rungs, runs, values),
        conditions=started | {"ladder": {name: values[name] for name in ("stores", "weights", "machine", "versions", "command")}},
        notes=[
            "valid is a random 20 % of the 7,000 training tiles and chose epochs and strengths: optimistic. "
            "test is pcam/valid: other slides, which chose nothing.",
            values["mistakes"]["answer"],
            *options.note,
        ],
    )


def figures_of(rungs: dict[str, Any], runs: dict[str, Any], values: dict[str, Any]) -> dict[str, Figure]:
    """Return each rung's AUROC, minutes and difference, the CPU minutes of fine-tuning, and the AUROCs of the mistake."""
    figures = {}
    for name, row in rungs.items():
        for part, key in (("test", name), ("valid", f"{name}_random")):
            bar = BARS.get(name) if part == "test" else 0.925 if name == "frozen" else None
            figures[key] = interval(row[part], bar)
        minutes = row["minutes"]
        figures[f"{name}_minutes"] = Figure(minutes, f"{minutes:.1f}" if minutes >= 1 else f"{minutes:.2f}", "minutes")
        figures[f"{name}_megabytes"] = Figure(row["megabytes"], f"{row['megabytes']:.1f}", "MB")
        figures[f"{name}_rate"] = Figure(row["predict_tiles_per_s"], f"{row['predict_tiles_per_s']:,.0f}", "tiles/s")
        if "difference" in row:
            one = row["difference"]
            text = f"{one['estimate']:+.4f} ({one['low']:+.4f} to {one['high']:+.4f})"
            figures[f"{name}_difference"] = Figure(one["estimate"], text, "AUROC")
            figures[f"{name}_verdict"] = Figure(one["estimate"], row["verdict"])
    spent = runs["finetune"]["cost"]["cpu_minutes"]
    figures["finetune_cpu_minutes"] = Figure(spent, f"{spent:.0f} CPU minutes", "minutes", 60, higher_is_better=False)
    share = rungs["p4m-cnn"]["weights"] / rungs["simple-cnn"]["weights"]
    figures["p4m-cnn_weights"] = Figure(
        share, f"{rungs['p4m-cnn']['weights']:,} weights", "of simple-cnn's", 0.1, higher_is_better=False
    )
    for row in values["mistakes"]["rows"]:
        for head in ("dense", "logistic"):
            one = row[head]["test"]
            figures[f"mistake_{row['name']}_{head}"] = Figure(one["estimate"], f"{one['estimate']:.4f}", "AUROC")
    return figures


def interval(found: dict[str, Any], bar: float | None) -> Figure:
    """Return an AUROC with its interval as a figure."""
    return Figure(found["estimate"], f"{found['estimate']:.4f} ({found['low']:.4f} to {found['high']:.4f})", "AUROC", bar)


def main() -> None:
    options = parser(__doc__ or "", repeats=1)
    options.add_argument(
        "--ladder", type=Path, required=True, metavar="OUT", help="folder of the ladder; an unfinished one is gone on with"
    )
    options.add_argument("--note", action="append", default=[], help="a sentence for the record's page")
    chosen = options.parse_args()
    finish(measure(chosen), chosen)


if __name__ == "__main__":
    main()
