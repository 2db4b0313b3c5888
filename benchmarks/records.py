"""A record: what was measured, under which conditions, raw. README's numbers are filled from records and from nowhere else.

`records/DATE-SUITE/` holds `run.json` (everything, raw values included) and `README.md` (the same as a page). A record is never
written over: a second run on the same day becomes `DATE-SUITE-2`.
"""

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.clock import Measured, rate, ratio, spread
from sentinode.errors import DataProblem, shown
from sentinode.machine.probe import probe
from sentinode.run import read_json, write_bytes, write_json

RECORDS = Path(__file__).parent / "records"
"""Where records live."""
FORMAT = 1
"""Version of `run.json`."""
PACKAGES = ("torch", "torchvision", "timm", "openvino", "numpy", "pillow", "pandas", "pyarrow", "scikit-learn", "sentinode")
"""Whose versions a record names."""


@dataclass(frozen=True)
class Figure:
    """One figure that README may quote: `text` as it is to stand there, `value` in `unit`, the bar it was to reach, low and high."""

    value: float
    text: str
    unit: str = ""
    bar: float | None = None
    higher_is_better: bool = True
    span: tuple[float, float] | None = None

    @property
    def reached(self) -> bool | None:
        """Whether the bar is reached; None without a bar."""
        if self.bar is None:
            return None
        return self.value >= self.bar if self.higher_is_better else self.value <= self.bar


@dataclass
class Record:
    """One run of a suite. `variants` says in words what each name does; `raw` holds every repeat of each."""

    suite: str
    clock: str
    variants: dict[str, str]
    raw: dict[str, list[Measured]]
    figures: dict[str, Figure]
    conditions: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def conditions(**more: Any) -> dict[str, Any]:
    """Return what a figure depends on: machine, versions, threads, load, code; `more` is the suite's own (n, repeats, batch)."""
    import torch

    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": asdict(probe()),
        "threads": torch.get_num_threads(),
        "environment": {
            name: value for name, value in os.environ.items() if name.startswith(("OMP_", "MKL_", "KMP_", "MALLOC_"))
        },
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "versions": {name: _version(name) for name in PACKAGES} | {"python": platform.python_version()},
        "git": {"sha": _git("rev-parse", "HEAD"), "dirty": bool(_git("status", "--porcelain", "--untracked-files=no"))},
        "command": "python -m " + " ".join(["benchmarks." + Path(sys.argv[0]).stem, *_arguments()]),
        **more,
    }


def write_record(record: Record, root: Path = RECORDS, date: str | None = None) -> Path:
    """Write `record` to a new folder under `root` and return it."""
    name = f"{date or datetime.now(UTC).date().isoformat()}-{record.suite}"
    folder, again = root / name, 1
    while folder.exists():
        again += 1
        folder = root / f"{name}-{again}"
    load = os.getloadavg() if hasattr(os, "getloadavg") else None
    ended = {"ended": datetime.now(UTC).isoformat(timespec="seconds"), "load_average_at_end": list(load) if load else None}
    whole = asdict(record) | {"format": FORMAT, "conditions": record.conditions | ended}
    write_json(folder / "run.json", whole)
    write_bytes(folder / "README.md", page(record).encode())
    return folder


def read_record(folder: Path) -> Record:
    """Read one record back; DataProblem for one that is cut, foreign or of another version."""
    whole = read_json(folder / "run.json", DataProblem)
    if whole.pop("format", None) != FORMAT:
        raise DataProblem(f"a record of format {FORMAT} in {shown(folder)}", "another format", "run the suite again")
    try:
        figures = {name: Figure(**figure) for name, figure in whole.pop("figures").items()}
        return Record(figures=figures, **whole)
    except (TypeError, KeyError, AttributeError) as error:
        raise DataProblem(f"a whole record in {shown(folder)}", str(error), "run the suite again") from error


def newest(suite: str, root: Path = RECORDS) -> Path | None:
    """Return the folder of the newest record of `suite`, or None where there is none."""
    found = []
    for folder in root.glob(f"????-??-??-{suite}*"):
        rest = folder.name[len("0000-00-00-") + len(suite) :]
        if rest == "" or (rest.startswith("-") and rest[1:].isdigit()):
            found.append((folder.name[:10], int(rest[1:] or 1), folder))
    return max(found)[2] if found else None


