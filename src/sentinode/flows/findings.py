"""What a search has found: the trials as a table, the best, what it is worth; and what differs between two searches."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentinode.errors import RunProblem, shown
from sentinode.fit.trials import Trial, read_trials
from sentinode.judge.optimism import Optimism
from sentinode.report.search import named
from sentinode.run import read_json

SHOWN = 20
"""Trials that the terminal's table holds at most."""


@dataclass(frozen=True)
class Study:
    """A search: `path`, its `trials` by number, and `record` (study.json; empty while other processes still work on it)."""

    path: Path
    trials: list[Trial]
    record: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return the record and the folder."""
        return {"study": str(self.path)} | self.record

    def __repr__(self) -> str:
        """Return `lines` as one text: what a notebook shows."""
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """Return the best trials as a table of bounded length, and what the best is worth."""
        ranked = sorted(self.trials, key=lambda trial: (trial.state != "done", -(trial.auroc or 0.0), trial.number))
        lines = table([line_of(trial) for trial in ranked[:SHOWN]])
        if len(ranked) > SHOWN:
            lines.append(f"... and {len(ranked) - SHOWN:,} more in trials.csv")
        lines += self.failures()
        if not self.record:
            return [*lines, "other processes are still at work on this study; the last one to end writes the result"]
        for taken in self.record["about"].get("extractions", []):
            was = "found again" if taken["cached"] else "taken once"
            lines.append(f"features   {taken['model']}, {taken['input_px']} px: {was}, {taken['seconds']:.1f} s, for all trials")
        optimism = self.record["optimism"]
        told = Optimism(**optimism).lines() if "estimate" in optimism else [f"selection optimism: {optimism['why_not']}"]
        best = self.record["best"]
        return [*lines, f"best       trial {best['number']}, valid AUROC {best['auroc']:.4f}: {shown(self.path / 'best')}", *told]

    def failures(self) -> list[str]:
        """Return how many trials failed and why the first one did, in at most one line."""
        failed = [trial for trial in self.trials if trial.state == "failed"]
        if not failed:
            return []
        why = shown(failed[0].note, 240).strip("'")
        return [f"failed     {len(failed)} of {len(self.trials)} trials; trial {failed[0].number}: {why}"]


def open_study(folder: Path) -> Study:
    """Open a finished study."""
    record = read_json(folder / "study.json")
    trials = {trial.number: trial for trial in read_trials(folder / "trials")}
    return Study(folder, [trials[number] for number in record["trials"] if number in trials], record)


def best_of(trials: list[Trial]) -> Trial:
    """Return the trial of the highest AUROC that is done, the first of equals; RunProblem tells why there is none."""
    done = [trial for trial in trials if trial.state == "done"]
    if not done:
        why = shown(trials[0].note, 280).strip("'")
        raise RunProblem("a trial that ends well", f"none of {len(trials)}: {why}", "change what all trials share")
    return max(done, key=lambda trial: (trial.auroc or 0.0, -trial.number))


def differences(then: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """Yield what differs between two searches, in words."""
    for part, what in (("grid", "in the grid"), ("settings", "")):
        old, new = then.get(part, {}), now[part]
        for name in dict.fromkeys([*old, *new]):
            if old.get(name) != new.get(name):
                yield f"{name} {shown(new.get(name, 'absent'))}, not {shown(old.get(name, 'absent'))} {what}".strip()
    if then.get("tiles") != now["tiles"]:
        yield "other tiles"
    if "storage" in then and then["storage"] != now.get("storage"):
        yield f"--storage {shown(now.get('storage'))}, not {shown(then['storage'])}"
    if then.get("space") != now["space"] and then.get("grid") == now["grid"]:
        yield "another space to draw from"


def line_of(trial: Trial) -> dict[str, str]:
    """Return a trial as words by column."""
    figures = {"valid AUROC": "" if trial.auroc is None else f"{trial.auroc:.4f}", "epochs": str(trial.epochs)}
    options = {name: named(value) for name, value in trial.options.items()}
    return {"trial": str(trial.number)} | options | figures | {"seconds": f"{trial.seconds:.1f}", "": trial.state}


def table(rows: list[dict[str, str]]) -> list[str]:
    """Return rows of equal columns as aligned lines, their names first."""
    most = max(rows, key=len)  # a row may lack a setting that its trial does not read
    names = list(dict.fromkeys([*most, *(name for row in rows for name in row)]))
    widths = {name: max(len(name), *(len(row.get(name, "")) for row in rows)) for name in names}
    whole = [{name: name for name in names}, *rows]
    return ["  ".join(row.get(name, "").rjust(widths[name]) for name in names).rstrip() for row in whole]
