"""Learning curves on real tiles: AUROC on other slides against the number of training tiles, and what an ensemble of seeds adds.

Inside the clock is each training, from the packed store to the finished run. Networks and settings are those of the ladder's rungs:
nine tenths of the 7,000 tiles may train, the same tenth chooses at every size, pcam/valid judges and chooses nothing. A size is a
stratified share of the tiles that may train, and each lies inside the next larger one.

The line through the sizes, AUROC against the logarithm of the tiles, says how many tiles a bar takes. It is generous: with few tiles
a training of equal epochs takes few steps, so that the line is steeper than a converged one.

What is in --out already is gone on with, not trained again. With --from-ladder the point of all tiles is that of the newest record of
the suite `ladder`, whose runs have the same settings and split; it may come from another machine.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.records import Figure, Record, conditions, latest
from benchmarks.suite import clock_of, finish, parser
from sentinode.run import read_json, write_json

NETWORKS: dict[str, dict[str, Any]] = {
    "simple-cnn": {"model": "simple-cnn"},
    "p4m-cnn": {"model": "p4m-cnn"},
    "finetune": {"backbone": "finetune"},
}
"""Settings of `train`, otherwise the defaults."""
SHARES, SEEDS = ("25%", "50%", "100%"), (0, 1, 2)
"""Sizes of seed 0; on all tiles, networks of TOGETHER are trained with every seed of --seeds."""
BARS = {"p4m-cnn": 0.940, "finetune": 0.965}
"""AUROC on pcam/valid whose number of tiles is asked for; that of a fine-tuned network is the bar of ensembles, over eight views."""
TOGETHER = ("finetune",)
"""Networks of which more seeds are trained on all tiles: their mean logit is an ensemble."""
VALID_SHARE = 0.1
"""As in the suite `ladder`."""
VIEWS = {"simple-cnn": 8, "p4m-cnn": 1, "finetune": 8}
"""Dihedral views that judge: p4m-cnn gives the same in all."""

Floats = npt.NDArray[np.float64]


def trained(name: str, share: str, seed: int, store: Path, home: Path, options: argparse.Namespace) -> tuple[Path, float]:
    """Return the run of a network, a share and a seed, and the minutes that it took."""
    import sentinode

    run = home / f"{name}-{share.removesuffix('%')}-{seed}"
    shorter = {"epochs": 1} if options.quick else {}
    told, start = run.with_suffix(".minutes.json"), time.perf_counter()
    settings = NETWORKS[name] | shorter | {"sample": share, "seed": seed, "valid_share": VALID_SHARE, "split": "random"}
    sentinode.train(store, out=run, resume=run.exists(), quiet=True, **settings)
    if not told.exists():
        write_json(told, {"minutes": (time.perf_counter() - start) / 60})
    return run, float(read_json(told)["minutes"])


def logits_of(run: Path, judge: Path, views: int) -> Floats:
    """Return the logits [n] of a run on the tiles that judge."""
    import sentinode

    table = run.with_suffix(f".views{views}.parquet")
    scores = sentinode.predict(run, judge, out=table, views=views, overwrite=True, quiet=True)
    return scores.table["logit"].to_numpy(np.float64)


def ladder_row(ladder: Record, name: str) -> dict[str, Any]:
    """Return the point of all tiles as a ladder's record has it: each rung judged over all the views that an ensemble would use."""
    rung = next(row for row in ladder.raw["ensemble"][0]["candidates"] if row["name"] == name)
    n, seconds = ladder.raw["mistakes"][0]["n_train"], 60 * rung["minutes"]
    return {"share": SHARES[-1], "seed": 0, "n": n, "seconds": seconds, "test": rung["test"], "valid": rung["valid"]}


def gain_of(tiles: list[int], aurocs: list[float]) -> float:
    """Return the gain of AUROC by a doubling of the tiles, of the least-squares line."""
    return float(np.polyfit(np.log2(np.array(tiles, float)), np.array(aurocs), 1)[0])


def tiles_for(bar: float, gain: float, tiles: int, reached: float) -> float:
    """Return the tiles at which a line with `gain` a doubling, through (`tiles`, `reached`), meets `bar`."""
    return float(tiles * 2 ** ((bar - reached) / gain)) if gain > 0 else float("inf")


