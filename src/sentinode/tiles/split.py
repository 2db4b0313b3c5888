"""Who trains and who chooses: splits by tile or by slide, audited, and nested samples. Test tiles are another store's.

Everything depends on ids and pixel digests, never on the order of rows. Copies of one tile (equal digest) always stay together.
"""

import math
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from sentinode.errors import SplitProblem, UsageProblem, shown
from sentinode.run import replacing
from sentinode.tiles.units import is_pseudo, joined_units, seeded_keys, true_slides

FORMAT = 2
"""Version of split.parquet; 1 had no `near` and is read with it empty."""
COLUMNS = ("id", "digest", "dihedral_digest", "near", "group", "label", "part", "fold")
"""Columns of split.parquet."""
PARTS = ("train", "valid", "unused")
"""What a tile can be: `train` fits weights, `valid` chooses among them, `unused` is held out, or lacks a label or a slide it needs."""
OPTIMISTIC = "random split: tiles of one slide may be on both sides; figures are optimistic"
"""Goes into every output of a run that was split by tile."""
GUESSED = "split by pseudo-groups, which are no slides: tiles of one slide may be on both sides; figures are optimistic"
"""The same of a run that was split by groups that were guessed from the tiles."""
TRIALS = 400
"""Orders of slides that a grouped split tries, to come near the wanted share of both classes."""

Codes = npt.NDArray[np.int64]
By = Literal["auto", "random", "grouped"]
"""How tiles are divided: see `make_split`."""


@dataclass(frozen=True)
class Split:
    """Who trains and who chooses.

    `table` has one row a tile in the store's order (with a valid store of its own, its tiles follow): id, digest, dihedral_digest
    and near (text and bytes, empty until the passport fills them), group, label (int8), part, and fold (int16: the fold in which
    the tile is held out, -1 in none). `how` is what was done: random, grouped, or given (valid is a store of its own).
    """

    table: pd.DataFrame
    how: str
    seed: int = 0
    warnings: tuple[str, ...] = field(default=())

    def rows_of(self, part: str) -> Codes:
        """Return the positions of a part's tiles, ascending, int64."""
        return np.flatnonzero((self.table["part"] == part).to_numpy()).astype(np.int64)


def make_split(
    rows: pd.DataFrame,
    how: By = "auto",
    valid_share: float = 0.2,
    seed: int = 0,
    left_out: npt.NDArray[np.bool_] | None = None,
) -> Split:
    """Split labelled tiles into train and valid, audited before it is returned.

    `random` holds out `valid_share` of each class by tile, exactly where copies allow. `grouped` holds out whole slides, chosen
    so that both classes come near that share; slides that share a copy of a tile stay together, and a tile whose slide is unknown
    is unused: it could be of any slide. Pseudo-groups are held out whole like slides, with a warning. `auto` is grouped where at
    least half of the labelled tiles have a slide, else random.

    Parameters
    ----------
    rows
        A store's rows: id, label, group, digest.
    how
        See above.
    valid_share
        In (0, 1).
    seed
        The same seed and tiles give the same split, whatever the order of rows.
    left_out
        bool [n], tiles that are unused: of a fold that is held out to judge.

    Raises
    ------
    SplitProblem
        If a part would be empty or of one class; the message says what to do.
    UsageProblem
        If `how` or `valid_share` is not one of those.
    """
    if not 0 < valid_share < 1:
        raise UsageProblem("a validation share between 0 and 1", shown(valid_share), "choose one such as 0.2")
    grouped, usable = splits_by_slide(rows, how), rows["label"].to_numpy() >= 0
    if left_out is not None:
        usable &= ~left_out
    warnings = []
    if not grouped:
        warnings.append(OPTIMISTIC)
        valid = _held_out_tiles(rows[usable], valid_share, seed)
    else:
        known = (rows["group"].astype(str) != "").to_numpy() & usable
        n_labelled, n_known, usable = int(usable.sum()), int(known.sum()), known
        if n_known < n_labelled:
            warnings.append(f"{n_labelled - n_known:,} labelled tiles have no slide: they are unused, since they could be of any")
        if is_pseudo(rows["group"].to_numpy()[usable]).any():
            warnings.append(GUESSED)
        valid = _held_out_slides(rows[usable], valid_share, seed)
    part = np.full(len(rows), "unused", dtype=object)
    part[usable] = np.where(valid, "valid", "train")
    split = Split(_table(rows, part), "grouped" if grouped else "random", seed, tuple(warnings))
    check_split(split)
    return split


