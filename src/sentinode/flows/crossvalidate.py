"""The command `crossvalidate`: one training a fold, each judged on the tiles that it was not shown."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sentinode.errors import UsageProblem, shown
from sentinode.fit.pick import check_can_follow
from sentinode.fit.probe import colour_histogram, load_floor
from sentinode.fit.train import checked, train
from sentinode.flows.evaluate import OUT_OF_FOLD
from sentinode.flows.rungs import part_of, scored
from sentinode.judge.compare import auroc_figure
from sentinode.judge.foldwise import Fold, mean_over_folds
from sentinode.judge.statement import Figure, slides_of
from sentinode.machine.memory import memory_problems
from sentinode.nets.trained import Run, load, weights_digest
from sentinode.progress import Progress
from sentinode.report.folds import write_folds
from sentinode.run import claim_folder, read_json, write_json
from sentinode.scores import Scores, logit_of, write_scores, write_table
from sentinode.settings import CrossvalidateSettings, TrainSettings, check_resamples, resolved, settings_from
from sentinode.tiles.holdout import DOMAINS, Folds, domain_folds, held_of, make_folds
from sentinode.tiles.split import GUESSED, OPTIMISTIC
from sentinode.tiles.store import Store, open_store

FORMAT = 1
"""Version of crossvalidation.json."""
PROTOCOLS = {
    name: f"{OUT_OF_FOLD}, {what}"
    for name, what in (
        ("tile", "random tiles"),
        ("slide", "other slides"),
        ("pseudo-group", "other pseudo-groups, which are no slides"),
        ("domain", "other domains"),
    )
}
"""How a judgement of the scores calls what was held out."""
LEAKY = {
    "tile": (f"the folds are random tiles: {OPTIMISTIC.partition(': ')[2]}",),
    "pseudo-group": (f"the folds are pseudo-groups, which are no slides: {GUESSED.partition(': ')[2]}",),
}
"""What to beware of where folds do not keep slides whole."""


@dataclass(frozen=True)
class CrossValidation:
    """Every fold judged once: the folder, and what crossvalidation.json holds."""

    out: Path
    values: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {"out": str(self.out)} | self.values

    def runs(self) -> list[Run]:
        """Return the folds' runs; together they are an ensemble that was shown all tiles."""
        return [load(self.out / row["run"]) for row in self.values["folds"]]

    def __repr__(self) -> str:
        """Return `lines` as one text: what a notebook shows."""
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """Return the table for a terminal, warnings first."""
        values, mean = self.values, self.values["mean"]
        wide = max(14, *(len(shown(row["fold"], 30)) for row in values["folds"]))
        lines = [f"warning: {text}" for text in values["warnings"]]
        lines.append(f"{'held out':<{wide}}{'tiles':>8}{'positive':>10}{'slides':>8}  AUROC (95 % interval)      colour alone")
        for row in values["folds"]:
            slides = f"{row['n_groups']:,}" if row["n_groups"] else "-"
            counts = f"{row['n']:>8,}{row['n_positive']:>10,}{slides:>8}"
            lines.append(f"{shown(row['fold'], 30)[1:-1]:<{wide}}{counts}  {told(row['auroc'])}   {row['floor']['estimate']:.4f}")
        for name, title in (("auroc", "mean"), ("difference", "above colour")):
            lines.append(f"{title:<{wide}}{'':>26}  {told(mean[name])}   {mean[name]['method']}")
        lines.append(f"{'pooled':<{wide}}{'':>26}  {told(values['pooled'])}   {values['pooled']['method']}")
        lines.append(f"scores out of fold: {shown(self.out / 'oof.parquet')}; picture: {shown(self.out / 'figures/folds.png')}")
        return lines


def told(figure: dict[str, Any]) -> str:
    """Return an estimate with its interval."""
    return f"{figure['estimate']:.4f} ({figure['low']:.4f} to {figure['high']:.4f})"


