"""The model card of a judgement: intended use, and what reporting guidelines ask, answered from the record or marked unknown.

The questions are in our own words, with the numbers of the items that ask them: TRIPOD+AI (Collins et al. 2024), CLAIM (Mongan, Moy
and Kahn 2020) and STARD, by the numbers of STARD 2015 (Bossuyt et al.), which STARD-AI (2025) extends.
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
    checked = (
        f"{seen['exact']:,} equal tiles, {seen['turned']:,} turned ones, {seen['slides']:,} tiles of shared slides were found"
    )
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


def spread(values: Values) -> str:
    """Say whether performance by slide is given."""
    return f"Each of {values['n_groups']:,} slides stands in the table of slides." if values.get("n_groups") else ""


def stress(values: Values) -> str:
    """Say what robustness was tested."""
    return "Dihedral views, geometry and shifts: see the section on stress." if values.get("stress") else ""


Row = tuple[str, str, str | Callable[[Values], str]]
PURPOSE: tuple[Row, ...] = (
    ("What kind of study", "TRIPOD+AI 1; CLAIM 1, 6; STARD 1", study),
    ("Intended use and users", "TRIPOD+AI 3b; CLAIM 3; STARD 3", USE),
    ("Objectives and hypotheses", "TRIPOD+AI 4; CLAIM 4; STARD 4", UNKNOWN),
    ("Known inequalities between groups of people; fairness", "TRIPOD+AI 3c, 14", UNKNOWN),
)
DATA: tuple[Row, ...] = (
    ("Sources of the tiles", "TRIPOD+AI 5a, 6a; CLAIM 7; STARD 8", sources),
    ("Dates of collection", "TRIPOD+AI 5b; STARD 8", UNKNOWN),
    ("Planned before or after the images were taken", "CLAIM 5; STARD 5", UNKNOWN),
    ("Who and what was eligible, and how it was chosen", "TRIPOD+AI 6b; CLAIM 8, 10; STARD 6, 7, 9", UNKNOWN),
    ("Treatment before the images", "TRIPOD+AI 6c", UNKNOWN),
    ("Patients: age, sex, disease", "TRIPOD+AI 20b; CLAIM 34; STARD 20, 21", UNKNOWN),
    ("De-identification", "CLAIM 12", UNKNOWN),
    ("What is predicted; reference standard", "TRIPOD+AI 8a; CLAIM 14, 15; STARD 10b, 11", reference),
    ("Who labelled, with what, blinded to what, how far raters agree", "TRIPOD+AI 8b, 8c; CLAIM 16 to 18; STARD 13b", UNKNOWN),
    ("Time between image and reference standard", "STARD 22", UNKNOWN),
    ("Missing data", "TRIPOD+AI 11; CLAIM 13; STARD 15, 16", missing),
    (
        "Sample size",
        "TRIPOD+AI 10; CLAIM 19; STARD 18",
        lambda v: f"{v['n']:,} tiles of {v['n_groups'] or 'unknown'} slides. Why so many: unknown.",
    ),
    ("Who trains, chooses and judges; level of separation", "TRIPOD+AI 12a; CLAIM 20, 21", partition),
    ("How training and test data differ", "TRIPOD+AI 16, 20c", UNKNOWN),
)
MODEL: tuple[Row, ...] = (
    (
        "Preparation of the input",
        "TRIPOD+AI 7, 9b; CLAIM 9",
        lambda v: each(
            v, lambda run: f"colours scaled 0 to 1, mean {run['mean']}, deviation {run['std']}" if run.get("mean") else ""
        ),
    ),
    ("The model", "TRIPOD+AI 12c, 22; CLAIM 22; STARD 10a", network),
    (
        "Software",
        "CLAIM 23",
        lambda v: ", ".join(f"{name} {told}" for name, told in v.get("record", {}).get("versions", {}).items()),
    ),
    (
        "Weights it began with",
        "CLAIM 24",
        lambda v: each(v, lambda run: run.get("weights") or "random" if run.get("settings") else ""),
    ),
    ("Training", "TRIPOD+AI 12c; CLAIM 25", training),
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
    (
        "Class imbalance",
        "TRIPOD+AI 13",
        lambda v: f"{v['n_positive']:,} of {v['n']:,} test tiles are positive; figures are of this share, not of a clinic's.",
    ),
    (
        "Output and threshold",
        "TRIPOD+AI 12g, 15; STARD 12a",
        lambda v: f"A probability; {v['threshold']['value']:.4g}: {v['threshold']['source']}.",
    ),
)
RESULTS: tuple[Row, ...] = (
    (
        "Measures and their uncertainty",
        "TRIPOD+AI 12e; CLAIM 28, 29; STARD 14",
        lambda v: f"{', '.join(v['figures'])}; 95 % intervals: {v['figures']['auroc']['method']}; seed {v['seed']}.",
    ),
    (
        "Performance",
        "TRIPOD+AI 21, 23a; CLAIM 35, 36; STARD 24",
        lambda v: ", ".join(number(v, name) for name in ("auroc", "sensitivity", "specificity")),
    ),
    ("What came in and what was left out", "TRIPOD+AI 20a; CLAIM 33; STARD 19", flow),
    ("Cross-table", "STARD 23", table),
    ("Performance by slide", "TRIPOD+AI 12d, 23b; STARD 17", spread),
    ("Robustness", "CLAIM 30", stress),
    ("Explanation of predictions", "CLAIM 31", lambda v: v.get("record", {}).get("saliency", "")),
    (
        "Data of other sites",
        "CLAIM 32",
        lambda v: "Slides that were not trained on; other sites: unknown." if v["protocol"] == "other slides" else "",
    ),
    ("Failures", "CLAIM 37", "The surest mistakes are shown above."),
    ("Limitations", "TRIPOD+AI 26; CLAIM 38; STARD 26", lambda v: "; ".join(v["warnings"])),
    ("Adverse events", "STARD 25", "None can follow: no patient was tested."),
    ("Implications and next steps", "TRIPOD+AI 25, 27c; CLAIM 39; STARD 27", UNKNOWN),
    (
        "Input of poor quality, and the skill it takes",
        "TRIPOD+AI 27a, 27b",
        "Files that cannot be read are refused in packing; blurred or folded tissue is predicted like any other.",
    ),
)
OPENNESS: tuple[Row, ...] = (
    ("Ethics approval", "TRIPOD+AI 17", UNKNOWN),
    ("Registration and protocol", "TRIPOD+AI 18c, 18d; CLAIM 40, 41; STARD 28, 29", UNKNOWN),
    ("Funding and interests", "TRIPOD+AI 18a, 18b; CLAIM 42; STARD 30", UNKNOWN),
    ("Data for others", "TRIPOD+AI 18e; CLAIM 41", UNKNOWN),
    ("Code for others", "TRIPOD+AI 18f; CLAIM 41", "Sentinode (Apache-2.0) and the commands on this page."),
    ("Patients and the public", "TRIPOD+AI 19", UNKNOWN),
)
