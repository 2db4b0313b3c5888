"""A ladder of pretrained rungs, climbed at once and climbed with a kill at every rung: the same table, from small networks of timm's."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sentinode.fit import features
from sentinode.flows import ladder as flow
from sentinode.flows.ladder import Ladder, ladder
from sentinode.flows.rungs import train_rung
from sentinode.nets.engine import named
from sentinode.settings import LadderSettings
from sentinode.tiles.pack import pack
from sentinode.tiles.synth import synthesise, write_kaggle_folder

SETTINGS = LadderSettings(
    model="test_resnet",
    weights="none",
    input_size=48,
    rungs="floor,frozen,finetune,ensemble",
    members="test_efficientnet@32",
    epochs=1,
    batch=16,
    precision="fp32",
    resamples=100,
    study=False,
)
TIMES = {"minutes", "train_tiles_per_s", "predict_tiles_per_s", "cost", "machine", "conditions", "command", "store"}


def packed(folder: Path, name: str, seed: int) -> Path:
    write_kaggle_folder(folder / name, synthesise(6, 16, px=32, difficulty=0.3, seed=seed))
    return pack(folder / name, out=folder / f"{name}.store", groups=str(folder / name / "slides.csv"), quiet=True).path


def lasting(value: Any) -> Any:
    """Return a result without what the clock decides."""
    if isinstance(value, dict):
        return {name: lasting(one) for name, one in value.items() if name not in TIMES}
    return [lasting(one) for one in value] if isinstance(value, list) else value


@pytest.fixture(autouse=True)
def _one_form() -> Iterator[None]:
    """Which form of a network extracts is timed, and forms differ in their last digits: here it is always the plain one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "fastest", lambda module, example, **_: named("eager fp32", module, example))
        yield


def go(folder: Path) -> Ladder:
    """Climb in `folder`, with stores of its own, so that no features of another ladder are met."""
    if not (folder / "other.store").exists():
        packed(folder, "first", 3)
        packed(folder, "other", 4)
    return ladder(
        folder / "first.store", out=folder / "out", test=folder / "other.store", settings=SETTINGS, resume=True, quiet=True
    )


def stop(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def stopped_after(runs: int) -> Callable[..., Any]:
    """Return a `train_rung` that trains or opens so many runs, then one more, and ends as by Ctrl-C."""
    left, trained = [runs], train_rung

    def train_some(*words: Any) -> Any:
        run = trained(*words)
        left[0] -= 1
        return stop() if left[0] < 0 else run

    return train_some


def test_killed_at_every_rung_it_ends_with_the_table_of_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = go(tmp_path / "whole")
    assert [row["name"] for row in whole.values["rungs"]] == ["floor", "frozen", "finetune", "ensemble"]
    candidates = {row["name"]: row for row in whole.values["ensemble"]["candidates"]}
    assert set(candidates) == {"frozen", "finetune", "finetune-test_efficientnet-32"}
    assert candidates["finetune"]["network"] == "test_resnet"
    assert {path.name for path in (whole.out / "rungs").iterdir()} == {"floor", *candidates}

    stops: list[tuple[str, Callable[..., Any]]] = [("train_rung", stopped_after(runs)) for runs in range(3)]
    stops += [(place, stop) for place in ("climb_ensemble", "write_ladder")]
    for place, stopped in stops:
        monkeypatch.setattr(flow, place, stopped)
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "killed")
        monkeypatch.undo()
    killed = go(tmp_path / "killed")
    assert lasting(killed.values) == lasting(whole.values)