@memory_problems()
def crossvalidate(
    store: str | Path,
    *,
    out: str | Path,
    settings: CrossvalidateSettings | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    **options: Any,
) -> CrossValidation:
    """Train once a fold; each run is judged on the fold, which neither trained it nor chose its epoch or threshold.

    Of what is not held out a part (`valid_share`) chooses, as in `train`. Folds depend on ids alone, not on `seed`.

    Parameters
    ----------
    store
        A packed store with labels.
    out
        The folder to write: a run a fold, oof.parquet (the scores of every tile by the run that was not shown it), folds.csv,
        crossvalidation.json and figures.
    settings, options
        A `CrossvalidateSettings`, and single settings by name over it; `folds` may be a number.
    resume
        Go on with unfinished work of the same settings and tiles; a finished one is opened.
    overwrite
        Replace what is there.
    quiet
        Say nothing.

    Returns
    -------
    CrossValidation
        As in crossvalidation.json: each fold's AUROC, the mean over folds, and that of all scores pooled.

    Raises
    ------
    UsageProblem, StoreProblem, SplitProblem, RunProblem, MachineProblem
        For settings, tiles, splits, folders and machines that do not fit.
    UndefinedScore
        If a fold is too small for an interval.
    """
    if isinstance(options.get("folds"), int):
        options["folds"] = str(options["folds"])
    settings = settings_from(CrossvalidateSettings, settings, options)
    check_can_follow(resolved(checked(settings)))
    check_resamples(settings.resamples)
    folder, progress, opened = Path(out), Progress(quiet), open_store(store)
    opened.need_tiles()
    folds = folds_for(opened, settings)
    held = hashlib.sha256(folds.fold.tobytes()).hexdigest()[:32]
    facts = {"settings": dataclasses.asdict(settings), "store": opened.digest, "names": list(folds.names), "held_out": held}
    started = {"fingerprint": hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32], **facts}
    if claim_folder(folder, "crossvalidation.json", resume=resume, overwrite=overwrite) and is_whole(folder, started):
        return CrossValidation(folder, read_json(folder / "crossvalidation.json"))
    write_json(folder / "unfinished.json", started)
    runs, tables = [], []
    for at, name in enumerate(folds.names):
        progress.say(f"fold {at + 1} of {len(folds.names)}: {shown(name)} is held out")
        run = train_fold(folder / f"fold-{at + 1}", opened, settings, name, quiet)
        runs.append(run)
        tables.append(judged(folder, run, opened, folds, at, settings, progress))
    values = started | summary(tables, folds, runs, settings) | {"format": FORMAT}
    write_results(folder, values, pd.concat(tables, ignore_index=True), opened, runs)
    return CrossValidation(folder, read_json(folder / "crossvalidation.json"))


def folds_for(store: Store, settings: CrossvalidateSettings) -> Folds:
    """Return the folds of a store, each with both classes; UsageProblem for settings that name none."""
    if settings.fold:
        do = "leave --fold out: every fold is held out once"
        raise UsageProblem("--folds for a cross-validation", f"--fold {shown(settings.fold)}", do)
    if settings.folds == DOMAINS:
        folds = domain_folds(store.rows, settings.domains)
    elif not settings.folds.strip().isdecimal():
        raise UsageProblem(f"a number of folds, or {DOMAINS}", shown(settings.folds), "write --folds 5")
    elif settings.domains is not None:
        found = f"--domains with --folds {settings.folds}"
        raise UsageProblem(f"--folds {DOMAINS} beside --domains", found, f"write --folds {DOMAINS}, or leave --domains out")
    else:
        folds = make_folds(store.rows, int(settings.folds), settings.split)
    for at in range(len(folds.names)):
        held_of(store.rows, folds, at)
    return folds


def is_whole(folder: Path, started: dict[str, Any]) -> bool:
    """Return whether `folder` holds this cross-validation, finished; UsageProblem where it is another one."""
    mark = folder / "unfinished.json"
    then = read_json(mark if mark.exists() else folder / "crossvalidation.json")
    if then.get("fingerprint") != started["fingerprint"]:
        before = then.get("settings", {})
        changed = [
            f"{name} {shown(value)}, not {shown(before[name])}"
            for name, value in started["settings"].items()
            if name in before and before[name] != value
        ]
        raise UsageProblem(
            f"the settings and tiles that {shown(folder)} was started with",
            "; ".join(changed) or "other tiles or domains",
            "resume with the same command, or start anew with --overwrite",
        )
    return not mark.exists()


