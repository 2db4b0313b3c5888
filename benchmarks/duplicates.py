"""Duplicates: how many planted ones are found, how many strangers are taken for one, and what it costs on N synthetic tiles.

Inside the clock is the whole of `duplicates` on a packed store, in a process of its own that has imported everything. Planted copies
are real tiles in each of the eight views at JPEG quality 75, 85 and 95, and, cut to 64 px so that both fields of view are real, shifted
by 1 to 32 px. Strangers are tiles of pcam/train and kaggle beside pcam/valid, which share no slide: every pair between them is false.
"""

import argparse
import io
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.records import Figure, Record, conditions
from benchmarks.suite import clock_of, finish, parser
from benchmarks.workers import once, serve

Tiles = npt.NDArray[np.uint8]
QUALITIES = (75, 85, 95)
"""Of JPEG."""
SHIFTS = (1, 2, 4, 8, 16, 32)
"""Pixels, along one axis, of tiles of 64."""
PER_SLIDE = 1000
"""Synthetic tiles of one slide."""
SMALL_PX = 64
"""Edge of the tiles that are shifted."""


def write_store(path: Path, px: int, blocks: Iterable[Tiles]) -> Path:
    """Write tiles, block by block, as a store without labels; names are numbers in order."""
    from sentinode.tiles.decode import tile_digest
    from sentinode.tiles.store import StoreWriter

    path.mkdir()
    digests: list[str] = []
    with StoreWriter(path, px) as writer:
        for block in blocks:
            whole = np.ascontiguousarray(block)
            digests += [tile_digest(tile).hex() for tile in whole]
            writer.append(whole.reshape(-1).data)
        n = len(digests)
        rows: dict[str, list[Any]] = {"id": [f"{at:07d}" for at in range(n)], "label": [-1] * n, "digest": digests}
        rows |= {name: [""] * n for name in ("group", "source", "path", "note")} | {"width": [px] * n, "height": [px] * n}
        writer.finish([rows], {"classes": ["", ""]})
    return path


def synthetic(n: int) -> Iterable[Tiles]:
    """Yield n synthetic tiles of 96 px, slide by slide."""
    from sentinode.tiles.synth import synthesise

    for seed, first in enumerate(range(0, n, PER_SLIDE)):
        yield synthesise(1, min(PER_SLIDE, n - first), seed=seed).tiles