def splits_by_slide(rows: pd.DataFrame, how: By) -> bool:
    """Return whether `how` means whole slides of these rows; UsageProblem if it is no such word."""
    if how not in ("auto", "random", "grouped"):
        raise UsageProblem("a split of auto, random or grouped", shown(how), "choose one of them")
    labelled = rows["label"].to_numpy() >= 0
    n_known = int(((rows["group"].astype(str) != "").to_numpy() & labelled).sum())
    return how == "grouped" or (how == "auto" and n_known > 0 and 2 * n_known >= labelled.sum())


def given_split(train_rows: pd.DataFrame, valid_rows: pd.DataFrame, left_out: npt.NDArray[np.bool_] | None = None) -> Split:
    """Return the split of two stores of which the first trains and the second chooses, labelled tiles only.

    The table holds the first store's tiles, then the second's. Of the first, copies of a tile that chooses are unused.
    Slides named in both are warned about. `left_out`, bool, are tiles of the first that are unused.

    Raises
    ------
    SplitProblem
        If either has fewer than two classes.
    """
    train_labelled, valid_labelled = (rows["label"].to_numpy() >= 0 for rows in (train_rows, valid_rows))
    if left_out is not None:
        train_labelled &= ~left_out
    copied = train_rows["digest"].isin(valid_rows["digest"][valid_labelled]).to_numpy() & train_labelled
    tables = [
        _table(train_rows, np.where(train_labelled & ~copied, "train", "unused")),
        _table(valid_rows, np.where(valid_labelled, "valid", "unused")),
    ]
    if copied.any() and copied.sum() == train_labelled.sum():
        raise SplitProblem(
            "a --valid store of other tiles than those that train",
            f"a copy of every one of the {int(copied.sum()):,} training tiles",
            "name another store, or leave --valid out: then a part of the training store chooses",
        )
    warnings = []
    if copied.any():
        warnings.append(f"{int(copied.sum()):,} training tiles are copies of validation tiles: they are unused")
    slides = [set(true_slides(table["group"].to_numpy()).tolist()) for table in tables]
    shared = sorted((slides[0] & slides[1]) - {""})
    if shared:
        warnings.append(f"{len(shared):,} slides train and choose, such as {shown(shared[0])}; figures on valid are optimistic")
    split = Split(pd.concat(tables, ignore_index=True), "given", 0, tuple(warnings))
    check_split(split)
    return split


def _table(rows: pd.DataFrame, part: npt.NDArray[Any]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": rows["id"].astype(str).to_numpy(),
            "digest": rows["digest"].astype(str).to_numpy(),
            "dihedral_digest": "",
            "near": pd.Series([b""] * len(rows), dtype=object),
            "group": rows["group"].astype(str).to_numpy(),
            "label": rows["label"].to_numpy(np.int8),
            "part": part.astype(str),
            "fold": np.where(part == "valid", 0, -1).astype(np.int16),
        }
    )


