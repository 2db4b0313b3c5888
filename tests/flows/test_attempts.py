"""What a rung's minutes hold: every attempt counted, and a + where something is missing."""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sentinode.flows.attempts import attempt, attempts_at, commit_of, seconds_of
from sentinode.flows.ladder import Ladder, ladder
from sentinode.report.ladder import minutes
from sentinode.settings import LadderSettings
from sentinode.tiles.pack import pack
from sentinode.tiles.synth import synthesise, write_kaggle_folder


def whole(folder: Path, **tiles: int) -> None:
    for key, n in tiles.items():
        (folder / key).mkdir(parents=True, exist_ok=True)
        np.save(folder / key / "features.npy", np.zeros((n, 1, 3), np.float32))


def interrupted(folder: Path, features: Path, **tiles: int) -> None:
    with attempt(folder, "frozen", [features]):
        whole(features, **tiles)
        raise KeyboardInterrupt


def test_an_attempt_is_noted_before_it_begins_and_when_it_ends(tmp_path: Path) -> None:
    features = tmp_path / "S.features"
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path, features, a=5)
    with attempt(tmp_path, "frozen", [features]):
        assert attempts_at(tmp_path, "frozen")[1]["seconds"] is None, "a kill now would leave this"
        whole(features, a=7, b=3)
    first, second = attempts_at(tmp_path, "frozen")
    assert (first["extracted"], second["extracted"]) == (5, 5)
    assert first["seconds"] >= 0
    for one in (first, second):
        assert one["machine"]["cores"] >= 1
        assert one["versions"]["torch"]
        assert one["threads"] >= 1
        assert {"started", "ended", "load_average", "load_average_at_end", "commit", "changed"} <= set(one)
    assert attempts_at(tmp_path, "finetune") == []


def tried(seconds: float | None, extracted: int = 0) -> dict[str, Any]:
    return {"seconds": seconds, "extracted": extracted}


@pytest.mark.parametrize(
    ("attempts", "cached", "seconds", "lack"),
    [
        ([tried(61.0, 10)], False, 60.0, ""),
        ([tried(50.0, 4), tried(61.0, 6)], False, 110.0, ""),
        ([tried(50.0, 10), tried(61.0)], True, 110.0, ""),
        ([tried(61.0)], True, 60.0, "there already"),
        ([tried(61.0, 9)], False, 60.0, "there already"),
        ([tried(None), tried(61.0, 10)], False, 60.0, "killed"),
        ([], True, 60.0, "there already"),
        ([], False, 60.0, ""),
    ],
)
def test_seconds_of_a_frozen_rung_are_those_of_all_attempts(
    attempts: list[dict[str, Any]], cached: bool, seconds: float, lack: str
) -> None:
    got, said = seconds_of({"seconds": 60.0, "cached": cached}, attempts, 10)
    assert got == seconds
    assert lack in said
    assert bool(said) == bool(lack)


def test_a_networks_checkpoint_counts_for_itself() -> None:
    assert seconds_of({"seconds": 60.0}, [tried(50.0), tried(20.0)], 10) == (60.0, "")


def test_the_commit_is_that_of_the_checkout_and_changes_are_told(tmp_path: Path) -> None:
    assert commit_of(tmp_path) == {"commit": "", "changed": False}

    def git(*words: str) -> str:
        user = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        return subprocess.run(
            ["git", "-C", str(tmp_path), *user, *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    git("init", "-q")
    (tmp_path / "file").write_text("1", encoding="utf-8")
    git("add", "file")
    git("commit", "-qm", "one")
    assert commit_of(tmp_path) == {"commit": git("rev-parse", "HEAD"), "changed": False}
    (tmp_path / "file").write_text("2", encoding="utf-8")
    assert commit_of(tmp_path)["changed"]


def test_minutes_that_lack_the_extraction_are_marked_everywhere(tmp_path: Path) -> None:
    write_kaggle_folder(tmp_path / "tiles", synthesise(6, 16, px=32, difficulty=0.3, seed=3))
    store = pack(tmp_path / "tiles", out=tmp_path / "S.store", quiet=True).path
    settings = LadderSettings(
        model="test_resnet", weights="none", input_size=32, rungs="floor,frozen", precision="fp32", resamples=100, study=False
    )

    def climbed(name: str) -> Ladder:
        return ladder(store, out=tmp_path / name, settings=settings, quiet=True)

    first, second = climbed("first"), climbed("second")
    rows = [got.values["rungs"][1] for got in (first, second)]
    assert [minutes(row)[-1] == "+" for row in rows] == [False, True]
    assert not rows[0]["notes"]
    assert "there already" in rows[1]["notes"][0]
    text = (second.out / "ladder.csv").read_text("utf-8")
    assert "minutes_lack" in text.splitlines()[0]
    assert text.count("there already") == 2, "in minutes_lack and in notes"
    assert "at least these" in (second.out / "ladder.html").read_text("utf-8")
    assert any("at least these" in line for line in second.lines())
    assert "as far as noted" in rows[1]["cost"]
    assert set(second.values["conditions"]) == {"floor", "frozen"}
