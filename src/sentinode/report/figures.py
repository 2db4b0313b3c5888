"""The four pictures of a judgement: ROC with the floor, precision-recall, reliability, scores by class."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sentinode.errors import UndefinedScore
from sentinode.judge.bands import Bands
from sentinode.report.style import (
    FLOOR,
    MODEL,
    NEGATIVE,
    POSITIVE,
    QUIET,
    as_bytes,
    caption,
    in_both_lights,
    look,
    new_figure,
    save,
)

Numbers = npt.NDArray[Any]
"""Real numbers [n]."""
Corner = Literal["lower right", "upper left"]
"""Where a legend stands."""
OF = {"roc": "auroc", "precision_recall": "average_precision", "reliability": "ece", "scores": "accuracy"}
"""The pictures of a judgement, and the figure whose interval the foot of each explains."""


def write_judgement_figures(
    folder: Path,
    labels: Numbers,
    probability: Numbers,
    floor: Numbers | None,
    judgement: dict[str, Any],
    bands: Bands | None = None,
) -> list[Path]:
    """Draw a judgement as roc, precision_recall, reliability and scores, each as SVG and PNG.

    Parameters
    ----------
    folder
        Where the pictures go; made if need be.
    labels, probability
        [n] 0 or 1, and [n] in [0, 1].
    floor
        Probabilities by colour alone [n], or None where no floor is known.
    judgement
        What judgement.json holds: figures and floor by name, threshold, n, n_groups, protocol, reliability, warnings.
    bands
        Of both curves, or None to draw them without.

    Returns
    -------
    list of Path
        Eight files; the same input gives the same bytes.

    Raises
    ------
    UndefinedScore
        If a class is absent, lengths differ or a number is not finite.
    """
    written = []
    with look():
        for name, figure in judgement_figures(labels, probability, floor, judgement, bands).items():
            caption(figure.axes[0], footnote(judgement, OF[name]))
            written += save(figure, folder, name)
    return written


def judgement_pictures(
    labels: Numbers, probability: Numbers, floor: Numbers | None, judgement: dict[str, Any], bands: Bands | None = None
) -> dict[str, bytes]:
    """Return the pictures of `write_judgement_figures` by name as SVG, without their captions: for a page that says it all once.

    They turn dark where the page around them does.
    """
    with look():
        figures = judgement_figures(labels, probability, floor, judgement, bands)
        return {name: in_both_lights(as_bytes(figure, "svg")) for name, figure in figures.items()}


def judgement_figures(
    labels: Numbers, probability: Numbers, floor: Numbers | None, judgement: dict[str, Any], bands: Bands | None
) -> dict[str, Figure]:
    """Return the four figures by name; called within `look`."""
    check(labels, probability, floor)
    figures = {name: new_figure() for name in OF}
    axes = {name: figure.add_subplot() for name, figure in figures.items()}
    draw_roc(axes["roc"], labels, probability, floor, judgement)
    draw_precision_recall(axes["precision_recall"], labels, probability, floor, judgement)
    draw_reliability(axes["reliability"], labels, probability, judgement)
    draw_scores(axes["scores"], labels, probability, judgement)
    if bands is not None:
        for name, band in (("roc", bands.roc), ("precision_recall", bands.precision_recall)):
            axes[name].fill_between(band.x, band.low, band.high, color=MODEL, alpha=0.22, lw=0, label="95 %, pointwise")
            axes[name].legend(loc="lower right" if name == "roc" else "lower left")
    return figures


def check(labels: Numbers, probability: Numbers, floor: Numbers | None) -> None:
    """Raise UndefinedScore where a curve cannot be drawn."""
    lengths = {len(column) for column in (labels, probability, floor) if column is not None}
    if len(lengths) != 1:
        raise UndefinedScore("columns of one length", f"lengths {sorted(lengths)}", "align the scores first")
    if set(np.unique(labels).tolist()) != {0, 1}:
        raise UndefinedScore("both labels, 0 and 1", f"{np.unique(labels)[:5].tolist()}", "judge on tiles of both classes")
    for name, column in (("probability", probability), ("floor", floor)):
        if column is not None and not (np.isfinite(column).all() and column.min() >= 0 and column.max() <= 1):
            raise UndefinedScore(f"{name} in [0, 1]", "a value outside or not a number", "predict again")


def footnote(judgement: dict[str, Any], of: str = "auroc") -> str:
    """Say under a picture how many tiles and slides it shows, how its interval was made, and every warning."""
    slides = f"{judgement['n_groups']:,} slides" if judgement.get("n_groups") else "slides not known"
    lines = [f"{judgement['n']:,} tiles, {slides}; protocol: {judgement.get('protocol', 'unknown')}."]
    if of in judgement["figures"]:
        lines.append(f"95 % interval: {judgement['figures'][of]['method']}.")
    if judgement.get("contaminated"):
        lines.append("CONTAMINATED: some of these tiles or slides were trained on.")
    return "\n".join(lines + [f"Warning: {text}." for text in judgement.get("warnings", [])])


def with_interval(name: str, figure: dict[str, Any] | None) -> str:
    """Return a legend's entry: name, estimate and interval."""
    return f"{name} {figure['estimate']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})" if figure else name


