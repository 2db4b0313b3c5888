"""The picture of a cross-validation: the AUROC of each fold beside colour alone, and the mean of all."""

from pathlib import Path
from typing import Any

from sentinode.errors import shown
from sentinode.report.style import FLOOR, MODEL, auroc_axis, caption, look, new_figure, save

WIDTH = 80
"""Letters in a line under the picture."""


def write_folds(folder: Path, values: dict[str, Any]) -> list[Path]:
    """Draw what crossvalidation.json holds as folds.svg and folds.png in `folder`; the same input gives the same bytes."""
    rows = [(row["fold"], row["auroc"], row["floor"]) for row in values["folds"]]
    rows.append(("mean", values["mean"]["auroc"], values["mean"]["floor"]))
    lowest = min(min(auroc["low"], floor["low"]) for _, auroc, floor in rows)
    text = note(values)
    with look():
        figure = new_figure((5.4, 1.6 + 0.36 * len(rows) + 0.13 * (1 + len(text) // WIDTH)))
        axes = figure.add_subplot()
        for at, (_, auroc, floor) in enumerate(rows):
            for one, colour, marker, above in ((floor, FLOOR, "s", 0.14), (auroc, MODEL, "o", -0.14)):
                told = ("colour alone" if one is floor else "the model") if at == 0 else None
                line = "--" if one is floor else "-"
                axes.plot([one["low"], one["high"]], [at + above] * 2, color=colour, lw=2, ls=line)
                axes.plot(one["estimate"], at + above, color=colour, marker=marker, ms=5, ls="none", label=told)
            axes.annotate(f"{auroc['estimate']:.3f}", (1.01, at), xycoords=("axes fraction", "data"), va="center")
        axes.axhline(len(rows) - 1.5, color="black", lw=0.8)
        axes.set_yticks(range(len(rows)), [shown(name, 26)[1:-1] for name, _, _ in rows], parse_math=False)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        auroc_axis(axes, lowest)
        axes.set_ylabel("held out")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
        caption(axes, text, width=WIDTH)
        return save(figure, folder, "folds")


def note(values: dict[str, Any]) -> str:
    """Say under the picture what was held out, and how the intervals were made."""
    slides = f"{values['n_groups']:,} slides" if values["n_groups"] else "slides not known"
    what = {
        "tile": "tiles by chance: optimistic, slides are shared",
        "slide": "whole slides",
        "pseudo-group": "whole pseudo-groups, which are no slides",
        "domain": "whole domains",
    }
    method = f"Mean: {values['mean']['auroc']['method']}; single: {values['folds'][0]['auroc']['method']}"
    return f"{values['n']:,} tiles, {slides}. Held out: {what[values['by']]}. {method}."