def _held_out_tiles(rows: pd.DataFrame, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Choose sets of copies in a seeded order until each class has its share; sets of both classes stay in train."""
    labels = rows["label"].to_numpy(np.int64)
    sets = pd.DataFrame({"digest": rows["digest"].astype(str).to_numpy(), "label": labels}).groupby("digest")["label"]
    sizes = sets.agg(["size", "sum"])
    keys = seeded_keys([str(digest) for digest in sizes.index], seed)
    size, positive = sizes["size"].to_numpy(), sizes["sum"].to_numpy()
    room = {value: max(1, round(share * int((labels == value).sum()))) for value in (0, 1)}
    chosen = set()
    for at in sorted(range(len(keys)), key=keys.__getitem__):
        value = int(positive[at] > 0)
        if positive[at] in (0, size[at]) and size[at] <= room[value]:
            room[value] -= int(size[at])
            chosen.add(str(sizes.index[at]))
    return rows["digest"].astype(str).isin(chosen).to_numpy()


def _held_out_slides(rows: pd.DataFrame, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Choose whole units (slides joined by copies) so that both classes come near `share` in valid.

    Every prefix of a number of seeded orders is a candidate; the nearest one with both classes on both sides wins.
    """
    units = slide_units(rows["group"].astype(str).to_numpy(), rows["digest"].astype(str).to_numpy())
    n_units = int(units.max()) + 1 if units.size else 0
    labels = rows["label"].to_numpy(np.int64)
    counts = np.stack([np.bincount(units[labels == value], minlength=n_units) for value in (0, 1)], axis=1)
    total = counts.sum(axis=0)
    rng = np.random.default_rng(seed)
    best, chosen = math.inf, np.empty(0, np.int64)
    for _ in range(TRIALS if n_units > 1 else 0):
        order = rng.permutation(n_units)
        held = counts[order].cumsum(axis=0)[:-1]
        with np.errstate(invalid="ignore"):
            distance = np.abs(held / total - share).sum(axis=1)
        distance = np.where(((held > 0) & (held < total)).all(axis=1), distance, math.inf)
        at = int(np.argmin(distance))
        if distance[at] < best:
            best, chosen = float(distance[at]), order[: at + 1]
    if not math.isfinite(best):
        raise SplitProblem(
            "slides of which some can be held out with both classes on both sides",
            f"{n_units:,} separable slides, {int(total[1]):,} positive and {int(total[0]):,} negative tiles with a known slide"
            if n_units
            else "no labelled tile with a known slide",
            "pack more slides, give their names with --groups, or split by tile with --split random (optimistic)",
        )
    return np.isin(units, chosen)


def slide_units(groups: npt.NDArray[Any], digests: npt.NDArray[Any]) -> Codes:
    """Return int64 [n] codes of the connected parts of slides that share a copy of a tile, in the order of slide names."""
    copies = pd.Series(digests)
    copies = copies[copies.duplicated(keep=False)]
    return joined_units(groups.tolist(), [np.asarray(rows, np.int64) for rows in copies.groupby(copies).groups.values()])


def check_split(split: Split) -> None:
    """Audit a split: no empty or one-class part, slides disjoint if grouped, copies on one side only.

    Raises
    ------
    SplitProblem
        If any of these does not hold.
    """
    train, valid = (split.table.iloc[split.rows_of(name)] for name in ("train", "valid"))
    for part, name in ((train, "train"), (valid, "valid")):
        _demand_classes(part["label"].to_numpy(np.int64), name)
    columns = ("digest", "group") if split.how == "grouped" else ("digest",)
    for column in columns:
        both = sorted(set(train[column]) & set(valid[column]))
        if both:
            raise SplitProblem(
                f"every {column} on one side of the split",
                f"{len(both):,} on both, such as {shown(both[0])}",
                "make the split anew",
            )


def _demand_classes(labels: npt.NDArray[np.int64], name: str) -> None:
    n_positive, n_negative = int((labels == 1).sum()), int((labels == 0).sum())
    if not n_positive or not n_negative:
        raise SplitProblem(
            f"tiles of both classes in {name}",
            f"{n_positive:,} positive and {n_negative:,} negative",
            "pack more labelled tiles of the class that is missing, or change the share that is held out",
        )


def parse_sample(text: str, n: int) -> Fraction:
    """Return the share that `5%`, `0.05` or `2000` (tiles, of `n`) stands for, exactly.

    Raises
    ------
    UsageProblem
        If it is none of these or the share is not in (0, 1].
    """
    try:
        number = Fraction(text.strip().removesuffix("%"))
    except (ValueError, ZeroDivisionError) as error:
        raise UsageProblem("a sample such as 5%, 0.05 or 2000", shown(text), "write it like one of these") from error
    if text.strip().endswith("%"):
        share = number / 100
    elif number > 1:
        share = number / max(n, 1)
    else:
        share = number
    if not 0 < share <= 1:
        raise UsageProblem(f"a sample of at least one and at most all {n:,} tiles", shown(text), "choose another size")
    return share


def sample_positions(ids: list[str], labels: npt.NDArray[Any], share: Fraction, seed: int = 0) -> Codes:
    """Return the positions of a stratified sample, ascending: of each class the first ceil(share x n) in a seeded order.

    Nested: with one seed a smaller share's tiles lie inside a larger one's. A tile's place depends on its id and the seed alone.
    Tiles of unknown label (-1) are left out.

    Parameters
    ----------
    ids, labels
        Of n tiles; labels -1, 0 or 1.
    share
        In (0, 1], exact: binary fractions would round some classes up by one.
    seed
        Of the order.
    """
    kept: list[int] = []
    for value in (0, 1):
        of_class = np.flatnonzero(np.asarray(labels) == value).tolist()
        keys = seeded_keys([ids[at] for at in of_class], seed)
        kept += [at for _, _, at in sorted(zip(keys, [ids[at] for at in of_class], of_class, strict=True))][
            : math.ceil(share * len(of_class))
        ]
    return np.array(sorted(kept), dtype=np.int64)


def sample_rows(split: Split, share: str, seed: int = 0, part: Literal["train", "valid"] = "train") -> Split:
    """Return the split with a stratified, nested sample of its training tiles; the others become unused, valid stays.

    Parameters
    ----------
    split
        Before sampling.
    share
        Of the training tiles: 5%, 0.05, or 2000 tiles (at most one more, since each class rounds up).
    seed
        Of the order.
    part
        "valid": of the tiles that choose instead.

    Raises
    ------
    UsageProblem
        If the share is not in (0, 1].
    SplitProblem
        If a class is absent from the sample.
    """
    rows = split.rows_of(part)
    table = split.table.iloc[rows]
    kept = sample_positions(table["id"].tolist(), table["label"].to_numpy(), parse_sample(share, len(rows)), seed)
    parts = split.table["part"].to_numpy(dtype=object).copy()
    parts[np.setdiff1d(rows, rows[kept])] = "unused"
    sampled = replace(split, table=split.table.assign(part=parts.astype(str)))
    check_split(sampled)
    return sampled


def write_split(path: Path, split: Split) -> None:
    """Write split.parquet, whole or not at all; `how`, seed, warnings and format stand in the schema's metadata."""
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    notes = {"format": FORMAT, "how": split.how, "seed": split.seed, "warnings": list(split.warnings)}
    arrow = pa.Table.from_pandas(split.table[list(COLUMNS)], preserve_index=False)
    arrow = arrow.replace_schema_metadata({b"sentinode split": json.dumps(notes, sort_keys=True).encode()})
    with replacing(path) as temporary:
        pq.write_table(arrow, temporary, compression="zstd")


def read_split(path: Path) -> Split:
    """Read split.parquet.

    Raises
    ------
    SplitProblem
        If the file is missing, cut, of another format, or not a split.
    """
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        arrow = pq.ParquetFile(path).read()
        notes = json.loads((arrow.schema.metadata or {}).get(b"sentinode split", b"{}"))
        table = arrow.to_pandas()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise SplitProblem(f"a readable {shown(path)}", shown(error), "train the run again") from error
    if notes.get("format") == 1 and "near" not in table:
        table.insert(COLUMNS.index("near"), "near", pd.Series([b""] * len(table), dtype=object))
        notes["format"] = FORMAT
    if notes.get("format") != FORMAT or list(table.columns) != list(COLUMNS) or not table["part"].isin(PARTS).all():
        raise SplitProblem(
            f"a split of format {FORMAT} in {shown(path)}",
            shown(notes.get("format")),
            "use the version of Sentinode that wrote it",
        )
    return Split(table, str(notes["how"]), int(notes["seed"]), tuple(str(text) for text in notes["warnings"]))
