"""Pictures of an audit: words stand under their tile and not on it, the same tiles give the same bytes."""

from pathlib import Path

import numpy as np

from sentinode.report.audit import sheet, show
from sentinode.report.style import look, new_figure
from tests.qc.stores import store_of


def test_words_stand_under_the_tile() -> None:
    with look():
        figure = new_figure((2.0, 2.0))
        axes = figure.add_subplot()
        axes.axis("off")
        show(axes, np.zeros((24, 24, 3), np.uint8), "$0 0.09")
        figure.draw_without_rendering()
    words = axes.texts[0]
    assert words.get_text() == "$0 0.09"
    assert words.get_window_extent().y1 <= axes.get_window_extent().y0


def test_the_same_tiles_give_the_same_bytes_and_none_give_no_picture(tmp_path: Path) -> None:
    tiles = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 3), dtype=np.uint8)
    store = store_of(tmp_path / "s.store", tiles, np.zeros(3, np.int8))
    rows = {"blank": [(0, ""), (2, "1 0.5")], "black": []}
    with look():
        written = [sheet(tmp_path / name, "spoilt", store, rows, "note") for name in ("one", "two")]
        assert sheet(tmp_path / "none", "spoilt", store, {"black": []}, "note") == []
    assert [path.name for path in written[0]] == ["spoilt.svg", "spoilt.png"]
    for one, other in zip(*written, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert not (tmp_path / "none").exists()
