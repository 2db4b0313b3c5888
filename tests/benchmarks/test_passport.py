"""The suite on the passport: its forms are what their names say, and it counts what is known again and what is not."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.passport import (
    CUT_PX,
    MIRRORED,
    QUALITIES,
    ROTATED,
    SHIFTS,
    figures_of,
    forms,
    passport_of,
    recall,
    shifted,
    told,
)
from sentinode.tiles.synth import synthesise


def rows_of(n: int) -> pd.DataFrame:
    return pd.DataFrame({"id": [f"t{at}" for at in range(n)], "label": np.arange(n) % 2, "group": "", "digest": ""})


def test_views_are_rotations_and_reflections_and_a_shift_moves_the_field_of_view() -> None:
    tiles = synthesise(1, 12, px=96, seed=1).tiles
    made = forms(tiles)
    assert sorted((*ROTATED, *MIRRORED)) == list(range(1, 8))
    for tile, rotated, mirrored in zip(tiles, made["rotated"], made["mirrored"], strict=True):
        assert any(np.array_equal(np.rot90(tile, k), rotated) for k in (1, 2, 3))
        assert any(np.array_equal(np.rot90(tile[::-1], k), mirrored) for k in range(4))
    assert {f"{way}jpeg{quality}" for way in ("", "turned_") for quality in QUALITIES} < set(made)
    assert (shifted(tiles, 8)[:, :, :-8] == shifted(tiles, 0)[:, :, 8:]).all()
    assert shifted(tiles, max(SHIFTS)).shape == (12, CUT_PX, CUT_PX, 3)


def test_planted_tiles_are_known_again_and_strangers_are_not(tmp_path: Path) -> None:
    mine, other = synthesise(2, 20, px=96, seed=2).tiles, synthesise(1, 30, px=96, seed=9).tiles
    known = recall(rows_of(40), mine, tmp_path)
    split = passport_of(rows_of(40), mine, tmp_path / "split.parquet")
    false = {"as_is": told(split, rows_of(30), other)}
    found = figures_of(known, false, 40)
    assert (known["as_is"]["exact"], known["as_is"]["chosen"]) == (32, 8), "a fifth chose"
    assert (known["rotated"]["turned"], known["turned_jpeg75"]["near"]) == (32, 32)
    for form in forms(mine):
        assert found[f"recall_{form}"].value == 1
    assert found["recall_shift16"].value < 0.2, "an overlapping field of view is another tile to the passport"
    assert found["recall_turned_jpeg75"].reached
    assert (found["false_alarms"].value, found["false_alarms"].reached) == (0, True)
    assert found["recall_as_is"].text == "1.0000 (40 of 40; 0 are blank)"


def test_false_alarms_are_counted_a_tile_that_was_looked_at() -> None:
    known = {"as_is": {"known": 9, "n": 10, "blank": 1}}
    false = {"as_is": {"known": 1, "n": 50}, "jpeg75": {"known": 0, "n": 50}}
    found = figures_of(known, false, 7000)["false_alarms"]
    assert found.value == pytest.approx(100)
    assert not found.reached
    assert found.text == "100.00 (1 of 50 tiles in 2 forms, 7,000 trained on)"
