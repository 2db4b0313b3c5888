"""The ladder as a reader meets it: a table for the terminal and for programs, and the page that holds it all."""

import csv
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sentinode.errors import shown
from sentinode.report.climb import write_climb
from sentinode.report.html import embedded, rendered
from sentinode.report.style import in_both_lights
from sentinode.run import write_bytes

HEAD = ("rung", "valid AUROC (95 %)", "test AUROC (95 %)", "minutes", "train/s", "predict/s", "MB", "weights")
"""Columns of the terminal's table; rates are tiles a second."""
WORDS = {
    "worth it": "worth it",
    "no better": "no better than the rung below",
    "worse": "worse than the rung below",
    "alone": "it is its best member alone: nothing improved on it",
}
"""Verdicts in words."""
WIDE = 120
"""Columns of the terminal that the table fits."""
KEEP: dict[str, Any] = {"drop_whitespace": True, "break_on_hyphens": False}
"""How longer lines are wrapped."""
Values = dict[str, Any]
"""What ladder.json holds."""


def number(value: float, digits: int = 1) -> str:
    """Return a number as a table shows it: few digits, thousands apart, more digits below one; a dash for none."""
    if not value:
        return "-"
    return f"{value:,.{digits}f}" if value >= 1 else f"{value:.2g}"


def minutes(row: Values) -> str:
    """Return the minutes of a rung, with a + where they are only a part of what it took."""
    return number(row["minutes"]) + ("+" if row["minutes_lack"] else "")


def estimate(figure: Values | None) -> str:
    """Return an AUROC and its interval, or a dash."""
    return f"{figure['estimate']:.4f} ({figure['low']:.3f}-{figure['high']:.3f})" if figure else "-"


def cells(row: Values) -> tuple[str, ...]:
    """Return a rung as the columns of HEAD."""
    return (
        row["title"],
        estimate(row.get("valid")),
        estimate(row.get("test")),
        minutes(row),
        number(row["train_tiles_per_s"], 0),
        number(row["predict_tiles_per_s"], 0),
        number(row["megabytes"]),
        number(row["weights"], 0),
    )


def verdict(row: Values) -> str:
    """Return a rung's verdict and cost in words; nothing for the lowest rung."""
    if "verdict" not in row:
        return ""
    words = WORDS[row["verdict"]]
    if row["name"] == "ensemble":
        words = words.replace("the rung below", "its best member")
    return f"{words}; {row['cost']}"


def compared(row: Values) -> str:
    """Return a rung's paired difference, where it was measured, and to which rung; nothing for the lowest."""
    if "difference" not in row:
        return ""
    of = row["difference"]
    beside = row["below_title"] + (" (best member on valid)" if row["name"] == "ensemble" else "")
    return f"{of['estimate']:+.4f} ({of['low']:+.4f} to {of['high']:+.4f}) on {of['on']} against {beside}"


def judged_lines(values: Values) -> list[str]:
    """Say of each part how many tiles and slides it has, whether it chose, and how its intervals are made."""
    lines = []
    for part in values["judged"]:
        slides = f"{part['n_groups']:,} slides" if part["n_groups"] else "slides not known"
        role = "chose, so it flatters" if part["chose"] else "judges, chose nothing"
        method = values["rungs"][0][part["name"]]["method"]
        lines.append(f"{part['name']}: {part['n']:,} tiles ({part['n_positive']:,} positive), {slides}; {role}; {method}")
    return lines


def backbone_lines(values: Values) -> list[str]:
    """Say which network the backbone rungs stand on, where there are such."""
    return [f"backbone: {shown(values['backbone'])}"] if values["backbone"] else []


def ladder_lines(values: Values) -> list[str]:
    """Return the ladder as plain text of at most 120 columns: warnings, parts, a table, a verdict under each rung."""
    lines = [f"warning: {text}" for text in values["warnings"]]
    lines += [f"protocol: {values['protocol']}", *judged_lines(values), *backbone_lines(values), ""]
    rows = [HEAD, *(cells(row) for row in values["rungs"])]
    wide = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    for at, row in enumerate(rows):
        text = [f"{cell:<{wide[column]}}" if column < 3 else f"{cell:>{wide[column]}}" for column, cell in enumerate(row)]
        lines.append("  ".join(text).rstrip())
        if at:
            rung = values["rungs"][at - 1]
            said = [": ".join(filter(None, (compared(rung), verdict(rung))))] if "verdict" in rung else []
            lines += [f"  {text}" for text in (*said, *rung.get("notes", []))]
    lines += ["", f"rule: {values['rule']}", *candidate_lines(values), *study_lines(values), *mistake_lines(values)]
    return [part for line in lines for part in (textwrap.wrap(line, WIDE, subsequent_indent="    ", **KEEP) or [""])]