def measure(options: argparse.Namespace) -> Record:
    """Train every size and seed, judge, draw the line."""
    import sentinode
    from sentinode.judge.compare import auroc_figure
    from sentinode.judge.statement import slides_of

    seeds, home = SEEDS[: options.seeds], options.out
    started = conditions(seeds=list(seeds), split=f"random, {VALID_SHARE:.0%} chooses", quick=options.quick)
    store, judge = home / "train.store", home / "judge.store"
    sentinode.pack(options.tiles / "kaggle", options.tiles / "pcam/train", out=store, resume=True, quiet=True)
    sentinode.pack(options.tiles / "pcam/valid", out=judge, resume=True, quiet=True)
    rows = sentinode.open_store(judge).rows
    labels, slides = rows["label"].to_numpy(np.int64), slides_of(rows["group"].astype(str).to_numpy())

    def judged(logits: Floats) -> dict[str, Any]:
        return auroc_figure(labels, logits, slides).as_dict()

    raw: dict[str, list[dict[str, Any]]] = {}
    figures: dict[str, Figure] = {}
    for name in options.networks:
        raw[name], whole = [], []
        more = seeds[1:] if name in TOGETHER else ()
        points = [(share, 0) for share in SHARES] + [(SHARES[-1], seed) for seed in more]
        for share, seed in [point for point in points if not (options.from_ladder and point[0] == SHARES[-1])]:
            run, minutes = trained(name, share, seed, store, home, options)
            record = read_json(run / "run.json")
            logits = logits_of(run, judge, VIEWS[name])
            row = {"share": share, "seed": seed, "n": record["data"]["train"]["n"], "seconds": 60 * minutes}
            row |= {"test": judged(logits), "valid": record["valid"], "cost": record["cost"], "views": VIEWS[name]}
            row |= {"one_view": judged(logits_of(run, judge, 1))} if VIEWS[name] > 1 else {}
            raw[name].append(row)
            whole += [logits] if share == SHARES[-1] else []
            print(f"  {name} {row['n']} tiles, seed {seed}: {row['test']['estimate']:.4f}, {minutes:.1f} minutes", flush=True)
        raw[name] += [ladder_row(latest("ladder"), name)] if options.from_ladder else []
        figures |= figures_of(name, raw[name], judged(np.mean(whole, axis=0)) if len(whole) > 1 else None)
    return Record(
        suite="curve",
        clock=clock_of(__doc__ or ""),
        variants={},
        raw=raw,
        figures=figures,
        conditions=started | {"n": len(labels)},
        notes=["Intervals assume independent tiles: the slides of pcam/valid are not known.", *options.note],
    )


def figures_of(name: str, rows: list[dict[str, Any]], together: dict[str, Any] | None) -> dict[str, Figure]:
    """Return the AUROC at each size, the mean of the seeds, the line and the tiles that the bar takes, and the seeds together."""
    figures = {f"{name}_{row['n']}": interval(row["test"]) for row in rows if row["seed"] == 0}
    all_tiles = [row["test"]["estimate"] for row in rows if row["share"] == SHARES[-1]]
    mean, n = float(np.mean(all_tiles)), max(row["n"] for row in rows)
    text = f"{mean:.4f} (seeds {min(all_tiles):.4f} to {max(all_tiles):.4f})"
    figures[f"{name}_seeds"] = Figure(mean, text, "AUROC")
    gain = gain_of([row["n"] for row in rows], [row["test"]["estimate"] for row in rows])
    figures[f"{name}_gain"] = Figure(gain, f"{gain:+.4f} a doubling", "AUROC")
    if name in BARS:
        needed = tiles_for(BARS[name], gain, n, mean)
        figures[f"{name}_tiles_for_bar"] = Figure(needed, f"{needed:,.0f} tiles for {BARS[name]:.3f}", "tiles")
    if together is not None:
        figures[f"{name}_seeds_together"] = interval(together)
    return figures


def interval(found: dict[str, Any]) -> Figure:
    """Return an AUROC with its interval as a figure."""
    return Figure(found["estimate"], f"{found['estimate']:.4f} ({found['low']:.4f} to {found['high']:.4f})", "AUROC")


def main() -> None:
    options = parser(__doc__ or "", repeats=1)
    options.add_argument("--out", type=Path, required=True, help="folder of the runs; an unfinished one is gone on with")
    options.add_argument("--networks", nargs="+", choices=tuple(NETWORKS), default=list(NETWORKS), help="what is trained")
    options.add_argument("--seeds", type=int, choices=(1, 2, 3), default=3, help="trainings on all tiles")
    options.add_argument(
        "--from-ladder", action="store_true", help="take the point of all tiles from the newest record of `ladder`"
    )
    options.add_argument("--note", action="append", default=[], help="a sentence for the record's page")
    chosen = options.parse_args()
    finish(measure(chosen), chosen)


if __name__ == "__main__":
    main()
