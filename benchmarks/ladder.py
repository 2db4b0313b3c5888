"""The ladder on real tiles: what each rung reaches, what it costs, and what the study's scaling mistake costs.

Rungs learn from nine tenths of the training tiles; the tenth that is left chooses. A frozen backbone is trained once more on a
random 80/20 split, on the same features, since that is the split on which the study and its bar are stated.

Inside the clock is each rung's training, from the packed store to the finished run, as `sentinode ladder` tells it.

A ladder that is there already is read, not climbed; the conditions are then those that it noted when each rung was trained.
"""

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.records import Figure, Record, conditions
from benchmarks.suite import clock_of, finish, parser
from sentinode.errors import DataProblem, shown
from sentinode.run import read_json

BARS = {"frozen": 0.910, "finetune": 0.955, "p4m-cnn": 0.940, "ensemble": 0.965}
"""AUROC on pcam/valid that each rung was to reach."""
BUSY = 1.5
"""Load average a core, at the start of a rung, that the ladder's own work before it does not explain."""
KEPT_OF_RUN = ("settings", "best_epoch", "stopped_by", "valid", "cost", "plan", "weights", "preprocessing", "versions")
"""What the record keeps of each rung's run.json."""


VALID_SHARE = 0.1
"""Share of the training tiles that chooses: enough to pick an epoch and members, and every tenth more that trains is felt."""
STUDY_SHARE = 0.2
"""The study's."""


def measure(options: argparse.Namespace) -> Record:
    """Pack, climb (or go on with the ladder in `--ladder`), and read what was found."""
    import sentinode

    started = conditions(seed=0, split=f"random, {VALID_SHARE:.0%} chooses", quick=options.quick)
    home: Path = options.ladder
    climbed_before = (home / "ladder.json").exists()
    stores = {"train": home.with_name(home.name + "-train.store"), "judge": home.with_name(home.name + "-judge.store")}
    sentinode.pack(options.tiles / "kaggle", options.tiles / "pcam/train", out=stores["train"], resume=True, quiet=True)
    sentinode.pack(options.tiles / "pcam/valid", out=stores["judge"], resume=True, quiet=True)
    shorter: dict[str, Any] = {"epochs": 1, "resamples": 200} if options.quick else {}
    shorter |= {"members": options.members} if options.members else {}
    climbed = sentinode.ladder(
        stores["train"], out=home, test=stores["judge"], valid_share=VALID_SHARE, resume=home.exists(), **shorter
    )
    print("\n".join(climbed.lines()), flush=True)
    values = climbed.as_dict()
    rungs = {row["name"]: row for row in values["rungs"]}
    runs = {path.parent.name: read_json(path) for path in sorted(home.glob("rungs/*/run.json"))}
    study = sentinode.train(
        stores["train"],
        out=home.with_name(home.name + "-frozen"),
        backbone="frozen",
        split="random",
        valid_share=STUDY_SHARE,
        resume=home.with_name(home.name + "-frozen").exists(),
        quiet=True,
    )
    noted = {name: attempts for name, attempts in values.get("conditions", {}).items() if attempts}
    if climbed_before and not noted:
        raise DataProblem(
            "a ladder that noted under which conditions its rungs were trained",
            f"none in {shown(home)}",
            "name a new folder in --ladder, so that it is climbed here",
        )
    return Record(
        suite="ladder",
        clock=clock_of(__doc__ or ""),
        variants={},
        raw={
            "rungs": values["rungs"],
            "study": values["study"],
            "mistakes": [values["mistakes"]],
            "ensemble": [values["ensemble"]],
            "runs": [{"rung": name} | {key: run[key] for key in KEPT_OF_RUN} for name, run in runs.items()],
        },
        figures=figures_of(rungs, runs, values) | {"frozen_80_20": interval(on_own_valid(study), 0.925)},
        conditions=conditions_of(started, noted)
        | {"ladder": {name: values[name] for name in ("stores", "weights", "machine", "versions", "command")}},
        notes=[
            f"valid is a random {VALID_SHARE:.0%} of the 7,000 training tiles and chose epochs and strengths: optimistic. "
            "test is pcam/valid: other slides, which chose nothing.",
            values["mistakes"]["answer"],
            *values["ensemble"]["notes"],
            *notes_of(noted, list(runs)),
            *options.note,
        ],
    )