def draw_roc(axes: Axes, labels: Numbers, probability: Numbers, floor: Numbers | None, judgement: dict[str, Any]) -> None:
    """Draw the ROC curve with the floor's beside it."""
    from sklearn.metrics import roc_curve

    false, true, _ = roc_curve(labels, probability, drop_intermediate=False)
    axes.plot(false, true, color=MODEL, lw=2, label=with_interval("model", judgement["figures"].get("auroc")))
    if floor is not None:
        false, true, _ = roc_curve(labels, floor, drop_intermediate=False)
        name = with_interval("colour alone", judgement.get("floor", {}).get("auroc"))
        axes.plot(false, true, color=FLOOR, lw=1.6, ls="--", label=name)
    axes.plot([0, 1], [0, 1], color=QUIET, lw=1, ls=":", label="chance 0.500")
    axes.set(xlabel="1 - specificity (share of negatives called positive)", ylabel="sensitivity", title="ROC curve, AUROC")
    square(axes)
    axes.legend(loc="lower right")


def draw_precision_recall(
    axes: Axes, labels: Numbers, probability: Numbers, floor: Numbers | None, judgement: dict[str, Any]
) -> None:
    """Draw precision against sensitivity, with the floor's curve and the prevalence."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(labels, probability)
    named = with_interval("model", judgement["figures"].get("average_precision"))
    axes.step(recall, precision, color=MODEL, lw=2, where="post", label=named)
    if floor is not None:
        precision, recall, _ = precision_recall_curve(labels, floor)
        axes.step(recall, precision, color=FLOOR, lw=1.6, ls="--", where="post", label="colour alone")
    prevalence = float(np.mean(labels))
    axes.axhline(prevalence, color=QUIET, lw=1, ls=":", label=f"prevalence {prevalence:.3f}")
    axes.set(xlabel="recall (sensitivity)", ylabel="precision", title="Precision and recall, average precision")
    square(axes)
    axes.legend(loc="lower left")


def draw_reliability(axes: Axes, labels: Numbers, probability: Numbers, judgement: dict[str, Any]) -> None:
    """Draw the share of positives against the predicted probability, in bins of equally many tiles.

    The bins are judgement.json's with their intervals, over slides where there are such; without them ten bins and no intervals.
    """
    axes.plot([0, 1], [0, 1], color=QUIET, lw=1, ls=":", label="perfect")
    line: dict[str, Any] = {"color": MODEL, "lw": 1.6, "marker": "o", "ms": 5}
    named = with_interval("model, ECE", judgement["figures"].get("ece"))
    table, where = judgement.get("reliability", []), free_corner([])
    if table:
        ends = [one["slides"] or one for one in table]
        share = np.array([one["share_positive"] for one in table])
        reach = [np.maximum(share - [e["low"] for e in ends], 0), np.maximum([e["high"] for e in ends] - share, 0)]
        mean = [one["mean_probability"] for one in table]
        axes.errorbar(mean, share, reach, label=named, capsize=2, elinewidth=1, **line)
        where = free_corner([(at, e["low"], e["high"]) for at, e in zip(mean, ends, strict=True)])
    else:
        from sklearn.calibration import calibration_curve

        share, mean = calibration_curve(labels, probability, n_bins=10, strategy="quantile")
        axes.plot(mean, share, label=named, **line)
    axes.set(xlabel="mean predicted probability", ylabel="share of positive tiles", title="Reliability")
    square(axes)
    axes.legend(loc=where)


def free_corner(intervals: list[tuple[float, float, float]]) -> Corner:
    """Return the corner in which a legend of two lines covers fewer of the intervals (at, low, high)."""
    below = sum(at > 0.2 and low < 0.16 for at, low, _ in intervals)
    above = sum(at < 0.8 and high > 0.84 for at, _, high in intervals)
    return "lower right" if below <= above else "upper left"


def draw_scores(axes: Axes, labels: Numbers, probability: Numbers, judgement: dict[str, Any]) -> None:
    """Draw how the probabilities of each class are spread, and the threshold."""
    bins = np.linspace(0, 1, 26).tolist()
    negatives, positives = probability[labels == 0], probability[labels == 1]
    axes.hist(negatives, bins, color=NEGATIVE, alpha=0.8, edgecolor="white", label=f"negative (n = {len(negatives):,})")
    axes.hist(positives, bins, histtype="step", lw=1.8, color=POSITIVE, hatch="////", label=f"positive (n = {len(positives):,})")
    threshold = judgement.get("threshold")
    if threshold:
        cut = float(threshold["value"])
        axes.axvline(cut, color="black", lw=1, ls="--", label=f"threshold {cut:.3f}")
    axes.set(xlabel="predicted probability", ylabel="tiles", title="Scores by class", xlim=(0, 1))
    axes.set_ylim(0, 1.3 * axes.get_ylim()[1])  # the legend stands above the bars
    axes.legend(loc="upper center")


def square(axes: Axes) -> None:
    """Give both axes the range [0, 1], with room for lines on the edge."""
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.set_box_aspect(1)