def place(row: Values) -> str:
    """Return how a candidate of the ensemble fared: its place among the picked, whose double it is, or left out."""
    if row["same_as"]:
        return f"the same as {row['same_as']}"
    return f"picked, {row['picked']}." if row["picked"] else "left out"


def candidate_cells(row: Values, values: Values) -> tuple[str, ...]:
    """Return a candidate of the ensemble, over all views, as the columns of `candidate_head`."""
    figures = (estimate(row[part["name"]]) for part in values["judged"])
    return row["title"], place(row), f"{row['log_loss']:.4f}", *figures, minutes(row)


def candidate_head(values: Values) -> tuple[str, ...]:
    """Return the columns of the ensemble's candidates."""
    told = values["ensemble"]
    figures = (f"{part['name']} AUROC, {told['views']} views" for part in values["judged"])
    return "candidate", f"on {told['chosen_on']}", "log loss", *figures, "minutes"


def candidate_lines(values: Values) -> list[str]:
    """Return every candidate of the ensemble over the views that it is averaged over, and who was picked."""
    told = values.get("ensemble")
    if not told:
        return []
    rows = [candidate_head(values), *(candidate_cells(row, values) for row in told["candidates"])]
    return ["", f"ensemble: picked on {told['chosen_on']} by {told['criterion']}", *aligned(rows)]


def study_lines(values: Values) -> list[str]:
    """Return the reference study's table beside ours."""
    if not values.get("study"):
        return []
    rows = [("the study, and ours below it", "AUC there", *(f"ours on {part['name']}" for part in values["judged"]))]
    for row in values["study"]:
        figures = (estimate(row.get(part["name"])) for part in values["judged"])
        rows.append((row["study"], f"{row['auc']:.4f}", *figures))
    head, *lines = aligned(rows)
    pairs = zip(lines, values["study"], strict=True)
    return ["", head, *(text for line, row in pairs for text in (line, f"  ours: {row['ours']}"))]


def mistake_lines(values: Values) -> list[str]:
    """Return what wrong scaling does to a frozen backbone, and the sentence that answers the study's puzzle."""
    made = values.get("mistakes")
    if not made:
        return []
    on = made["on"][-1]
    rows = [("preprocessing", f"study's head, {on}", f"logistic regression, {on}", "input spans")]
    for row in made["rows"]:
        heads = (estimate(row["dense"][on]), estimate(row["logistic"][on]))
        rows.append((row["title"], *heads, f"{row['low']:.3g} to {row['high']:.3g}"))
    return [
        "",
        f"frozen {made['network']}, preprocessing changed on purpose ({made['n_train']:,} tiles train):",
        *aligned(rows),
        made["answer"],
    ]


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return rows of cells as lines of columns."""
    wide = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, wide, strict=True)).rstrip() for row in rows]


def write_csv(path: Path, values: Values) -> None:
    """Write the rungs as CSV, one row each, every number in full."""
    parts = [part["name"] for part in values["judged"]]
    plain = ("name", "title", "minutes", "minutes_lack", "train_tiles_per_s", "predict_tiles_per_s", "megabytes", "weights")
    ends = ("estimate", "low", "high")
    names = [*plain, *(f"{part}_auroc{end}" for part in parts for end in ("", "_low", "_high"))]
    names += ["below", "difference", "difference_low", "difference_high", "difference_on", "verdict", "cost", "notes"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in values["rungs"]:
        of = row.get("difference", {})
        judged = [row[part][end] for part in parts for end in ends]
        compared = [row.get("below", ""), *(of.get(end, "") for end in (*ends, "on")), row.get("verdict", "")]
        compared += [row.get("cost", ""), "; ".join(row.get("notes", []))]
        writer.writerow([*(row[name] for name in plain), *judged, *compared])
    write_bytes(path, text.getvalue().encode())


def write_page(path: Path, values: Values, picture: bytes) -> None:
    """Write the page: one file that needs no network, light or dark, with the picture inside."""
    text = rendered(
        "ladder.html",
        values | {"record": {"versions": values["versions"]}},
        told=estimate,
        rungs=[(row, cells(row), verdict(row), compared(row)) for row in values["rungs"]],
        head=HEAD,
        candidates=[candidate_cells(row, values) for row in values["ensemble"]["candidates"]] if values["ensemble"] else [],
        candidate_head=candidate_head(values) if values["ensemble"] else (),
        parts=[*judged_lines(values), *backbone_lines(values)],
        picture=embedded(in_both_lights(picture)),
    )
    write_bytes(path, text.encode())


def write_ladder(folder: Path, values: Values) -> list[Path]:
    """Write ladder.csv, the picture (figures/ladder.svg and .png) and ladder.html into `folder`; the page last."""
    write_csv(folder / "ladder.csv", values)
    pictures = write_climb(folder / "figures", values)
    write_page(folder / "ladder.html", values, pictures[0].read_bytes())
    return [folder / "ladder.csv", *pictures, folder / "ladder.html"]
