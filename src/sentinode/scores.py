"""The table everyone meets at: one row a tile, `id, group, label, logit, probability`; read, write, align.

`.parquet` holds the header in the schema's metadata, `.csv` in a first line `# sentinode scores {json}`. Anyone's CSV with an id
and a probability is read as well. Ids are data: in CSV an id that a spreadsheet would run as a formula gets a leading `'`.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from sentinode.errors import ScoresProblem, nearest, shown
from sentinode.run import replacing, write_bytes

FORMAT = 1
"""Version of the table's layout."""
FIRST_LINE = "# sentinode scores "
"""How our CSV begins; a JSON object follows on the same line."""
META_KEY = b"sentinode scores"
"""Where the header stands in a parquet file's schema metadata."""
COLUMNS = ("id", "group", "label", "logit", "probability")
"""Columns every table has, in this order; others may follow."""
PROBABILITY_NAMES = ("probability", "prob", "score", "p")
"""What other people call the probability, best first; `label` of a Kaggle submission comes last, where none of these is there."""
CLIP = 1e-7
"""Probabilities nearer to 0 or 1 than this get the logit of this distance (a logit of 0 or 1 is infinite)."""
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "'")
"""First letters that make a spreadsheet run a cell (OWASP, CSV injection), and the guard itself."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """A table of predictions.

    `table` has the columns id (str, unique), group (str, "" unknown), label (int8; 1 positive, 0 negative, -1 unknown), logit
    (float64, finite), probability (float64 in [0, 1]) and any further ones. `header` says where it comes from: run digests, store
    digest, views, protocol; for a stranger's table, which column was read and how many probabilities were clipped for the logit.
    """

    table: pd.DataFrame
    header: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.table)


def logit_of(probability: Floats) -> Floats:
    """Return log(p / (1 - p)), float64 [n], with p clipped to [1e-7, 1 - 1e-7]."""
    clipped = np.clip(probability, CLIP, 1 - CLIP)
    return np.asarray(np.log(clipped) - np.log1p(-clipped), dtype=np.float64)


def probability_of(logit: Floats) -> Floats:
    """Return 1 / (1 + exp(-logit)), float64 [n], without overflow."""
    small = np.exp(-np.abs(logit))
    return np.asarray(np.where(logit >= 0, 1.0, small) / (1.0 + small), dtype=np.float64)


def checked(table: pd.DataFrame, where: str = "the table") -> pd.DataFrame:
    """Return `table` with our columns first and of our types.

    Raises
    ------
    ScoresProblem
        If a column is missing, an id is empty or comes twice, a logit is not finite, a probability is NaN or outside [0, 1], or a
        label is not -1, 0 or 1; the message names the row (1 is the first).
    """
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise ScoresProblem(
            f"the columns {', '.join(COLUMNS)} in {where}",
            f"no {', '.join(missing)} among {', '.join(shown(c) for c in table.columns[:20])}",
            "make the table again with 'sentinode predict'",
        )
    _encoded("".join(map(str, table["id"])) + "".join(map(str, table["group"])))
    ids = table["id"].astype(str)
    _refuse(where, ids, "an id in every row", (ids == "").to_numpy())
    _refuse(where, ids, "every id once", ids.duplicated().to_numpy())
    label = table["label"].to_numpy(np.float64)
    _refuse(where, table["label"], "a label of -1, 0 or 1", ~np.isin(label, (-1, 0, 1)))
    probability = table["probability"].to_numpy(np.float64)
    _refuse(where, table["probability"], "a probability in [0, 1]", ~((probability >= 0) & (probability <= 1)))
    logit = table["logit"].to_numpy(np.float64)
    _refuse(where, table["logit"], "a finite logit", ~np.isfinite(logit))
    ours = pd.DataFrame(
        {
            "id": ids,
            "group": table["group"].astype(str),
            "label": label.astype(np.int8),
            "logit": logit,
            "probability": probability,
        }
    )
    further = [name for name in table.columns if name not in COLUMNS]
    return pd.concat([ours, table[further]], axis=1).reset_index(drop=True)


def _refuse(where: str, values: "pd.Series[Any]", expected: str, wrong: npt.NDArray[np.bool_]) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ScoresProblem(
            f"{expected} in {where}",
            f"{shown(values.iloc[row])} in row {row + 1} ({int(wrong.sum()):,} such rows)",
            "correct these rows or leave them out of both the scores and the test store",
        )


def guarded(text: str) -> str:
    """Return `text` as a CSV cell that no spreadsheet runs: a leading `'` before = + - @ tab CR and '."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text


def unguarded(cell: str) -> str:
    """Return what `guarded` was given; a leading `'` before anything else stays."""
    return cell[1:] if cell[:1] == "'" and cell[1:].startswith(FORMULA_STARTS) else cell