def train_fold(home: Path, store: Store, settings: CrossvalidateSettings, name: str, quiet: bool) -> Run:
    """Train the run that is not shown fold `name`, go on with an unfinished one, or open a finished one."""
    plain = {one.name: getattr(settings, one.name) for one in dataclasses.fields(TrainSettings)}
    given = resolved(TrainSettings(**plain | {"fold": name}))  # nothing is left open: folds are of one recipe
    return train(store, out=home, settings=given, resume=home.exists(), quiet=quiet)


def judged(
    folder: Path, run: Run, store: Store, folds: Folds, at: int, settings: CrossvalidateSettings, progress: Progress
) -> pd.DataFrame:
    """Return the scores of fold `at` by the run that was not shown it: a table of scores with fold and floor_probability."""
    rows = np.flatnonzero(folds.fold == at).astype(np.int64)
    part = part_of("held-out", store, rows, settings.resamples)
    logits, _ = scored(folder, run, part, settings.views, settings.device, progress)
    floor = load_floor(run.path / "floor.npz").probability(colour_histogram(store.tiles, rows))
    return part.scores(logits, {}).table.assign(fold=folds.names[at], floor_probability=floor)


def summary(tables: list[pd.DataFrame], folds: Folds, runs: list[Run], settings: CrossvalidateSettings) -> dict[str, Any]:
    """Return each fold's figures, the mean over folds, all scores pooled, and what to beware of."""
    parts, rows = [], []
    for table, run in zip(tables, runs, strict=True):
        labels, groups = table["label"].to_numpy(np.int64), table["group"].astype(str).to_numpy()
        floor = logit_of(table["floor_probability"].to_numpy(np.float64))
        fold = Fold(str(table["fold"].iloc[0]), labels, table["logit"].to_numpy(np.float64), floor, groups)
        parts.append(fold)
        auroc, colour = (figure_of(fold, given, settings) for given in (fold.scores, floor))
        rows.append(
            {
                "fold": fold.name,
                "run": run.path.name,
                "n": labels.size,
                "n_positive": int(labels.sum()),
                "n_groups": auroc.n_groups,
            }
            | {"auroc": auroc.as_dict(), "floor": colour.as_dict(), "trained_on": run.record["data"]["train"]["n"]}
        )
    mean, floor_mean, difference = mean_over_folds(parts)
    whole = pd.concat(tables, ignore_index=True)
    slides = slides_of(whole["group"].astype(str).to_numpy())
    pooled = auroc_figure(whole["label"].to_numpy(np.int64), whole["logit"].to_numpy(np.float64), slides, settings.resamples)
    said = [
        text for run in runs for text in run.record["warnings"] if "held out" not in text and text not in (OPTIMISTIC, GUESSED)
    ]
    return {
        "by": folds.by,
        "n": len(whole),
        "n_groups": slides.n,
        "folds": rows,
        "mean": {"auroc": mean.as_dict(), "floor": floor_mean.as_dict(), "difference": difference.as_dict()},
        "pooled": pooled.as_dict(),
        "warnings": list(dict.fromkeys([*LEAKY.get(folds.by, ()), *said, *slides.warnings])),
    }


def figure_of(fold: Fold, scores: Any, settings: CrossvalidateSettings) -> Figure:
    """Return the AUROC of one fold."""
    return auroc_figure(fold.labels, scores, slides_of(fold.groups), settings.resamples)


def write_results(folder: Path, values: dict[str, Any], table: pd.DataFrame, store: Store, runs: list[Run]) -> None:
    """Write oof.parquet, folds.csv, the picture, and crossvalidation.json last; then it is finished."""
    header = {"store": store.digest, "runs": [weights_digest(run.path) for run in runs], "views": values["settings"]["views"]}
    write_scores(folder / "oof.parquet", Scores(table, header | {"protocol": PROTOCOLS[values["by"]]}))
    lines = pd.DataFrame(
        {name: row[name] for name in ("fold", "run", "trained_on", "n", "n_positive", "n_groups")}
        | {f"{kind}_{end}": row[kind][end] for kind in ("auroc", "floor") for end in ("estimate", "low", "high")}
        for row in values["folds"]
    )
    write_table(folder / "folds.csv", lines)
    write_folds(folder / "figures", values)
    write_json(folder / "crossvalidation.json", values)
    (folder / "unfinished.json").unlink()