def encoded(tile: Tiles, quality: int) -> Tiles:
    """Return a tile as JPEG gives it back."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(tile)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def planted(tiles: Tiles) -> dict[str, tuple[Tiles, Tiles]]:
    """Return by kind: tiles, and the copy of each."""
    from sentinode.tiles.passport import views_of

    made = {}
    for quality in QUALITIES:
        copies = [encoded(views_of(tile)[at % 8], quality) for at, tile in enumerate(tiles)]
        made[f"view_jpeg{quality}"] = (tiles, np.stack(copies))
    for shift in SHIFTS:
        end = shift + SMALL_PX
        made[f"shift{shift}"] = (tiles[:, 16:80, :SMALL_PX], tiles[:, 16:80, shift:end])
        if shift >= 8:
            copies = [encoded(views_of(tile[16:80, shift:end])[at % 8], 75) for at, tile in enumerate(tiles)]
            made[f"shift{shift}_view_jpeg75"] = (tiles[:, 16:80, :SMALL_PX], np.stack(copies))
    return made


def recall(folder: Path, tiles: Tiles) -> dict[str, dict[str, Any]]:
    """Return by kind how many copies were paired with their original, of how many, and of how many that are not blank."""
    from sentinode.qc.duplicates import duplicates
    from sentinode.tiles.fingerprint import fingerprints, is_blank
    from sentinode.tiles.store import open_store

    told = {}
    for kind, (one, other) in planted(tiles).items():
        first, second = (
            open_store(write_store(folder / f"{kind}{side}.store", one.shape[1], [side_tiles]))
            for side, side_tiles in enumerate((one, other))
        )
        found = duplicates(first, second, quiet=True)
        right = set(found.loc[found["id_a"] == found["id_b"], "id_a"])
        blank = is_blank(fingerprints(np.ascontiguousarray(one)))
        missed = [at for at in range(len(one)) if f"{at:07d}" not in right and not blank[at]]
        told[kind] = {"found": len(right), "n": len(one), "blank": int(blank.sum()), "missed": missed}
        print(f"  {kind}: {len(right)} of {len(one)}, {blank.sum()} blank, {len(missed)} others missed", flush=True)
    return told


def real(tiles: Path, folder: Path) -> dict[str, Any]:
    """Return the pairs between kaggle and pcam/train, and the false ones between these and pcam/valid, by id."""
    import sentinode
    from sentinode.qc.duplicates import duplicates

    stores = {name: sentinode.pack(tiles / path, out=folder / f"{name}.store", quiet=True)
              for name, path in (("kaggle", "kaggle"), ("train", "pcam/train"), ("valid", "pcam/valid"))}  # fmt: skip
    told: dict[str, Any] = {"n": {name: len(store) for name, store in stores.items()}}
    for name, one, other in (("same", "kaggle", "train"), ("false_kaggle", "kaggle", "valid"), ("false_pcam", "train", "valid")):
        found = duplicates(stores[one], stores[other], quiet=True)
        told[name] = found.drop(columns=["label_a", "label_b"]).to_dict("records")
        print(f"  {name}: {found['kind'].value_counts().to_dict()}", flush=True)
    return told


def child(folder: Path) -> None:
    """Look through the synthetic store once and say what it took."""

    def work() -> dict[str, Any]:
        import time

        from sentinode.machine.memory import peak_bytes
        from sentinode.qc.duplicates import duplicates
        from sentinode.tiles.store import open_store

        store = open_store(folder / "synthetic.store")
        start = time.perf_counter()
        found = duplicates(store, quiet=True)
        seconds = time.perf_counter() - start
        pairs = found["kind"].value_counts().to_dict()
        return {"seconds": seconds, "n": len(store), "peak_bytes": peak_bytes(), "pairs": pairs}

    serve(work)


def figures_of(told: dict[str, dict[str, Any]], pairs: dict[str, Any], cost: list[dict[str, Any]]) -> dict[str, Figure]:
    """Return the figures: recall by kind, false pairs per 10,000 tiles, the pairs of kaggle and pcam, minutes, memory."""
    made = {}
    for kind, one in told.items():
        share = one["found"] / one["n"]
        text = f"{share:.4f} ({one['found']:,} of {one['n']:,}; {one['blank']} are blank and {len(one['missed'])} others missed)"
        made[f"recall_{kind}"] = Figure(share, text, "", 0.99 if kind == "view_jpeg75" else None)
    false, n = len(pairs["false_kaggle"]) + len(pairs["false_pcam"]), sum(pairs["n"].values())
    rate = false / n * 10_000
    made["false_pairs"] = Figure(rate, f"{rate:.2f} ({false} on {n:,} tiles)", "per 10,000 tiles", 1, higher_is_better=False)
    whole = sum(pair["kind"] != "overlap" for pair in pairs["same"])
    text = f"{whole} whole, {len(pairs['same']) - whole} overlapping"
    made["kaggle_pcam"] = Figure(float(whole), text, "pairs")
    minutes, peak = max(one["seconds"] for one in cost) / 60, max(one["peak_bytes"] for one in cost) / 2**30
    made["minutes"] = Figure(minutes, f"{minutes:.1f} min on {cost[0]['n']:,} tiles", "min", 8, higher_is_better=False)
    made["memory"] = Figure(peak, f"{peak:.2f} GiB, mapped tiles included", "GiB", 3, higher_is_better=False)
    return made


def measure(options: argparse.Namespace) -> Record:
    """Plant, find and time."""
    from sentinode.tiles.store import open_store

    n, n_planted = (2000, 48) if options.quick else (options.n, options.planted)
    started = conditions(repeats=options.repeats, n=n, planted=n_planted)
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        folder = Path(name)
        pairs = real(options.tiles, folder)
        kaggle = open_store(folder / "kaggle.store").tiles
        chosen = np.sort(np.random.default_rng(0).permutation(len(kaggle))[:n_planted])
        told = recall(folder, kaggle[chosen])
        write_store(folder / "synthetic.store", 96, synthetic(n))
        repeats = 1 if options.quick else options.repeats
        cost = [once("benchmarks.duplicates", "--tiles", str(options.tiles), "--worker", name) for _ in range(repeats)]
    return Record(
        suite="duplicates",
        clock=clock_of(__doc__ or ""),
        variants={"synthetic": f"duplicates of {n:,} synthetic tiles"},
        raw={"synthetic": cost, "planted": [told], "real": [pairs]},
        figures=figures_of(told, pairs, cost),
        conditions=started,
        notes=[
            "Blank tiles (contrast below 4 grey levels) are compared by bytes alone and count as missed in the recall.",
            f"Planted: {n_planted:,} lossless tiles, the copy in view 0 to 7 in turn.",
        ],
    )


def main() -> None:
    options = parser(__doc__ or "", repeats=1)
    options.add_argument("--n", type=int, default=220_000, help="synthetic tiles (220,000, as many as Kaggle's)")
    options.add_argument("--planted", type=int, default=2000, help="real tiles that are planted again, of each kind (2,000)")
    options.add_argument("--scratch", type=Path, help="folder on a disk with room for 28 kB a tile; default: the system's")
    options.add_argument("--worker", type=Path, metavar="FOLDER", help="be the child that looks through the store in FOLDER")
    chosen = options.parse_args()
    if chosen.worker:
        child(chosen.worker)
        return
    finish(measure(chosen), chosen)


if __name__ == "__main__":
    main()