def write_scores(path: Path, scores: Scores) -> None:
    """Write `scores` to `path` (.parquet or .csv), whole or not at all; the same scores give the same bytes.

    Raises
    ------
    ScoresProblem
        If the table is not sound, holds text that UTF-8 cannot, or `path` ends in something else.
    """
    table = checked(scores.table)
    header = json.dumps({"format": FORMAT} | scores.header, sort_keys=True, ensure_ascii=True, allow_nan=False)
    if path.suffix == ".parquet":
        _write_parquet(path, table, header)
    elif path.suffix == ".csv":
        names = [str(name) for name in table.columns]
        columns = [_cells(table[name]) for name in names]
        write_bytes(path, f"{FIRST_LINE}{header}\n".encode() + _csv_bytes([guarded(name) for name in names], columns))
    else:
        raise ScoresProblem("a name that ends in .parquet or .csv", shown(path.name), "choose one of the two")


def write_submission(path: Path, ids: Sequence[str], probability: Floats) -> None:
    """Write `id,label` with probabilities in the given order, as Kaggle takes it: no comment, no index."""
    table = checked(
        pd.DataFrame({"id": list(ids), "group": "", "label": -1, "logit": logit_of(probability), "probability": probability})
    )
    write_bytes(path, _csv_bytes(["id", "label"], [_cells(table["id"]), _cells(table["probability"])]))


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write any table as CSV, whole or not at all: guarded against formulas, quoted where need be, "" for a number that is none."""
    columns = [["" if cell == "nan" else cell for cell in _cells(table[name])] for name in table.columns]
    write_bytes(path, _csv_bytes([guarded(str(name)) for name in table.columns], columns))


def _cells(column: "pd.Series[Any]") -> list[str]:
    if pd.api.types.is_float_dtype(column):
        return [repr(float(v)) for v in column]
    if pd.api.types.is_numeric_dtype(column):
        return [str(v) for v in column]
    return [guarded(str(v)) for v in column]


def _csv_bytes(names: list[str], columns: list[list[str]]) -> bytes:
    lines = [",".join(map(_quoted, row)) for row in (names, *zip(*columns, strict=True))]
    return _encoded("\n".join(lines) + "\n")


def _quoted(cell: str) -> str:
    # Not csv.writer: until Python 3.13 it leaves a lone carriage return unquoted, which breaks the row.
    return '"' + cell.replace('"', '""') + '"' if any(mark in cell for mark in ',;"\r\n') else cell


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ScoresProblem(
            "ids and groups that UTF-8 can hold", shown(text[error.start : error.end]), "rename these tiles"
        ) from error


def _write_parquet(path: Path, table: pd.DataFrame, header: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata({META_KEY: header.encode()})
    with replacing(path) as temporary:
        pq.write_table(arrow, temporary, compression="zstd")


def read_scores(path: Path) -> Scores:
    """Read a table of predictions: ours (.parquet, .csv) or anyone's CSV with an id and a probability.

    Column names are compared without case. The probability is `probability`, `prob`, `score` or `p`, or else `label` as Kaggle
    takes it, or comes from `logit`. Where there is no logit it is computed; `header["clipped"]` counts the probabilities nearer
    than 1e-7 to 0 or 1. Commas, semicolons and tabs separate.

    Raises
    ------
    ScoresProblem
        If the file cannot be read, has no such column, or holds an id twice, NaN, or a probability outside [0, 1].
    """
    if path.suffix == ".parquet":
        table, header = _read_parquet(path)
    else:
        table, header = _read_csv(path)
    if not isinstance(header, dict):
        raise ScoresProblem(f"a JSON header in {shown(path)}", type(header).__name__, "make it again, or name another file")
    if table.empty:
        raise ScoresProblem(f"at least one row in {shown(path)}", "none", "name a file with predictions")
    if header.get("format", FORMAT) != FORMAT:
        raise ScoresProblem(
            f"scores of format {FORMAT} in {shown(path)}", shown(header["format"]), "read it with the version that wrote it"
        )
    table, notes = _understood(table, path)
    return Scores(checked(table, shown(path)), header | notes)


def _read_parquet(path: Path) -> tuple[pd.DataFrame, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        arrow = pq.ParquetFile(path).read()
        header = json.loads((arrow.schema.metadata or {}).get(META_KEY, b"{}"))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ScoresProblem(f"a readable {shown(path)}", shown(error), "make it again, or name another file") from error
    return arrow.to_pandas(), header


def _read_csv(path: Path) -> tuple[pd.DataFrame, Any]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
        header: Any = {}
        if text.startswith(FIRST_LINE):
            first, _, text = text.partition("\n")
            header = json.loads(first.removeprefix(FIRST_LINE))
        names_line = text.split("\n", 1)[0]
        separator = max(",;\t", key=names_line.count)
        lines = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True) if row]
    except (OSError, ValueError, csv.Error) as error:
        raise ScoresProblem(f"a readable table in {shown(path)}", shown(error), "save it as CSV in UTF-8") from error
    if not lines:
        raise ScoresProblem(f"a line of column names in {shown(path)}", "an empty file", "name a file with predictions")
    names, rows = [unguarded(name.strip()) for name in lines[0]], lines[1:]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(names):
            raise ScoresProblem(
                f"{len(names)} cells in every row of {shown(path)}", f"{len(row)} in row {number}", "correct that row"
            )
    cells = np.array(rows, dtype=object).reshape(len(rows), len(names))
    table = pd.DataFrame({name: pd.Series(list(cells[:, i]), dtype=object) for i, name in enumerate(names)})
    return table.map(unguarded), header


def _understood(table: pd.DataFrame, path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Give the columns our names and numbers; return the table and what had to be done for it."""
    folded = {str(name).strip().lower(): name for name in reversed(list(table.columns))}
    notes: dict[str, Any] = {}
    source = next((name for name in (*PROBABILITY_NAMES, "logit", "label") if name in folded), None)
    if "id" not in folded or source is None:
        missing = "id" if "id" not in folded else "probability"
        found = [str(name) for name in table.columns]
        raise ScoresProblem(
            f"a column 'id' and one of {', '.join(PROBABILITY_NAMES)}, logit or label in {shown(path)}",
            f"no {missing} among {', '.join(shown(name) for name in found[:20])}",
            f"{nearest(missing, found)}; rename that column" if found else "name a file with predictions",
        )
    ours: dict[str, Any] = {"id": table[folded["id"]].astype(str)}
    ours["group"] = table[folded["group"]].astype(str) if "group" in folded else ""
    given = _numbers(table[folded[source]], source, path)
    if "label" in folded and source != "label":
        label = table[folded["label"]]
        ours["label"] = _numbers(label.where(label.astype(str) != "", "-1"), "label", path)
    else:
        ours["label"] = -1
    ours["probability"] = probability_of(given) if source == "logit" else given
    if "logit" in folded:
        ours["logit"] = _numbers(table[folded["logit"]], "logit", path)
    else:
        ours["logit"] = np.nan_to_num(logit_of(given))
        notes["clipped"] = int(np.sum((given < CLIP) | (given > 1 - CLIP)))
    if source != "probability":
        notes["probability_from"] = source
    for name in table.columns:
        if str(name).strip().lower() not in {*COLUMNS, source}:
            ours[str(name)] = table[name]
    return pd.DataFrame(ours), notes


