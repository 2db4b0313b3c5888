"""The command `compare`: runs and anyone's predictions against each other and against the floor, on the same tiles."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sentinode.errors import ScoresProblem, UsageProblem, shown
from sentinode.fit.probe import colour_histogram
from sentinode.flows.evaluate import floor_of, labelled_store, origin_of, remarks_on, scored
from sentinode.flows.evidence import command_line, made_by
from sentinode.flows.recipes import Made, made_of, recipes_of
from sentinode.judge.auroc import auroc
from sentinode.judge.comparison import Comparison, Provenance, plain
from sentinode.judge.contest import contest
from sentinode.judge.spread import Cell, spread_of
from sentinode.judge.statement import slides_of
from sentinode.progress import Progress
from sentinode.run import claim_folder, not_left_empty, write_json
from sentinode.scores import Scores, write_scores
from sentinode.settings import CompareSettings, settings_from
from sentinode.tiles.passport import Marks, marks_of
from sentinode.tiles.split import read_split
from sentinode.tiles.store import Store

Floats = npt.NDArray[np.float64]
FLOOR = "colour floor"
"""Name of the contestant that knows colour alone."""


@dataclass(frozen=True)
class Given:
    """One input: its name, the run it is (None: a table), its scores of the test store, its provenance and remarks."""

    name: str
    run: Path | None
    scores: Scores
    provenance: Provenance
    remarks: tuple[str, ...]
    made: Made | None = None


def compare(
    *inputs: str | Path,
    test: str | Path,
    out: str | Path,
    settings: CompareSettings | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    **options: Any,
) -> Comparison:
    """Say which of the inputs is better on a store with labels, and which are not told apart.

    All pairs are compared, the colour floor among them. Runs of one recipe that differ in seed or fold are one contestant, the mean
    of their AUROCs, so that they do not pass for more slides than there are.

    Parameters
    ----------
    inputs
        At least two run folders or tables of predictions.
    test
        The store to judge on.
    out
        Folder for report.html, comparison.json, scores.parquet and figures.
    settings, options
        A `CompareSettings`, and single settings by name over it.
    overwrite
        Replace a comparison that is there.
    quiet
        Say nothing.

    Returns
    -------
    Comparison
        As in comparison.json.

    Raises
    ------
    UsageProblem, RunProblem, ScoresProblem, StoreProblem
        For inputs that do not fit.
    UndefinedScore
        If the store's labels do not allow a figure.
    """
    settings = settings_from(CompareSettings, settings, options)
    if len(inputs) < 2:
        raise UsageProblem(
            "at least two runs or scores files", f"{len(inputs)}", "sentinode compare A B ... --test T.store --out DIR"
        )
    if not 0.5 <= settings.power < 1:
        raise UsageProblem("a power from 0.5 to below 1", f"{settings.power:g}", "change --power; 0.8 is the default")
    folder, progress, store = Path(out), Progress(quiet), labelled_store(Path(test))
    names = names_of([Path(one) for one in inputs])
    claim_folder(folder, "comparison.json", resume=False, overwrite=overwrite)
    with not_left_empty(folder):
        # Once for all runs: it reads every pixel.
        labelled = np.flatnonzero(store.rows["label"].to_numpy() >= 0)
        marks = marks_of(store.tiles, labelled) if any(Path(one).is_dir() for one in inputs) else None
        given = [
            given_of(name, Path(one), store, marks, settings.views, quiet=quiet) for name, one in zip(names, inputs, strict=True)
        ]
        progress.say("comparing: intervals, pairs, ranks, floor")
        floor = floor_of(settings, [one.run for one in given if one.run])
        beside = floor.probability(colour_histogram(store.tiles)) if floor else None
        comparison = compared(given, beside, store, settings)
        command = command_line(["compare", *map(str, inputs), "--test", str(test), "--out", str(out)], settings)
        record = made_by(command, store, [one.run for one in given if one.run])
        comparison = replace(comparison, about={**comparison.about, "record": record})
        write_results(folder, given, beside, comparison)
    return comparison


def names_of(inputs: Sequence[Path]) -> list[str]:
    """Return a name for each input: that of its folder or file, with as many parents as it takes to tell them apart."""
    whole = [path.resolve() for path in inputs]
    for at, path in enumerate(whole):
        if path in whole[:at]:
            raise UsageProblem("every contestant once", f"{shown(inputs[at])} twice", "name each once")
    parts = [(*path.parent.parts, path.name if path.is_dir() else path.stem) for path in whole]
    if len(set(parts)) < len(parts):  # a.csv and a.parquet
        parts = [path.parts for path in whole]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return [f"{name} (input)" if name == FLOOR else name for name in names]


def given_of(name: str, path: Path, store: Store, marks: Marks | None, views: int, *, quiet: bool) -> Given:
    """Score or read one input, join it to the store, and look up what it has seen; `marks` are the labelled tiles'."""
    try:
        runs, scores = scored([path], store, views if path.is_dir() else 1, quiet)
    except ScoresProblem as error:
        raise ScoresProblem(f"{error.expected}, from {plain(name)}", error.found, error.do) from error
    remarks = remarks_on(scores.header, runs, store)
    if not runs:
        unknown = "what these predictions were trained on is not known: tiles they have seen cannot be excluded"
        return Given(name, None, scores, Provenance("scores"), (*remarks, unknown))
    origin = origin_of([read_split(path / "split.parquet")], store, marks)
    passport = origin.passport
    seen = passport is not None and passport.is_contaminated
    came = Provenance("run", origin.protocol, seen, passport.as_dict() if passport else None, (name,))
    return Given(name, path, scores, came, (*origin.warnings, *remarks), made_of(path))


