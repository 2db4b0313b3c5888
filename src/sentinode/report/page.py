"""The page of a judgement: one file that needs no network, for a phone, a desk and paper, in light and dark."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentinode.judge.bands import SlideRow
from sentinode.report.card import USE, answers
from sentinode.report.gallery import Gallery, check, data_uri, heat
from sentinode.report.html import classes_of, embedded, rendered
from sentinode.run import write_bytes

MOST_SLIDES = 400
"""Rows of the table of slides at most, the worst."""
TITLES = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "brier_loss": "Brier loss",
    "ece": "calibration error (ECE)",
    "sensitivity_at_specificity_95": "sensitivity at 95 % specificity",
    "sensitivity_at_specificity_90": "sensitivity at 90 % specificity",
    "auroc_difference": "AUROC, model less colour alone",
}
"""How figures are called on the page; others go by their own name."""
PICTURES = {
    "roc": ("ROC curve", "Sensitivity against false alarms, with the colour floor's curve and a pointwise 95 % band."),
    "precision_recall": ("Precision and recall", "Precision against sensitivity, with a pointwise 95 % band."),
    "reliability": ("Reliability", "Share of positive tiles against predicted probability, with 95 % intervals."),
    "scores": ("Scores by class", "Histogram of the probabilities of negative and positive tiles, with the threshold."),
}
"""Title and alternative text of each picture."""
Values = dict[str, Any]
"""What judgement.json holds."""


@dataclass(frozen=True)
class Evidence:
    """What stands on the page beside judgement.json.

    `pictures` are SVGs by name (roc, precision_recall, reliability, scores); `band` says how their bands were made ("" for none);
    `slides` each slide, the worst first; `gallery` the surest mistakes, or None where the tiles were not at hand.
    """

    pictures: dict[str, bytes]
    band: str
    slides: list[SlideRow]
    gallery: Gallery | None


def figure_rows(values: Values) -> list[tuple[str, str, str, str, str]]:
    """Return every figure: title, estimate, interval, how it was made, and the interval of independent tiles where it stands beside."""
    named = [*values["figures"].items(), *((f"colour alone: {name}", one) for name, one in values["floor"].items())]
    rows = []
    for name, one in named:
        title = name if name in TITLES else name.removeprefix("colour alone: ")
        title = TITLES.get(title, title)
        if name == "colour alone: auroc":
            title = "AUROC of colour alone"
        beside = one.get("tiles")
        tiles = f"{beside['low']:.4f} to {beside['high']:.4f}, {beside['method']}" if beside else ""
        rows.append((title, f"{one['estimate']:.4f}", f"{one['low']:.4f} to {one['high']:.4f}", one["method"], tiles))
    return rows


def verdict(values: Values) -> str:
    """Say in a sentence how the model stands to the colour floor."""
    ahead = values["floor"].get("auroc_difference")
    if not ahead:
        return "No colour floor is known, so this figure has nothing to be compared with (name one with --floor)."
    told = f"{ahead['estimate']:+.3f} ({ahead['low']:+.3f} to {ahead['high']:+.3f})"
    if ahead["low"] > 0:
        return f"Better than colour alone by {told}."
    return f"Worse than colour alone: {told}." if ahead["high"] < 0 else f"Not told apart from colour alone: {told}."


def cases(gallery: Gallery, classes: list[str]) -> list[Values]:
    """Return what the page shows of each mistake."""
    check(gallery)
    return [
        {
            "tile": data_uri(gallery.tiles[at]),
            "heat": "" if gallery.saliency is None else data_uri(heat(gallery.saliency[at])),
            "id": gallery.ids[at],
            "group": gallery.groups[at],
            "probability": f"{gallery.probability[at]:.3f}",
            "truth": classes[int(gallery.labels[at])],
            "called": classes[1 - int(gallery.labels[at])],
        }
        for at in range(len(gallery.tiles))
    ]


def page_text(values: Values, evidence: Evidence) -> str:
    """Return the page as HTML; whatever comes from the data is escaped.

    Parameters
    ----------
    values
        What judgement.json holds.
    evidence
        Pictures, slides and mistakes.

    Raises
    ------
    UndefinedScore
        If the gallery's columns differ in length.
    """
    asked = answers(values)
    return rendered(
        "report.html",
        values,
        verdict=verdict(values),
        rows=figure_rows(values),
        pictures=[(name, *PICTURES[name], embedded(svg)) for name, svg in evidence.pictures.items() if name in PICTURES],
        band=evidence.band,
        slides=evidence.slides[:MOST_SLIDES],
        n_slides=len(evidence.slides),
        gallery=evidence.gallery,
        cases=[] if evidence.gallery is None else cases(evidence.gallery, classes_of(values)),
        use=USE,
        answers=asked,
        n_known=sum(one.known for one in asked),
    )


def write_page(path: Path, values: Values, evidence: Evidence) -> None:
    """Write `page_text` whole or not at all."""
    write_bytes(path, page_text(values, evidence).encode())
