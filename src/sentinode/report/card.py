"""The model card of a judgement: intended use, and what reporting guidelines ask, answered from the record or marked unknown.

The questions are in our own words, with the numbers of the items that ask them: TRIPOD+AI (Collins et al. 2024), CLAIM in its update of
2024 (Tejani et al.) and STARD-AI (Sounderajah et al. 2025). Title and abstract are a paper's, not a model's, and are left out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

UNKNOWN = "unknown"
"""What is not in the record: somebody who knows the study must say it."""
USE = (
    "Research on classifiers of histopathology tiles: comparing models, finding where they fail, teaching. Not a medical device; "
    "nothing here may be used for a diagnosis, for a decision about a patient, or on images of another kind, stain or scanner than "
    "those it was judged on."
)
"""Intended use."""
Values = dict[str, Any]
"""What judgement.json holds."""


@dataclass(frozen=True)
class Answer:
    """One question of the guidelines: what is asked, by which items, and the answer (UNKNOWN where the record has none)."""

    asked: str
    items: str
    answer: str

    @property
    def known(self) -> bool:
        """Whether the record answers at all."""
        return self.answer != UNKNOWN


def answers(values: Values) -> list[Answer]:
    """Return every question with its answer, in the order of a paper: purpose, data, model, figures, openness."""
    rows = (*PURPOSE, *DATA, *MODEL, *RESULTS, *OPENNESS)
    return [
        Answer(asked, items, answer if isinstance(answer, str) else answer(values) or UNKNOWN) for asked, items, answer in rows
    ]


def runs_of(values: Values) -> list[Values]:
    """Return what the record says of the runs that were judged."""
    return list(values.get("record", {}).get("runs", []))


def store_of(values: Values) -> Values:
    """Return what the record says of the store that was judged on."""
    return dict(values.get("record", {}).get("store", {}))


def each(values: Values, said: Callable[[Values], str]) -> str:
    """Return what is said of each run, once where they agree."""
    return "; ".join(dict.fromkeys(text for run in runs_of(values) if (text := said(run))))


def number(values: Values, name: str) -> str:
    """Return a figure with its interval, as it is written in a sentence."""
    one = values["figures"][name]
    return f"{name} {one['estimate']:.3f} ({one['low']:.3f} to {one['high']:.3f})"


def study(values: Values) -> str:
    """Say what kind of study this is."""
    what = "trained and judged here" if runs_of(values) else "judged here by its predictions alone"
    return f"Accuracy of a classifier of image tiles, {what}; AUROC is the headline."


def sources(values: Values) -> str:
    """Say where the tiles came from."""
    told = [f"{one['name']} ({one['kind']}, {one['listed']:,} listed)" for one in store_of(values).get("sources", [])]
    return f"Store {store_of(values).get('name')}: {', '.join(told)}. Centres and scanners: unknown." if told else ""


def missing(values: Values) -> str:
    """Say what was left out."""
    bad = store_of(values).get("quarantined", 0)
    return f"{values['n_unlabelled']:,} tiles without a label were left out; {bad:,} files could not be read or used. Nothing was imputed."


def reference(values: Values) -> str:
    """Say what the label is."""
    classes = store_of(values).get("classes")
    return (
        f"The label of each tile, {classes[1]} (positive) or {classes[0]} (negative). How it was made: unknown."
        if classes
        else ""
    )


def partition(values: Values) -> str:
    """Say how test tiles stand to training tiles, and what was checked."""
    seen = values.get("passport", {})
    split = each(values, lambda run: f"{run['split']} split in training" if run.get("split") else "")
    if not seen:
        return f"Protocol {values['protocol']}."
    checked = f"{seen['exact']:,} equal tiles, {seen['turned']:,} turned and {seen['near']:,} re-encoded ones"
    checked += f", {seen['slides']:,} tiles of shared slides were found"
    if seen["slides_unknown"]:
        checked += f"; of {seen['slides_unknown']:,} it is not known whether their slide is shared"
    return f"Protocol {values['protocol']}; {split + '; ' if split else ''}of {seen['n']:,} test tiles, {checked}."


def network(values: Values) -> str:
    """Say what network it is."""
    return each(values, lambda run: f"{run['network']}, {run.get('backbone') or 'scratch'}, {run['px']} px tiles")


def training(values: Values) -> str:
    """Say how it was trained."""

    def one(run: Values) -> str:
        if not run.get("settings"):
            return ""
        told = {
            name: run["settings"].get(name) for name in ("epochs", "lr", "batch", "optimizer", "balance", "dihedral", "colour")
        }
        words = ", ".join(f"{name} {value}" for name, value in told.items() if value is not None)
        return f"{run['n_train']:,} tiles; {words}; seed {run['settings'].get('seed')}"

    return each(values, one)


def table(values: Values) -> str:
    """Return the cross-table at the threshold."""
    positives, negatives = values["n_positive"], values["n"] - values["n_positive"]
    hits = round(values["figures"]["sensitivity"]["estimate"] * positives)
    passed = round(values["figures"]["specificity"]["estimate"] * negatives)
    return (
        f"{hits:,} positives called positive, {positives - hits:,} missed; {passed:,} negatives called negative, "
        f"{negatives - passed:,} false alarms."
    )


def flow(values: Values) -> str:
    """Say how many tiles were listed, packed and judged."""
    store = store_of(values)
    if not store:
        return ""
    listed = sum(one.get("listed") or 0 for one in store["sources"])
    return (
        f"{listed:,} files or rows were listed, {store['quarantined']:,} refused, {store['n']:,} packed; {values['n']:,} with a label "
        f"were judged, {values['n_positive']:,} positive and {values['n'] - values['n_positive']:,} negative."
    )


def unclear(values: Values) -> str:
    """Say what became of tiles that are not clear."""
    told = "the table of figures is of all labelled tiles"
    if "cut" not in values.get("abstention", {}):
        return f"None was set apart: {told}."
    return f'Tiles that would be left uncalled are counted under "don\'t know"; {told}.'


def imbalance(values: Values) -> str:
    """Say how common the positive class is, and whether training weighed the classes."""

    def one(run: Values) -> str:
        balance = run.get("settings", {}).get("balance")
        return "" if balance is None else f"classes weighed {'equally' if balance else 'as they come'} in training"

    share = f"{values['n_positive']:,} of {values['n']:,} test tiles are positive; figures are of this share, not of a clinic's"
    return "; ".join(filter(None, (share, each(values, one)))) + "."


def sites(values: Values) -> str:
    """Say whether the tiles are of slides or sites that were not trained on."""
    if values["protocol"] == "other slides":
        return "External to the training slides: none of these was trained on. Other sites: unknown."
    seen = {"random tiles": "tiles or slides that were trained on", "grouped": "slides that chose the epoch or the threshold"}
    return f"Internal: among them are {seen[values['protocol']]}." if values["protocol"] in seen else ""


def mistakes(values: Values) -> str:
    """Say where incorrect results are looked at."""
    shown = values.get("record", {}).get("saliency")
    return "The surest mistakes stand in their section, the worst slides in theirs, the cross-table here." if shown else ""


def spread(values: Values) -> str:
    """Say whether performance by slide is given."""
    return f"Each of {values['n_groups']:,} slides stands in the table of slides." if values.get("n_groups") else ""


def stress(values: Values) -> str:
    """Say what robustness was tested."""
    return "Dihedral views, geometry and shifts: see the section on stress." if values.get("stress") else ""


Row = tuple[str, str, str | Callable[[Values], str]]
PURPOSE: tuple[Row, ...] = (
    ("What kind of study", "TRIPOD+AI 1; CLAIM 1, 6; STARD-AI 1", study),
    ("Clinical background, and models that exist", "TRIPOD+AI 3a; CLAIM 3; STARD-AI 3", UNKNOWN),
    ("Intended use and users", "TRIPOD+AI 3b; CLAIM 3; STARD-AI 3, 15d", USE),
    ("Objectives and hypotheses", "TRIPOD+AI 4; CLAIM 4; STARD-AI 4", UNKNOWN),
    ("Known inequalities between groups of people; fairness", "TRIPOD+AI 3c, 14; STARD-AI 23, 35", UNKNOWN),
)
DATA: tuple[Row, ...] = (
    ("Sources of the tiles", "TRIPOD+AI 5a, 6a; CLAIM 7; STARD-AI 9, 11", sources),
    ("Dates of collection", "TRIPOD+AI 5b; STARD-AI 9", UNKNOWN),
    ("Planned before or after the images were taken", "CLAIM 5; STARD-AI 5", UNKNOWN),
    ("Who and what was eligible, and how it was chosen", "TRIPOD+AI 6b; CLAIM 8, 10; STARD-AI 7, 8, 10", UNKNOWN),
    ("Treatment before the images", "TRIPOD+AI 6c", UNKNOWN),
    ("Patients: age, sex, disease", "TRIPOD+AI 20b; CLAIM 36; STARD-AI 25, 26a, 26b", UNKNOWN),
    ("De-identification", "CLAIM 11", UNKNOWN),
    ("Stain, scanner and magnification", "CLAIM 13; STARD-AI 13, 14", UNKNOWN),
    ("What is predicted; reference standard", "TRIPOD+AI 8a; CLAIM 14, 15; STARD-AI 16a, 16b, 16c", reference),
    (
        "Who labelled, with what, blinded to what, how far raters agree",
        "TRIPOD+AI 8b, 8c; CLAIM 16, 17, 18; STARD-AI 12, 17b",
        UNKNOWN,
    ),
    ("Time between image and reference standard", "STARD-AI 27", UNKNOWN),
    ("Missing data", "TRIPOD+AI 11; CLAIM 12; STARD-AI 20", missing),
    ("Results that are not clear", "STARD-AI 19", unclear),
    (
        "Sample size",
        "TRIPOD+AI 10; CLAIM 21; STARD-AI 22",
        lambda v: f"{v['n']:,} tiles of {v['n_groups'] or 'unknown'} slides. Why so many: unknown.",
    ),
    ("Who trains, chooses and judges; level of separation", "TRIPOD+AI 12a; CLAIM 19, 20; STARD-AI 15b", partition),
    ("How training and test data differ, and from those of the intended use", "TRIPOD+AI 16, 20c; STARD-AI 28, 29", UNKNOWN),
)
MODEL: tuple[Row, ...] = (
    (
        "Preparation of the input",
        "TRIPOD+AI 7, 12b; CLAIM 9; STARD-AI 14",
        lambda v: each(
            v, lambda run: f"colours scaled 0 to 1, mean {run['mean']}, deviation {run['std']}" if run.get("mean") else ""
        ),
    ),
    (
        "What the model knows besides the tile",
        "TRIPOD+AI 9a, 9b; STARD-AI 17a",
        lambda v: "Nothing: the colours of its pixels are all that goes in." if runs_of(v) else "",
    ),
    ("The model", "TRIPOD+AI 12c, 22; CLAIM 22; STARD-AI 15a", network),
    (
        "Software",
        "CLAIM 23; STARD-AI 13",
        lambda v: ", ".join(f"{name} {told}" for name, told in v.get("record", {}).get("versions", {}).items()),
    ),
    (
        "Weights it began with",
        "CLAIM 24",
        lambda v: each(v, lambda run: run.get("weights") or "random" if run.get("settings") else ""),
    ),
    ("Training", "TRIPOD+AI 12c; CLAIM 25; STARD-AI 15b", training),
    (
        "How the final model was chosen",
        "CLAIM 26",
        lambda v: each(v, lambda run: f"epoch {run['best_epoch']}, on {run['n_valid']:,} tiles" if run.get("best_epoch") else ""),
    ),
    (
        "Ensemble",
        "CLAIM 27",
        lambda v: f"mean logit of {len(runs_of(v))} runs" if len(runs_of(v)) > 1 else "one model" if runs_of(v) else "",
    ),
    ("Class imbalance", "TRIPOD+AI 13", imbalance),
    (
        "Output and threshold",
        "TRIPOD+AI 12g, 15; STARD-AI 15c",
        lambda v: f"A probability; {v['threshold']['value']:.4g}: {v['threshold']['source']}.",
    ),
)
RESULTS: tuple[Row, ...] = (
    (
        "Measures and their uncertainty",
        "TRIPOD+AI 12e; CLAIM 28, 29; STARD-AI 18",
        lambda v: f"{', '.join(v['figures'])}; 95 % intervals: {v['figures']['auroc']['method']}; seed {v['seed']}.",
    ),
    (
        "Performance",
        "TRIPOD+AI 23a; CLAIM 37, 38; STARD-AI 31",
        lambda v: ", ".join(number(v, name) for name in ("auroc", "sensitivity", "specificity")),
    ),
    ("What came in and what was left out", "TRIPOD+AI 20a, 21; CLAIM 35; STARD-AI 24", flow),
    ("Cross-table", "CLAIM 39; STARD-AI 30", table),
    ("Performance by slide", "TRIPOD+AI 12d, 23b; STARD-AI 21", spread),
    ("Robustness", "CLAIM 30", stress),
    ("Explanation of predictions", "CLAIM 31", lambda v: v.get("record", {}).get("saliency", "")),
    ("Data of the same or of other slides and sites", "CLAIM 32, 33", sites),
    ("Failures", "CLAIM 39; STARD-AI 23", mistakes),
    ("Changes to the model that followed", "TRIPOD+AI 12f, 24", "None: judging changes nothing in a model."),
    ("Limitations", "TRIPOD+AI 26; CLAIM 40; STARD-AI 33", lambda v: "; ".join(v["warnings"])),
    ("Adverse events", "STARD-AI 32", "None can follow: no patient was tested."),
    ("Implications and next steps", "TRIPOD+AI 25, 27c; CLAIM 41; STARD-AI 34", UNKNOWN),
    (
        "Input of poor quality",
        "TRIPOD+AI 27a",
        "Files that cannot be read are refused in packing; blurred or folded tissue is predicted like any other.",
    ),
    (
        "What users do with the input, and the skill it takes",
        "TRIPOD+AI 27b; STARD-AI 15d",
        "Nothing is marked or set in a tile. The skill to read the results: unknown.",
    ),
)
OPENNESS: tuple[Row, ...] = (
    ("Ethics approval", "TRIPOD+AI 17; STARD-AI 6", UNKNOWN),
    ("Registration and protocol", "TRIPOD+AI 18c, 18d; CLAIM 34, 42; STARD-AI 36, 37", UNKNOWN),
    ("Funding and interests", "TRIPOD+AI 18a, 18b; CLAIM 44; STARD-AI 38, 39", UNKNOWN),
    ("Data for others", "TRIPOD+AI 18e; CLAIM 43; STARD-AI 40a", UNKNOWN),
    ("Code for others", "TRIPOD+AI 18f; CLAIM 43; STARD-AI 40a", "Sentinode (Apache-2.0) and the commands on this page."),
    ("Outputs kept for others to check", "STARD-AI 40b", "scores.parquet has every tile's score, judgement.json every figure."),
    ("Patients and the public", "TRIPOD+AI 19", UNKNOWN),
)