def latest(suite: str, root: Path = RECORDS) -> Record:
    """Return the newest record of `suite`; DataProblem where there is none."""
    folder = newest(suite, root)
    if folder is None:
        raise DataProblem(f"a record of suite {shown(suite)}", f"none in {shown(root)}", f"run python -m benchmarks.{suite}")
    return read_record(folder)


def table(record: Record) -> str:
    """Return the record's measurements as a Markdown table: a line a variant, then a line a figure."""
    lines = ["| what | tiles/s: median (range) | repeats |", "| --- | --- | --- |"] if record.variants else []
    for name, words in record.variants.items():
        s = spread([rate(m) for m in record.raw[name]])
        lines.append(f"| {words} | {s['median']:,.0f} ({s['low']:,.0f} to {s['high']:,.0f}) | {len(record.raw[name])} |")
    lines += [*([""] if lines else []), "| figure | value | bar |", "| --- | --- | --- |"]
    for name, figure in record.figures.items():
        bar = (
            ""
            if figure.bar is None
            else f"{figure.bar:g} {figure.unit.strip()}: {'reached' if figure.reached else 'NOT reached'}"
        )
        lines.append(f"| {name} | {figure.text} | {bar} |")
    return "\n".join(lines)


def page(record: Record) -> str:
    """Return the record as a page: what the clock holds, the tables, the conditions, how to run it again."""
    machine, versions = record.conditions["machine"], record.conditions["versions"]
    where = f"{machine['cores']} cores of {machine['cpu']}, {machine['memory'] / 2**30:.0f} GiB"
    gpus = ", ".join(gpu["name"] for gpu in machine["gpus"])
    parts = [
        f"# {record.suite}: {record.conditions['started'][:10]}",
        f"Inside the clock: {record.clock}",
        table(record),
        "\n".join(f"- {note}" for note in [*record.notes, *warnings(record.conditions)]),
        f"On {where}{', ' + gpus if gpus else ''}; load average at the start {record.conditions['load_average']}; "
        + ", ".join(f"{name} {number}" for name, number in versions.items() if number)
        + f"; commit {record.conditions['git']['sha'][:12]}{' (changed)' if record.conditions['git']['dirty'] else ''}. "
        "Every raw value is in `run.json`.",
        f"Again: `{record.conditions['command']}`",
    ]
    return "\n\n".join(parts) + "\n"


def warnings(found: dict[str, Any]) -> list[str]:
    """Return what makes these conditions poor ones for a figure."""
    cores, threads, load = found["machine"]["cores"], found["threads"], found["load_average"]
    said = []
    if threads != cores:
        said.append(f"POOR CONDITIONS: {threads} threads on {cores} cores (OMP_NUM_THREADS?).")
    if load is not None and load[0] > 0.5 * cores:
        said.append(f"POOR CONDITIONS: a load average of {load[0]:.1f} on {cores} cores before the start.")
    if found["git"]["dirty"]:
        said.append("POOR CONDITIONS: the code differs from its commit.")
    return said


def figure(value: Mapping[str, float] | float, unit: str, *, bar: float | None = None, digits: int = 1) -> Figure:
    """Return a figure with its text: "9.1x (8.8 to 9.5)" of a spread, or one number, as of a single turn."""
    found = value if isinstance(value, Mapping) else {"median": value, "low": value, "high": value}
    one, low, high = (f"{found[key]:,.{digits}f}" for key in ("median", "low", "high"))
    if found["low"] == found["high"]:
        return Figure(found["median"], f"{one}{unit}", unit, bar)
    return Figure(found["median"], f"{one}{unit} ({low} to {high})", unit, bar, span=(found["low"], found["high"]))


def share(raw: Mapping[str, list[Measured]], ours: str, bound: str) -> Figure:
    """Return how near to a bound ours comes: its rate in per cent of the bound's, each turn paired with its neighbour."""
    return figure({name: 100 * value for name, value in ratio(raw, ours, bound).items()}, " %", digits=0)


def share_of_peak(taken: list[Measured]) -> Figure:
    """Return the share of the convolution peak that these turns reached, in per cent."""
    return figure(spread([100 * one["share_of_peak"] for one in taken]), " %")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _git(*command: str) -> str:
    """Return what git says about the code that runs, or "" where there is no git or no repository."""
    try:
        done = subprocess.run(["git", *command], cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _arguments() -> list[str]:
    """Return the command's arguments without folders of this machine."""
    return ["DIR" if os.sep in word else word for word in sys.argv[1:]]
