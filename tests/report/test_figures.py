"""Pictures of a judgement: curves are the right ones, the legend gives estimate and interval, warnings are read, bytes repeat."""

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image
from sklearn.metrics import auc, roc_auc_score

from sentinode.errors import UndefinedScore
from sentinode.report.figures import (
    Numbers,
    draw_precision_recall,
    draw_reliability,
    draw_roc,
    draw_scores,
    write_judgement_figures,
)
from sentinode.report.style import look, new_figure

NAMES = ("roc", "precision_recall", "reliability", "scores")


def figure(estimate: float, method: str = "slide bootstrap (2000 resamples)") -> dict[str, Any]:
    return {"estimate": estimate, "low": estimate - 0.05, "high": estimate + 0.02, "method": method, "n": 200, "n_groups": 5}


def judgement() -> dict[str, Any]:
    return {
        "figures": {name: figure(0.9) for name in ("auroc", "average_precision", "ece", "accuracy")},
        "floor": {"auroc": figure(0.611)},
        "threshold": {"value": 0.4321, "source": "chosen on valid"},
        "n": 200,
        "n_groups": 5,
        "protocol": "other slides",
        "warnings": ["only 5 slides"],
    }


def sample() -> tuple[Numbers, Numbers, Numbers]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    probability = np.clip(0.3 * labels + rng.uniform(0, 0.7, 200), 0, 1)
    return labels, probability, rng.uniform(0, 1, 200)


def words_of(svg: Path) -> str:
    root = ElementTree.fromstring(svg.read_text(encoding="utf-8"))
    texts = [text for node in root.iter("{http://www.w3.org/2000/svg}text") for text in node.itertext()]
    return re.sub(r"\s+", " ", " ".join(texts))


def test_each_picture_is_written_as_svg_and_png(tmp_path: Path) -> None:
    written = write_judgement_figures(tmp_path / "figures", *sample(), judgement())
    assert [tmp_path / "figures" / f"{name}.{kind}" for name in NAMES for kind in ("svg", "png")] == written
    for path in written[1::2]:
        with Image.open(path) as image:
            assert image.width > 600
            assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 50


def test_the_same_judgement_gives_the_same_bytes_whatever_the_readers_own_look(tmp_path: Path) -> None:
    first = [path.read_bytes() for path in write_judgement_figures(tmp_path / "a", *sample(), judgement())]
    with mpl.rc_context({"axes.facecolor": "black", "svg.hashsalt": "other", "font.size": 20}):
        second = [path.read_bytes() for path in write_judgement_figures(tmp_path / "b", *sample(), judgement())]
        assert mpl.rcParams["axes.facecolor"] == "black"
    assert first == second


def test_legend_gives_estimate_and_interval_and_the_foot_gives_the_method(tmp_path: Path) -> None:
    write_judgement_figures(tmp_path, *sample(), judgement())
    words = words_of(tmp_path / "roc.svg")
    assert "model 0.900 (0.850 to 0.920)" in words
    assert "colour alone 0.611 (0.561 to 0.631)" in words
    assert "slide bootstrap (2000 resamples)" in words
    assert "200 tiles, 5 slides; protocol: other slides" in words
    assert "Warning: only 5 slides." in words


def test_what_assumes_independent_tiles_says_so_and_contamination_is_read(tmp_path: Path) -> None:
    told = judgement() | {"contaminated": True, "n_groups": 0}
    told["figures"]["auroc"] = figure(0.9, "DeLong, assumes independent tiles")
    write_judgement_figures(tmp_path, *sample(), told)
    words = words_of(tmp_path / "roc.svg")
    assert "assumes independent tiles" in words
    assert "CONTAMINATED" in words
    assert "slides not known" in words


def test_text_from_data_is_neither_markup_nor_mathematics(tmp_path: Path) -> None:
    told = judgement() | {"warnings": ["<script>alert(1)</script> & $\\frac{1}{"]}
    write_judgement_figures(tmp_path, *sample(), told)
    assert "<script" not in (tmp_path / "roc.svg").read_text(encoding="utf-8")
    assert "<script>alert(1)</script> & $\\frac{1}{" in words_of(tmp_path / "roc.svg")


def test_no_floor_no_floor_line(tmp_path: Path) -> None:
    labels, probability, _ = sample()
    write_judgement_figures(tmp_path, labels, probability, None, judgement() | {"floor": {}})
    assert "colour alone" not in words_of(tmp_path / "roc.svg")