def conditions_of(now: dict[str, Any], noted: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return the conditions of the first attempt at any rung, with those of all attempts, and when and by what code this was read."""
    attempts = [one for several in noted.values() for one in several]
    if not attempts:
        return now
    first = min(attempts, key=lambda one: str(one["started"]))
    return now | {
        **{name: first[name] for name in ("started", "machine", "threads", "load_average")},
        "versions": now["versions"] | first["versions"],
        "git": {"sha": first["commit"], "dirty": any(one["changed"] for one in attempts)},
        "rungs": noted,
        "read": {name: now[name] for name in ("started", "load_average", "git")},
    }


def notes_of(noted: dict[str, list[dict[str, Any]]], runs: list[str]) -> list[str]:
    """Say of which rungs nothing was noted, which were trained beside other work, and that commits differ where they do."""
    said = []
    unknown = [name for name in runs if name not in noted]
    if unknown:
        said.append(f"Not trained by the ladder itself, so under conditions that nobody noted: {', '.join(unknown)}.")
    busy = [
        f"{name} ({one['load_average'][0]:.1f} on {one['machine']['cores']} cores)"
        for name, attempts in noted.items()
        for one in attempts
        if one["load_average"] and one["load_average"][0] > BUSY * one["machine"]["cores"]
    ]
    if busy:
        said.append(f"POOR CONDITIONS: other work ran when these began, by the load average: {', '.join(busy)}.")
    commits = sorted({one["commit"][:12] or "unknown" for attempts in noted.values() for one in attempts})
    if len(commits) > 1:
        said.append(f"The rungs were trained from several commits: {', '.join(commits)}.")
    return said


def figures_of(rungs: dict[str, Any], runs: dict[str, Any], values: dict[str, Any]) -> dict[str, Figure]:
    """Return each rung's AUROC, minutes and difference, the CPU minutes of fine-tuning, and the AUROCs of the mistake."""
    figures = {}
    for name, row in rungs.items():
        for part, key in (("test", name), ("valid", f"{name}_random")):
            figures[key] = interval(row[part], BARS.get(name) if part == "test" else None)
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
        share,
        f"{rungs['p4m-cnn']['weights']:,} weights, {share:.3f} of simple-cnn's",
        "of simple-cnn's",
        0.1,
        higher_is_better=False,
    )
    figures |= figures_of_ensemble(values["ensemble"], runs)
    for row in values["mistakes"]["rows"]:
        for head in ("dense", "logistic"):
            one = row[head]["test"]
            figures[f"mistake_{row['name']}_{head}"] = Figure(one["estimate"], f"{one['estimate']:.4f}", "AUROC")
    return figures


def figures_of_ensemble(told: dict[str, Any], runs: dict[str, Any]) -> dict[str, Figure]:
    """Return who was picked, each candidate over the views that the ensemble uses, and what views do alone."""
    figures = {}
    picked = [row["title"] for row in told["candidates"] if row["picked"]]
    figures["ensemble_members"] = Figure(len(picked), ", ".join(picked), "members")
    for row in told["candidates"]:
        figures[f"{row['name']}_views"] = interval(row["test"], None)
        if row["name"] not in BARS and "cpu_minutes" in runs[row["name"]]["cost"]:
            spent = runs[row["name"]]["cost"]["cpu_minutes"]
            figures[f"{row['name']}_cpu_minutes"] = Figure(spent, f"{spent:.0f} CPU minutes", "minutes")
    one = told["views_alone"]
    text = f"{one['estimate']:+.4f} ({one['low']:+.4f} to {one['high']:+.4f})"
    figures["views_alone_difference"] = Figure(one["estimate"], text, "AUROC")
    return figures


def on_own_valid(run: Any) -> dict[str, Any]:
    """Return the AUROC of a run, with its interval, on the tiles that chose its strength."""
    from sentinode.judge.compare import auroc_figure
    from sentinode.judge.statement import slides_of

    scores = pd.read_parquet(run.path / "valid.parquet")
    labels, logits, groups = (scores[name].to_numpy() for name in ("label", "logit", "group"))
    return auroc_figure(labels, logits, slides_of(groups)).as_dict()


def interval(found: dict[str, Any], bar: float | None) -> Figure:
    """Return an AUROC with its interval as a figure."""
    return Figure(found["estimate"], f"{found['estimate']:.4f} ({found['low']:.4f} to {found['high']:.4f})", "AUROC", bar)


def main() -> None:
    options = parser(__doc__ or "", repeats=1)
    options.add_argument(
        "--ladder", type=Path, required=True, metavar="OUT", help="folder of the ladder; an unfinished one is gone on with"
    )
    options.add_argument(
        "--members", default="", help="networks fine-tuned for the ensemble alone, as sentinode ladder takes them"
    )
    options.add_argument("--note", action="append", default=[], help="a sentence for the record's page")
    chosen = options.parse_args()
    finish(measure(chosen), chosen)


if __name__ == "__main__":
    main()