def _numbers(column: "pd.Series[Any]", name: str, path: Path) -> Floats:
    """Return the column as float64, exactly as written; a cell that is no number is named with its row."""
    try:
        return np.asarray(column.to_numpy(dtype=object).astype(np.float64), dtype=np.float64)
    except (TypeError, ValueError):
        for row, cell in enumerate(column, start=1):
            try:
                float(cell)
            except (TypeError, ValueError) as error:
                raise ScoresProblem(
                    f"a number in column {shown(name)} of {shown(path)}",
                    f"{shown(cell)} in row {row}",
                    "write a number there, or leave the tile out of both the scores and the test store",
                ) from error
        raise


def align(scores: Scores, rows: pd.DataFrame) -> Scores:
    """Join scores onto a store's rows by id; the result has the rows' order, labels and groups.

    `header["labels_overruled"]` counts known labels of the scores that the store contradicts.

    Raises
    ------
    ScoresProblem
        If an id stands on one side only: scores must cover the store, all of it and nothing else.
    """
    index = pd.Index(scores.table["id"])
    wanted = pd.Index(rows["id"].astype(str))
    if wanted.has_duplicates:
        raise ScoresProblem(
            "a store with every id once", f"{shown(wanted[wanted.duplicated()][0])} twice", "pack the store again"
        )
    at = index.get_indexer(wanted)
    n_joined = int((at >= 0).sum())
    if n_joined < len(wanted) or n_joined < len(index):
        lacking, foreign = wanted[at < 0], index[~index.isin(wanted)]
        sides = []
        if len(lacking):
            sides.append(f"{len(lacking):,} tiles without a score, such as {', '.join(shown(i) for i in lacking[:3])}")
        if len(foreign):
            sides.append(f"{len(foreign):,} scores without a tile, such as {', '.join(shown(i) for i in foreign[:3])}")
        raise ScoresProblem(
            f"one score for each of the store's {len(wanted):,} tiles, by id",
            f"{n_joined:,} that join, " + " and ".join(sides),
            "score this very store, or name the store that was scored",
        )
    table = scores.table.iloc[at].reset_index(drop=True)
    label = rows["label"].to_numpy(np.int8)
    given = table["label"].to_numpy(np.int8)
    overruled = int(np.sum((given >= 0) & (label >= 0) & (given != label)))
    joined = table.assign(label=label, group=rows["group"].astype(str).to_numpy())
    return Scores(checked(joined, "the aligned table"), scores.header | {"labels_overruled": overruled})