def test_area_under_the_drawn_curve_is_the_auroc() -> None:
    labels, probability, floor = sample()
    axes = Figure().add_subplot()
    draw_roc(axes, labels, probability, floor, judgement())
    for line, scores in zip(axes.lines, (probability, floor), strict=False):
        x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
        assert roc_auc_score(labels, scores) == pytest.approx(auc(x, y))


def test_precision_recall_ends_at_the_prevalence() -> None:
    labels, probability, _ = sample()
    axes = Figure().add_subplot()
    draw_precision_recall(axes, labels, probability, None, judgement())
    recall, precision = (np.asarray(values, float) for values in axes.lines[0].get_data())
    assert precision[recall == 1][0] == pytest.approx(labels.mean(), abs=0.02)
    assert np.asarray(axes.lines[1].get_ydata())[0] == pytest.approx(labels.mean())


def test_reliability_of_true_probabilities_lies_on_the_diagonal() -> None:
    rng = np.random.default_rng(1)
    probability = rng.uniform(0, 1, 50_000)
    labels = (rng.uniform(0, 1, 50_000) < probability).astype(int)
    axes = Figure().add_subplot()
    draw_reliability(axes, labels, probability, judgement())
    x, y = (np.asarray(values, float) for values in axes.lines[1].get_data())
    assert len(x) == 10
    assert np.abs(x - y).max() < 0.03


def test_histograms_count_every_tile_and_show_the_threshold() -> None:
    labels, probability, _ = sample()
    axes = Figure().add_subplot()
    draw_scores(axes, labels, probability, judgement())
    legend = axes.get_legend()
    assert legend is not None
    words = [text.get_text() for text in legend.get_texts()]
    assert f"negative (n = {(labels == 0).sum()})" in words
    assert f"positive (n = {(labels == 1).sum()})" in words
    assert "threshold 0.432" in words


def legend_box(axes: Axes) -> Bbox:
    """Return the box of the legend in the axes' own units, as drawn in a judgement's picture."""
    legend, figure = axes.get_legend(), axes.figure
    assert legend is not None
    assert isinstance(figure, Figure)
    figure.canvas.draw()
    return legend.get_window_extent().transformed(axes.transData.inverted())


@pytest.mark.parametrize("middle", [0.1, 0.42, 0.5, 0.9])
def test_the_legend_stands_above_the_bars_wherever_they_are_high(middle: float) -> None:
    probability = np.clip(np.random.default_rng(0).normal(middle, 0.02, 300), 0, 1)
    with look():
        axes = new_figure().add_subplot()
        draw_scores(axes, np.arange(300) % 2, probability, judgement())
        assert legend_box(axes).ymin > np.histogram(probability[::2], np.linspace(0, 1, 26))[0].max()


@pytest.mark.parametrize(("low", "high"), [(0.02, 0.5), (0.5, 0.98)])
def test_the_legend_covers_no_interval_of_the_reliability(low: float, high: float) -> None:
    table = [
        {"mean_probability": at, "share_positive": (low + high) / 2, "low": low, "high": high, "slides": None}
        for at in (0.3, 0.4, 0.5, 0.6)
    ]
    with look():
        axes = new_figure().add_subplot()
        draw_reliability(axes, np.arange(4) % 2, np.full(4, 0.5), judgement() | {"reliability": table})
        box = legend_box(axes)
    assert box.ymin > high or box.ymax < low


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"labels": np.zeros(200, int)}, "both labels, 0 and 1"),
        ({"labels": np.repeat([-1, 1], 100)}, "both labels, 0 and 1"),
        ({"probability": np.full(200, np.nan)}, "probability in [0, 1]"),
        ({"floor": np.full(200, 1.5)}, "floor in [0, 1]"),
        ({"floor": np.zeros(3)}, "columns of one length"),
        ({"labels": np.zeros(0, int), "probability": np.zeros(0), "floor": None}, "both labels, 0 and 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    labels, probability, floor = sample()
    columns = {"labels": labels, "probability": probability, "floor": floor} | change
    with pytest.raises(UndefinedScore) as caught:
        write_judgement_figures(tmp_path, judgement=judgement(), **columns)
    assert expected == caught.value.expected
    assert caught.value.found
    assert caught.value.do
    assert list(tmp_path.iterdir()) == []