def compared(given: Sequence[Given], floor: Floats | None, store: Store, settings: CompareSettings) -> Comparison:
    """Compare what was given: recipes put together where asked, the floor as one more contestant."""
    labels = store.rows["label"].to_numpy()
    known = labels >= 0
    recipes = recipes_of([one.made for one in given]) if settings.together else [[at] for at in range(len(given))]
    entrants: dict[str, list[Floats]] = {}
    provenance: dict[str, Provenance] = {}
    for members in recipes:
        some = [given[at] for at in members]
        name = some[0].name if len(some) == 1 else f"{some[0].name} ({len(some)} runs)"
        entrants[name] = [one.scores.table["probability"].to_numpy()[known] for one in some]
        provenance[name] = some[0].provenance if len(some) == 1 else together(some, labels[known], entrants[name])
    if floor is not None:
        entrants[FLOOR] = [floor[known]]
        provenance[FLOOR] = Provenance("floor", provenance[next(iter(provenance))].protocol)
    slides = slides_of(store.rows["group"].to_numpy()[known])
    found = contest(labels[known], entrants, slides, settings.resamples, settings.seed, settings.power)
    about = {
        "n": int(known.sum()),
        "n_positive": int((labels == 1).sum()),
        "n_groups": slides.n,
        "n_unlabelled": int((~known).sum()),
        "resamples": settings.resamples,
        "seed": settings.seed,
        "power": settings.power,
        "test_store": store.digest,
    }
    ordered = {name: provenance[name] for name in found.figures}
    return Comparison(found, ordered, (*warnings_of(given, ordered), *found.warnings), about)


def together(some: Sequence[Given], labels: npt.NDArray[Any], columns: Sequence[Floats]) -> Provenance:
    """Return where the runs of one recipe come from: the worst of their protocols, all their names, their spread."""
    cells = [Cell(one.made.seed, one.made.fold, auroc(labels, p)) for one, p in zip(some, columns, strict=True) if one.made]
    protocols = {one.provenance.protocol for one in some}
    seen = [one.provenance for one in some if one.provenance.contaminated]
    return replace(
        seen[0] if seen else some[0].provenance,
        kind="recipe",
        protocol=protocols.pop() if len(protocols) == 1 else "differs between runs",
        runs=tuple(one.name for one in some),
        spread=spread_of(cells),
    )


def warnings_of(given: Sequence[Given], provenance: dict[str, Provenance]) -> list[str]:
    """Return what the reader must know first: contamination, protocols that differ, then each input's own remarks, each once."""
    seen = [plain(name) for name, one in provenance.items() if one.contaminated]
    warnings = []
    if seen:
        warnings.append(
            f"contaminated: {', '.join(seen)} trained or chose on some of these tiles or slides; a lead may be memory"
        )
    protocols = {name: one.protocol for name, one in provenance.items() if one.kind != "floor"}
    if len(set(protocols.values())) > 1:
        told = "; ".join(f"{plain(name)}: {protocol}" for name, protocol in protocols.items())
        warnings.append(f"the contestants' protocols differ ({told}): their figures do not mean the same")
    by_text: dict[str, list[str]] = {}
    for one in given:
        for text in one.remarks:
            by_text.setdefault(text, []).append(plain(one.name))
    return warnings + [f"{', '.join(names)}: {text}" for text, names in by_text.items()]


def write_results(folder: Path, given: Sequence[Given], floor: Floats | None, comparison: Comparison) -> None:
    """Write scores.parquet (a probability column an input), the picture, the page, and comparison.json last."""
    from sentinode.report.comparison import comparison_picture, write_comparison
    from sentinode.report.contest import write_page

    write_json(folder / "unfinished.json", {"command": "compare"})
    columns: dict[str, Any] = {f"probability_{number}": one.scores.table["probability"] for number, one in enumerate(given, 1)}
    columns |= {} if floor is None else {"floor_probability": floor}
    first = given[0].scores.table[["id", "group", "label", "logit", "probability"]]
    named = {f"probability_{number}": one.name for number, one in enumerate(given, 1)}
    write_scores(folder / "scores.parquet", Scores(first.assign(**columns), {"columns": named}))
    values = comparison.as_dict()
    write_comparison(folder / "figures", values)
    spreads = {name: one.spread.lines() for name, one in comparison.provenance.items() if one.spread}
    write_page(folder / "report.html", values, spreads, comparison.plans(), comparison_picture(values))
    write_json(folder / "comparison.json", values)
    (folder / "unfinished.json").unlink()
