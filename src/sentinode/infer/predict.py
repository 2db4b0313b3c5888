"""The command `predict`: runs over tiles, a table of scores or a submission out."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sentinode.errors import RunProblem, SourceProblem, UsageProblem, shown
from sentinode.infer.ensemble import mean_logit, members_of
from sentinode.infer.plan import plan_prediction
from sentinode.machine.memory import memory_problems, refusing, set_allocator
from sentinode.machine.probe import computing_in
from sentinode.machine.ranks import ALONE, Ranks, joined
from sentinode.nets.engine import FAILURES, FEW, Engine, fastest, in_whole_numbers, named
from sentinode.nets.room import with_room
from sentinode.nets.trained import Run, load, weights_digest
from sentinode.progress import Progress, Tick
from sentinode.scores import Scores, probability_of, write_scores, write_submission
from sentinode.settings import PredictSettings, settings_from
from sentinode.tiles.pack import open_or_pack
from sentinode.tiles.passport import marks_of, seen_of
from sentinode.tiles.split import read_split
from sentinode.tiles.store import Store

CALIBRATION, FEWEST = 128, 32
"""Most and fewest tiles that calibrate 8-bit whole numbers; as many others judge them."""
WORTH_S = 15.0
"""Seconds of work in plain fp32 from which on `predict` looks for a faster form. Converting a network takes a fifth of it, and for
less than that it is worth more that a prediction that is made again gives the same bytes."""
TRIALS = 40
"""A form is tried on a part of the work of at most one in so many: about eight such are computed until the choice is made."""
LABEL_TROUBLE = {"no image for label", "label is not a class"}
"""Reasons of the quarantine that concern a table of labels, not an image to score."""


def predict(
    *inputs: str | Path,
    out: str | Path,
    submission: bool = False,
    settings: PredictSettings | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    **options: Any,
) -> Scores:
    """Score every tile of the last input with the runs named before it.

    Parameters
    ----------
    inputs
        One or more run folders (several are an ensemble: the mean of their logits), then a store or anything `pack` takes.
    out
        The table to write: `.csv` or `.parquet`.
    submission
        Write `id,label` with probabilities, as Kaggle takes it; of a Kaggle folder its `test/` is scored.
    settings, options
        A `PredictSettings`, and single settings by name over it.
    overwrite
        Replace a file of that name.
    quiet
        Say nothing.

    Returns
    -------
    Scores
        One row a tile, in the order of the ids' packing.

    Raises
    ------
    UsageProblem, RunProblem, SourceProblem, StoreProblem
        For inputs that do not fit.
    """
    settings = settings_from(PredictSettings, settings, options)
    if len(inputs) < 2:
        raise UsageProblem(
            "at least one run and then tiles", f"{len(inputs)} inputs", "sentinode predict RUN... INPUT --out scores.csv"
        )
    target, tiles = Path(out), Path(inputs[-1])
    check_target(target, submission, overwrite)
    if settings.batch < 1:
        raise UsageProblem("batch of at least 1", str(settings.batch), "change --batch")
    if settings.threads < 0:
        raise UsageProblem("threads of at least 0", str(settings.threads), "change --threads")
    if submission and (tiles / "train_labels.csv").is_file() and (tiles / "test").is_dir():
        tiles = tiles / "test"
    runs = [load(run) for run in inputs[:-1]]
    with joined(settings.device) as ranks, computing_in(settings.threads):
        quiet = quiet or not ranks.first
        if ranks.world > 1 and not (tiles / "store.json").is_file():
            raise UsageProblem("a packed store for several processes", shown(tiles), "pack these tiles first: 'sentinode pack'")
        with open_or_pack(tiles, quiet=quiet) as store:
            if submission:
                check_whole(tiles, store)
            scores = score_runs(runs, store, settings, quiet=quiet, ranks=ranks)
            if ranks.first:
                scores = checked_against(runs, store, scores, Progress(quiet))
                write(scores, target, submission)
            ranks.wait()
    return scores


def write(scores: Scores, target: Path, submission: bool) -> None:
    """Write the table, or the submission."""
    if submission:
        write_submission(target, scores.table["id"].tolist(), scores.table["probability"].to_numpy())
    else:
        write_scores(target, scores)


def checked_against(runs: list[Run], store: Store, scores: Scores, progress: Progress) -> Scores:
    """Return the scores with `passport` in their header: how many of the tiles the runs have seen; said aloud if any.

    Runs that came without their split.parquet are not asked; where none has one, nothing is written.
    """
    splits = [read_split(run.path / "split.parquet") for run in runs if (run.path / "split.parquet").is_file()]
    if not splits:
        return scores
    seen = seen_of(splits, store.rows, marks_of(store.tiles, np.arange(len(store))))
    for line in seen.warnings():
        progress.say(line, always=True)
    return Scores(scores.table, scores.header | {"passport": seen.as_dict()})


def check_target(target: Path, submission: bool, overwrite: bool) -> None:
    """Raise UsageProblem unless the table can be written to `target`."""
    endings = [".csv"] if submission else [".csv", ".parquet"]
    if target.suffix not in endings:
        raise UsageProblem(f"--out that ends in {' or '.join(endings)}", shown(target.name), "change the ending")
    if target.is_dir():
        raise UsageProblem(f"a file for {shown(target)}", "a folder", "choose another --out")
    if target.exists() and not overwrite:
        raise UsageProblem(f"a new file for {shown(target)}", "one that exists", "choose another --out, or add --overwrite")


def check_whole(tiles: Path, store: Store) -> None:
    """Raise SourceProblem if an image was left out in packing: Kaggle takes a submission of all ids or none."""
    lost = [entry for entry in store.record["quarantined"] if entry[2] not in LABEL_TROUBLE]
    if lost:
        raise SourceProblem(
            f"every tile of {shown(tiles)} for a submission",
            f"{len(lost):,} that cannot be used, as {shown(lost[0][1])}: {shown(lost[0][2])}",
            "mend or remove these files, or score the others without --submission",
        )


def score_store(runs: Sequence[str | Path], store: Store, views: int = 1, quiet: bool = False) -> Scores:
    """Return the scores of `store` under the mean logit of `runs` (folders), each over `views` dihedral views, in plain fp32."""
    return score_runs([load(run) for run in runs], store, PredictSettings(views=views, precision="fp32"), quiet=quiet)  # type: ignore[arg-type]


def arithmetic_of(run: Run, store: Store, settings: PredictSettings, ranks: Ranks) -> tuple[str, str, dict[str, Any], int]:
    """Return in what arithmetic a run computes: its name, why, as `Run.logits` takes it, and how many tiles at a time.

    Of several processes each calibrates 8-bit whole numbers for itself, on the same tiles.
    """
    batch = settings.batch
    if settings.precision not in {"auto", "int8"}:
        return f"eager {settings.precision}", "asked for", {"precision": settings.precision}, batch
    engine, batch = (whole(run, store, batch), batch) if settings.precision == "int8" else measured(run, store, settings, ranks)
    return engine.name, engine.reasons, {"form": engine.call}, batch


def measured(run: Run, store: Store, settings: PredictSettings, ranks: Ranks) -> tuple[Engine, int]:
    """Return a run's fastest form for the first tiles, and how many at a time memory has room for, `settings.batch` at most.

    Of several processes the first measures for all, with regard to its own share of the work; where another cannot make that form,
    all compute in plain fp32. Little work is left to that, too, and told without a rate: made again it gives the same bytes.
    """
    transform, tiles = run.transform(), -(-len(store) // ranks.world) * settings.views
    example = min(settings.batch, len(store), max(FEW, tiles // TRIALS))
    engine, at_once = None, example

    def input_of(k: int) -> Tensor:
        inputs: Tensor = transform(torch.from_numpy(np.array(store.tiles[:k])).to(run.device))
        return inputs

    def form(name: str) -> tuple[Engine, int]:
        return with_room(lambda k: named(name, run.model, input_of(k)), example)

    if tiles <= settings.batch:
        return dataclasses.replace(form("eager fp32")[0], reasons="a batch at most: nothing is measured"), settings.batch
    if ranks.first:
        engine, at_once = with_room(lambda k: fastest(run.model, input_of(k), tiles=tiles, worth_s=WORTH_S), example)
    name = ranks.told(engine.name if engine else "")
    if engine is None:
        with suppress(*FAILURES, MemoryError):
            engine, at_once = form(name)
    if ranks.total(float(engine is None)) or engine is None:
        plain, at_once = form("eager fp32")
        engine = dataclasses.replace(plain, reasons=f"a process of this job cannot make {name}")
    return engine, settings.batch if at_once == example else at_once


def whole(run: Run, store: Store, batch: int) -> Engine:
    """Return a run's form in 8-bit whole numbers, calibrated on some of the tiles.

    Those are told by their digests, so that neither the order of the tiles nor the size of a batch changes a score; of equal tiles,
    such as blank ones, one is taken.
    """
    _, different = np.unique(store.rows["digest"].astype(str).to_numpy(), return_index=True)
    n = min(CALIBRATION, len(different) // 2)
    if n < FEWEST:
        expected, do = "different tiles to calibrate precision int8 and to judge it", "int8 pays for many; leave --precision out"
        raise UsageProblem(f"at least {2 * FEWEST} {expected}", f"{len(different)} tiles", do)
    rows = different[: 2 * n]
    tiles = run.transform()(torch.from_numpy(store.tiles[rows]).to(run.device))
    return in_whole_numbers(run.model, tiles[:n], tiles[n:], batch)


def checking(store: Store, seen: int, tick: Tick) -> Callable[[int], None]:
    """Return what is told of each batch just scored, from tile `seen` on.

    It checks that the batch's tiles are those packed, and that the next can be read.
    """
    store.check()

    def done(k: int) -> None:
        nonlocal seen
        store.check()
        store.check_pixels(store.tiles[seen : seen + k], np.arange(seen, seen + k))
        seen += k
        tick(k)

    return done


@memory_problems("use a smaller --batch, or free some memory")
def score_runs(runs: list[Run], store: Store, settings: PredictSettings, *, quiet: bool = False, ranks: Ranks = ALONE) -> Scores:
    """Return the scores of `store`: columns id, group, label, logit, probability, and each member's logit where there are several.

    The processes of `ranks` divide the tiles; each returns all scores.

    Raises StoreProblem if there is no tile, and RunProblem if the runs' tiles are of another size than the store's, of other classes
    among themselves, or of the store's classes the other way round.
    """
    store.need_tiles()
    members_of(runs)
    if runs[0].facts.px != store.px:
        raise RunProblem(
            f"tiles of {runs[0].facts.px} px, as the run was trained on", f"{store.px} px", f"pack with --px {runs[0].facts.px}"
        )
    if store.classes == runs[0].facts.classes[::-1]:
        positive = runs[0].facts.classes[1]
        raise RunProblem(
            f"{shown(positive)} as the positive class, as in {shown(runs[0].path)}",
            f"{shown(store.classes[1])} in {shown(store.path)}",
            f"pack the tiles with --positive {shown(positive)}",
        )
    set_allocator()
    progress = Progress(quiet)
    say = functools.partial(progress.say, always=True)
    plan, members = plan_prediction(settings, ranks), []
    for line in ("plan:", *plan.lines()):
        progress.say(line)
    first, last = ranks.span(len(store), settings.batch)
    for number, run in enumerate(runs, 1):
        run.model.to(plan.device)
        with refusing(plan.device):
            name, why, arithmetic, batch = arithmetic_of(run, store, settings, ranks)
            plan = plan.and_then(name, why, batch)
            progress.say(f"  arithmetic: {name} ({why})")
            with progress.track(f"run {number} of {len(runs)}", last - first) as tick:
                done = checking(store, first, tick)
                how: dict[str, Any] = {"views": settings.views, "done": done, "say": say}
                own = run.logits(store.tiles[first:last], batch, **how, **arithmetic)
                logits = ranks.gathered(own)
        members.append(logits.astype(np.float64))
    logit = mean_logit(members)
    table = pd.DataFrame(
        {
            "id": store.rows["id"].to_numpy(),
            "group": store.rows["group"].to_numpy(),
            "label": store.rows["label"].to_numpy(),
            "logit": logit,
            "probability": probability_of(logit),
        }
    )
    if len(members) > 1:
        table = table.assign(**{f"logit_{number}": member for number, member in enumerate(members, 1)})
    digests = [weights_digest(run.path) for run in runs]
    return Scores(table, {"runs": digests, "store": store.digest, "views": settings.views, "plan": dataclasses.asdict(plan)})
