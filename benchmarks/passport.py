"""The passport: how many training tiles are known again on the test side, by form, and how many strangers are taken for one.

Inside the clock is nothing: this suite counts. Kaggle's tiles are split as `train` splits them, their marks written to split.parquet and
read back. Each tile is then planted on a test side: as it is, rotated or mirrored alone, as JPEG of quality 75 to 95, turned and as
JPEG at once, and shifted by 1 to 16 px. Counted is what `evaluate` and `predict` count as trained on or chosen on. Strangers are tiles of
pcam/valid, in every form, before a run that trained on kaggle and pcam/train, which share no slide with it: every one counted is false.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.duplicates import encoded
from benchmarks.records import Figure, Record, conditions
from benchmarks.suite import clock_of, finish, parser

Tiles = npt.NDArray[np.uint8]
ROTATED, MIRRORED = (3, 5, 6), (1, 2, 4, 7)
"""Views of `views_of` that are rotations by 90, 180 or 270 degrees, and those that are reflections."""
QUALITIES = (75, 80, 85, 90, 95)
"""Of JPEG."""
SHIFTS = (1, 2, 4, 8, 16)
"""Pixels, along one axis, of tiles that are cut so that both fields of view are real."""
CUT_PX = 80
"""Edge of the tiles that are shifted."""
BARS = {"recall_turned_jpeg75": 0.99}
"""What the suite is to reach; for strangers: one in 10,000."""


def turned(tiles: Tiles, views: tuple[int, ...]) -> Tiles:
    """Return each tile in one of the views, in turn: uint8 [n, px, px, 3]."""
    from sentinode.tiles.passport import views_of

    return np.stack([views_of(tile)[views[at % len(views)]] for at, tile in enumerate(tiles)])


def forms(tiles: Tiles) -> dict[str, Tiles]:
    """Return the tiles in each form, whole ones."""
    made = {"as_is": tiles, "rotated": turned(tiles, ROTATED), "mirrored": turned(tiles, MIRRORED)}
    every = turned(tiles, tuple(range(1, 8)))
    for quality in QUALITIES:
        made[f"jpeg{quality}"] = np.stack([encoded(tile, quality) for tile in tiles])
        made[f"turned_jpeg{quality}"] = np.stack([encoded(tile, quality) for tile in every])
    return made


def shifted(tiles: Tiles, by: int) -> Tiles:
    """Return tiles cut to CUT_PX, their field of view `by` pixels to the right of where it is for 0."""
    return tiles[:, 8 : 8 + CUT_PX, by : by + CUT_PX]


def named(rows: pd.DataFrame, tiles: Tiles) -> pd.DataFrame:
    """Return the rows with the digests of `tiles`, and without slides: nothing is to be known by these."""
    from sentinode.tiles.decode import tile_digest

    return rows.assign(digest=[tile_digest(np.ascontiguousarray(tile).data).hex() for tile in tiles], group="")


def passport_of(rows: pd.DataFrame, tiles: Tiles, path: Path) -> Any:
    """Return what a run that was trained on these tiles would have in its split.parquet, written and read back."""
    from sentinode.tiles.passport import with_passport
    from sentinode.tiles.split import make_split, read_split, write_split

    write_split(path, with_passport(make_split(named(rows, tiles), "random"), tiles))
    return read_split(path)


def told(split: Any, rows: pd.DataFrame, tiles: Tiles) -> dict[str, Any]:
    """Return what `evaluate` counts of these tiles: by kind, and in all."""
    from sentinode.tiles.passport import marks_of, seen_of

    found = seen_of([split], named(rows, tiles), marks_of(np.ascontiguousarray(tiles), np.arange(len(tiles))))
    kinds = {name: getattr(found, name) for name in ("exact", "turned", "near", "chosen")}
    return kinds | {"known": sum(kinds.values()), "n": found.n}


def recall(rows: pd.DataFrame, tiles: Tiles, folder: Path) -> dict[str, dict[str, Any]]:
    """Return what is known again of each form."""
    from sentinode.tiles.fingerprint import fingerprints, is_blank

    split, blank = passport_of(rows, tiles, folder / "whole.parquet"), int(is_blank(fingerprints(tiles)).sum())
    counted = {name: told(split, rows, form) | {"blank": blank} for name, form in forms(tiles).items()}
    cut = np.ascontiguousarray(shifted(tiles, 0))
    split, blank = passport_of(rows, cut, folder / "cut.parquet"), int(is_blank(fingerprints(cut)).sum())
    counted |= {f"shift{by}": told(split, rows, shifted(tiles, by)) | {"blank": blank} for by in SHIFTS}
    for name, one in counted.items():
        print(f"  {name}: {one}", flush=True)
    return counted


def figures_of(known: dict[str, dict[str, Any]], false: dict[str, dict[str, Any]], n_trained: int) -> dict[str, Figure]:
    """Return recall by form, and false alarms per 10,000 tiles that were looked at."""
    made = {}
    for form, one in known.items():
        name, share = f"recall_{form}", one["known"] / one["n"]
        text = f"{share:.4f} ({one['known']:,} of {one['n']:,}; {one['blank']} are blank)"
        made[name] = Figure(share, text, "", BARS.get(name))
    alarms, n = (sum(one[column] for one in false.values()) for column in ("known", "n"))
    each = next(iter(false.values()))["n"]
    text = f"{alarms / n * 10_000:.2f} ({alarms} of {each:,} tiles in {len(false)} forms, {n_trained:,} trained on)"
    made["false_alarms"] = Figure(alarms / n * 10_000, text, "per 10,000 tiles", 1, higher_is_better=False)
    return made


def measure(options: argparse.Namespace) -> Record:
    """Plant, look, count."""
    import sentinode

    few = 64 if options.quick else None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kaggle = sentinode.pack(options.tiles / "kaggle", out=folder / "kaggle.store", quiet=True)
        both = sentinode.pack(options.tiles / "kaggle", options.tiles / "pcam/train", out=folder / "both.store", quiet=True)
        other = sentinode.pack(options.tiles / "pcam/valid", out=folder / "other.store", quiet=True)
        started = conditions(stores={"kaggle": kaggle.digest, "both": both.digest, "other": other.digest}, n=len(kaggle))
        # every other one of few: stores are in the order of classes
        step = 1 if few is None else len(kaggle) // few
        known = recall(kaggle.rows.iloc[::step].reset_index(drop=True), np.array(kaggle.tiles[::step]), folder)
        split = passport_of(both.rows, both.tiles, folder / "both.parquet")
        strangers, rows = np.array(other.tiles[:few]), other.rows.iloc[:few].reset_index(drop=True)
        false = {form: told(split, rows, tiles) for form, tiles in forms(strangers).items()}
    return Record(
        suite="passport",
        clock=clock_of(__doc__ or ""),
        variants={},
        raw={"planted": [known], "strangers": [false]},
        figures=figures_of(known, false, len(both)),
        conditions=started,
        notes=[
            "Blank tiles (contrast below 4 grey levels) are known by their bytes alone, and count as missed where these have changed.",
            f"Shifts are of tiles cut to {CUT_PX} px. Overlapping fields of view are not what the passport looks for; audit --against is.",
        ],
    )


def main() -> None:
    """Run the suite."""
    chosen = parser(__doc__ or "", repeats=1).parse_args()
    finish(measure(chosen), chosen)


if __name__ == "__main__":
    main()
