"""Audit: how many planted label flips stand in the first 6 % of the queue, and how fast tiles are measured.

Inside the clock is one pass of `measure_quality` or `measure_domains` (clustering included) over a packed store that lies in the page
cache. Flips are 2 % of the labels of kaggle and pcam/train, drawn anew for each seed; slides are not known, so folds keep pseudo-groups
whole. What the labels hold of true errors counts as a miss.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.records import Figure, Record, conditions
from benchmarks.suite import clock_of, finish, parser

FLIPPED = 0.02
"""Share of the labels that are flipped."""
LOOKED_AT = 0.06
"""Share of the queue that is read."""
BAR = 0.6
"""Share of the flips that is to be found there."""
QUICK = 400
"""Tiles of a quick run."""


def found_by_seed(store: Any, probe: str, seeds: int, features: Path) -> list[float]:
    """Return for each seed the share of planted flips among the first 6 % of the suspects."""
    from sentinode.flows.probes import features_for
    from sentinode.progress import Progress
    from sentinode.qc.domains import measure_domains
    from sentinode.qc.duplicates import duplicates, groups
    from sentinode.qc.leaks import Kinship
    from sentinode.qc.quality import measure_quality
    from sentinode.qc.suspects import label_suspects
    from sentinode.settings import AuditSettings

    ids = store.rows["id"].tolist()
    place = {name: at for at, name in enumerate(ids)}
    same = [
        np.array(sorted(place[name] for name in some)) for _, some in groups(duplicates(store, quiet=True)).groupby("group")["id"]
    ]
    quality, domains = measure_quality(store), measure_domains(store, same)
    labels = store.rows["label"].to_numpy(np.int64)
    rows = np.flatnonzero(labels >= 0)
    settings = AuditSettings(probe=probe, features=str(features))  # type: ignore[arg-type]
    values, model = features_for(probe, store, rows, (quality, domains), settings, Progress(quiet=True))
    kin = Kinship(ids, [""] * len(ids), domains.table["pseudo_group"].tolist(), same).taken(rows)
    shares = []
    for seed in range(seeds):
        flipped = np.random.default_rng(seed).choice(len(rows), round(FLIPPED * len(rows)), replace=False)
        given = labels[rows].copy()
        given[flipped] = 1 - given[flipped]
        queue = label_suspects(values, given, kin, model, rows).table["row"].head(round(LOOKED_AT * len(rows)))
        shares.append(float(np.isin(rows[flipped], queue).mean()))
        print(f"  {probe}, seed {seed}: {shares[-1]:.3f} of {len(flipped)}", flush=True)
    return shares


def rates(store: Any, repeats: int) -> dict[str, list[dict[str, float]]]:
    """Return each timing of both passes, in turn: seconds and tiles."""
    from sentinode.qc.domains import measure_domains
    from sentinode.qc.quality import measure_quality

    told: dict[str, list[dict[str, float]]] = {"quality": [], "domains": []}
    for _ in range(repeats):
        for name, work in (("quality", measure_quality), ("domains", measure_domains)):
            start = time.perf_counter()
            work(store)
            told[name].append({"seconds": time.perf_counter() - start, "tiles": float(len(store))})
    return told


def main() -> None:
    """Run the suite."""
    made = parser(__doc__ or "", 5)
    made.add_argument("--seeds", type=int, default=5, help="draws of the flips (5)")
    options = made.parse_args()
    seeds, repeats = (1, 1) if options.quick else (options.seeds, options.repeats)
    import sentinode
    from sentinode.flows.probes import installed

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = sentinode.pack(options.tiles / "kaggle", options.tiles / "pcam" / "train", out=folder / "t.store", quiet=True)
        if options.quick:
            # The first ones: a store is read from its file, in order.
            rows = store.rows.iloc[:QUICK].reset_index(drop=True)
            store = sentinode.Store(store.path, store.tiles[:QUICK], rows, store.classes, store.digest, store.record)
        else:
            store.tiles.sum()  # into the page cache
        at = conditions(repeats=repeats, seeds=seeds, n=len(store), store=store.digest, flipped=FLIPPED, looked_at=LOOKED_AT)
        raw: dict[str, Any] = {} if options.quick else rates(store, repeats)
        figures = {}
        for probe in ("network", "colour") if installed() else ("colour",):
            shares = found_by_seed(store, probe, seeds, folder / "features")
            middle = statistics.median(shares)
            text = f"{middle:.0%} ({min(shares):.0%} to {max(shares):.0%}, {len(shares)} draws, n = {len(store):,})"
            figures[f"flips_found_{probe}"] = Figure(middle, text, "", BAR if probe == "network" else None)
            at[f"flips_{probe}"] = shares
    for name, words in (("quality", "tiles/s of quality"), ("domains", "tiles/s of domains")):
        if raw:
            middle = statistics.median(one["tiles"] / one["seconds"] for one in raw[name])
            figures[f"{name}_rate"] = Figure(middle, f"{middle:,.0f}", words)
    at["timings"] = raw
    notes = ["Slides are not known: folds keep clusters of stain whole (pseudo-groups), which are not slides."]
    finish(Record("audit", clock_of(__doc__ or ""), {}, {}, figures, at, notes), options)


if __name__ == "__main__":
    main()
