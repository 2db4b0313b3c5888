"""The picture of a search shows every value of a small table, and the best so far otherwise."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from sentinode.errors import RunProblem
from sentinode.report.search import draw_course, draw_table, draw_values, write_search

GRID: dict[str, list[Any]] = {"lr": [0.1, 0.01], "batch": [16, 32, 64]}


def trials(states: str = "dddddd") -> list[dict[str, Any]]:
    words = {"d": "done", "p": "pruned", "f": "failed"}
    cells = [{"lr": lr, "batch": batch} for lr in GRID["lr"] for batch in GRID["batch"]]
    values = [0.70, 0.80, 0.75, 0.90, 0.85, 0.60]
    return [
        {"number": i, "state": words[s], "auroc": None if s == "f" else values[i], "options": cells[i]}
        for i, s in enumerate(states)
    ]


def test_a_table_says_every_value_where_it_belongs() -> None:
    axes = Figure().add_subplot()
    draw_table(axes, trials("dddddf"), GRID)
    told = {(int(text.get_position()[1]), int(text.get_position()[0])): text for text in axes.texts}
    assert [told[0, 1].get_text(), told[1, 0].get_text(), told[1, 2].get_text()] == ["0.8000", "0.9000", "failed"]
    assert [place for place, text in told.items() if text.get_fontweight() == "bold"] == [(1, 0)]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["16", "32", "64"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0.1", "0.01"]


def test_the_best_so_far_never_falls_and_leaves_the_pruned_out() -> None:
    axes = Figure().add_subplot()
    draw_course(axes, trials("ddpdpf"))
    by_name = {str(line.get_label()): line for line in axes.lines}
    assert list(np.asarray(by_name["best so far"].get_ydata())) == [0.70, 0.80, 0.90, 0.90]
    assert list(np.asarray(by_name["pruned, its best until then (n = 2)"].get_xdata())) == [2, 4]
    assert list(np.asarray(by_name["best: 0.9000"].get_xdata())) == [3]


def test_one_setting_has_its_values_side_by_side_and_says_which_failed() -> None:
    axes = Figure().add_subplot()
    draw_values(axes, [one | {"options": {"lr": i}} for i, one in enumerate(trials("ddf"))], {"lr": [0, 1, 2]})
    notes = [text for text in axes.texts if isinstance(text, Annotation)]
    assert {note.get_text(): note.xy[0] for note in notes} == {"0.7000": 0, "0.8000": 1, "failed": 2}
    assert axes.get_xlabel() == "lr (peak learning rate)"
    star = next(line for line in axes.lines if line.get_marker() == "*")
    assert [np.asarray(star.get_xdata()).item(), np.asarray(star.get_ydata()).item()] == [1, 0.8]


def test_nothing_is_cut_off_or_covered(tmp_path: Path) -> None:
    figure = Figure(layout="constrained")
    axes = figure.add_subplot()
    draw_course(axes, trials("ddpdpf"))
    figure.savefig(tmp_path / "a.png")
    legend, whole = axes.get_legend(), figure.bbox
    assert legend is not None
    box = legend.get_window_extent()
    assert whole.x0 <= box.x0 < box.x1 <= whole.x1
    assert whole.y0 <= box.y0 < box.y1 <= axes.get_window_extent().y0
    axes = Figure().add_subplot()
    draw_table(axes, trials(), GRID)
    assert not axes.patches[-1].get_clip_on()


@pytest.mark.parametrize("grid", [GRID, {}, {"lr": [0.1, 0.01]}])
def test_written_twice_the_same(tmp_path: Path, grid: dict[str, list[Any]]) -> None:
    first, second = (write_search(tmp_path / name, trials("ddpddf"), grid, "a <note> & $more$") for name in ("a", "b"))
    assert [path.name for path in first] == ["search.svg", "search.png"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_search_without_a_figure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunProblem, match=r"a trial with an AUROC; found none of 2; look at"):
        write_search(tmp_path, trials("ff"), GRID, "")
    assert list(tmp_path.iterdir()) == []
