"""A map of logits that helps travels in shift and temperature, and the model then says what the map says."""

import numpy as np
import pytest

from sentinode.fit.record import command_of, with_calibration
from sentinode.judge.recalibrate import Recalibration
from sentinode.nets.trained import ModelFacts
from sentinode.nets.transform import Preprocessing

FACTS = ModelFacts("simple-cnn", {}, Preprocessing((0.5,) * 3, (0.5,) * 3), 24, ("0", "1"), logit_shift=-0.7)


def taken(kind: str, scale: float, shift: float) -> Recalibration:
    return Recalibration(kind, scale, shift, "5 folds of slides", "why", 0.5, {})


def test_a_map_travels_in_shift_and_temperature() -> None:
    raw = np.linspace(-4, 4, 9)
    facts = with_calibration(FACTS, taken("platt", 0.4, 1.3))
    assert (raw + facts.logit_shift) / facts.temperature == pytest.approx(0.4 * (raw - 0.7) + 1.3)


def test_no_map_changes_nothing() -> None:
    assert with_calibration(FACTS, taken("none", 1.0, 0.0)) is FACTS


@pytest.mark.parametrize("program", ["/opt/bin/sentinode", "sentinode", "/lib/sentinode/__main__.py", "bin/sentinode.exe"])
def test_a_command_is_kept_however_it_was_started(program: str) -> None:
    told = ["train", "s.store", "--storage", "postgresql://me:secret@host/db"]
    assert command_of([program, *told]) == ["sentinode", *told[:-1], "postgresql://me:***@host/db"]


@pytest.mark.parametrize("program", ["notebook.py", "", "-c", "other/__main__.py"])
def test_a_call_from_python_names_no_command(program: str) -> None:
    assert command_of([program, "train"]) == ["python"]
