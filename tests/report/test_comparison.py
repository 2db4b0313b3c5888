"""The picture of a comparison: written whole, the same bytes each time, names as data, few enough to read."""

from pathlib import Path
from typing import Any

import pytest

from sentinode.errors import UndefinedScore
from sentinode.report.comparison import MOST, comparison_picture, note, write_comparison
from sentinode.report.style import auroc_axis, new_figure


def comparison(n: int = 3, **more: Any) -> dict[str, Any]:
    contestants = {
        f"<m{at}> $x$": {
            "rank": "ab"[at % 2],
            "auroc": {
                "estimate": 0.9 - at / 100,
                "low": 0.8 - at / 100,
                "high": 0.95,
                "method": "slide bootstrap (200 resamples)",
            },
            "kind": "floor" if at == 1 else "run",
            "contaminated": at == 2,
        }
        for at in range(n)
    }
    return {"contestants": contestants, "n": 1000, "n_groups": 40, "warnings": ["only 12 slides"]} | more


def test_the_picture_is_written_and_its_bytes_do_not_change(tmp_path: Path) -> None:
    first = write_comparison(tmp_path / "a", comparison())
    second = write_comparison(tmp_path / "b", comparison())
    assert [path.name for path in first] == ["comparison.svg", "comparison.png"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    text = first[0].read_text("utf-8")
    assert "&lt;m0&gt; $x$" in text
    assert "<m0>" not in text
    assert "(contaminated)" in text


def test_the_note_says_what_is_seen_and_what_is_not() -> None:
    cells = {"seeds_and_folds": {"cells": [{"seed": 0, "fold": "1/5", "auroc": 0.9}]}}
    given = comparison(MOST + 2)
    next(iter(given["contestants"].values())).update(cells)
    text = note(given, MOST)
    assert text.startswith("1,000 tiles, 40 slides. Interval: slide bootstrap (200 resamples). 2 more are not drawn.")
    assert "Ticks: single runs of a recipe." in text
    assert text.endswith("Warning: only 12 slides.")
    assert note(comparison(warnings=["so"] * 9), 3).endswith("Warning: so.\n4 more warnings in comparison.json.")


def test_long_warnings_leave_room_for_the_picture(tmp_path: Path) -> None:
    """Matplotlib warns where nothing is left for the axes, and a warning is an error here."""
    assert write_comparison(tmp_path, comparison(1, warnings=["a long sentence about slides " * 12] * 5))


def test_nobody_to_draw_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UndefinedScore, match="at least one contestant to draw; found none; compare some runs first"):
        write_comparison(tmp_path, comparison(0))
    with pytest.raises(UndefinedScore):
        comparison_picture(comparison(0))


@pytest.mark.parametrize("lowest", [0.999, 0.7, 0.3, 0.0])
def test_a_mark_at_either_end_is_not_cut_off(lowest: float) -> None:
    figure = new_figure()
    axes = figure.add_subplot()
    auroc_axis(axes, lowest)
    figure.draw_without_rendering()
    inside, radius = axes.get_window_extent(), 3.5 * figure.dpi / 72
    assert axes.transData.transform((1.0, 0))[0] + radius <= inside.x1
    assert axes.transData.transform((lowest, 0))[0] >= inside.x0


def test_the_picture_of_the_page_says_nothing_twice_and_turns_dark() -> None:
    text = comparison_picture(comparison()).decode()
    assert "only 12 slides" not in text
    assert "prefers-color-scheme: dark" in text
    assert "&lt;m0&gt; $x$" in text
