"""The command `audit`: planted faults are found and named, what cannot be given says why, data stay data."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sentinode.cli import main
from sentinode.errors import MachineProblem, StoreProblem, UsageProblem
from sentinode.flows.audit import audit
from sentinode.flows.review import QUEUE
from sentinode.qc.domains import PREFIX
from sentinode.scores import unguarded
from sentinode.tiles.store import Store
from sentinode.tiles.synth import synthesise
from tests.qc.stores import store_of

TISSUE = synthesise(6, 20, px=48, difficulty=0.1, seed=8)


def made(path: Path, *, slides: bool = True) -> Store:
    """Write a store with a copy of another label, glass, a formula as id, and a flipped label."""
    tiles, labels, groups = TISSUE.tiles.copy(), TISSUE.labels.copy(), list(TISSUE.groups)
    tiles[1], labels[1], groups[1] = tiles[0], 1 - labels[0], groups[0]
    tiles[30] = 240
    ids = ["=1+1", *TISSUE.ids[1:]]
    return store_of(path, tiles, labels, ids=ids, groups=groups if slides else None)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit")
    store = made(folder / "one.store")
    other = np.concatenate([synthesise(1, 10, px=48, seed=9).tiles, TISSUE.tiles[50:51, ::-1]])
    against = store_of(folder / "two.store", other, np.zeros(len(other), np.int8))
    audit(store, out=folder / "out", against=against, probe="colour", quiet=True)
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_what_was_planted_is_found(place: Path) -> None:
    record = json.loads((place / "out" / "audit.json").read_text("utf-8"))
    assert record["duplicates"]["conflicting_sets"] == 1
    assert record["quality"]["blank"] == 1
    assert record["against"]["tiles"] == 1
    assert "1 tiles are also in the other store" in record["warnings"][0]
    assert list(record["leak_ladder"]["figures"])[:3] == ["random", "duplicate-aware", "grouped"]
    assert record["suspects"]["folds"] == "slides"
    assert record["balance"]["of"] == "slides"
    assert sum(row["tiles"] for row in record["balance"]["groups"]) == 120
    turned = [row for row in rows_of(place / "out" / "pairs.csv") if row["where"] == "between"]
    assert [row["id_a"] for row in turned] == [TISSUE.ids[50]]
    assert not (place / "out" / "pseudo_groups.csv").exists()
    assert not (place / "out" / "unfinished.json").exists()
    for name in ("spoilt", "suspects", "duplicates_inside", "duplicates_between", "domains", "leaks"):
        for kind in ("svg", "png"):
            assert (place / "out" / "figures" / f"{name}.{kind}").stat().st_size > 1000


def test_the_queue_begins_with_conflicts_and_no_spreadsheet_runs_it(place: Path) -> None:
    queue = rows_of(place / "out" / "queue.csv")
    assert tuple(queue[0]) == QUEUE
    conflicts = [row for row in queue if row["reason"] == "conflicting duplicates"]
    assert {unguarded(row["id"]) for row in conflicts} == {"=1+1", TISSUE.ids[1]}
    assert queue[: len(conflicts)] == conflicts
    assert "'=1+1" in {row["id"] for row in conflicts}
    suspects = [row for row in queue if row["reason"] == "label suspect"]
    assert len(suspects) == round(0.06 * 120)
    scores = [float(row["score"]) for row in suspects]
    assert scores == sorted(scores, reverse=True)
    assert {row["label"] for row in queue} <= {"0", "1"}
    assert len(rows_of(place / "out" / "tiles.csv")) == 120


def test_without_slides_pseudo_groups_are_proposed_and_named_so(tmp_path: Path) -> None:
    found = audit(made(tmp_path / "s.store", slides=False), out=tmp_path / "out", probe="colour", quiet=True)
    assert found.record["balance"]["of"] == "pseudo-groups (not slides)"
    assert "not known" in found.record["leak_ladder"]["missing"]["grouped"]
    table = rows_of(tmp_path / "out" / "pseudo_groups.csv")
    assert tuple(table[0]) == ("id", "pseudo_group")
    assert all(row["pseudo_group"].startswith(PREFIX) for row in table)
    lines = found.lines()
    assert repr(found) == "\n".join(lines)
    assert lines[0].startswith("WARNING")
    assert any("leaks       grouped          not given, because: 120 tiles" in line for line in lines)


def test_pseudo_groups_that_were_packed_are_no_slides(tmp_path: Path) -> None:
    groups = [f"{PREFIX}{at % 3}" for at in range(120)]
    store = store_of(tmp_path / "s.store", TISSUE.tiles, TISSUE.labels, groups=groups)
    found = audit(store, out=tmp_path / "out", probe="colour", quiet=True).record
    assert "grouped" in found["leak_ladder"]["missing"]
    assert any("120 tiles are pseudo-groups that were packed as if they were slides" in text for text in found["warnings"])


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        (np.full(120, -1), "no tile with a label; labelled tiles are needed"),
        (
            np.zeros(120),
            "120 with 0 positive and 120 negative tiles; tiles that make two folds with both classes are needed",
        ),
        (np.eye(1, 120)[0], "120 with 1 positive and 119 negative tiles"),
    ],
)
def test_without_two_classes_the_rest_is_given(
    labels: np.ndarray[tuple[int], np.dtype[np.float64]], why: str, tmp_path: Path
) -> None:
    store = store_of(tmp_path / "s.store", TISSUE.tiles, labels.astype(np.int8), groups=TISSUE.groups)
    found = audit(store, out=tmp_path / "out", probe="colour", quiet=True)
    assert found.record["leak_ladder"] is None
    assert found.record["suspects"] is None
    assert found.record["missing"]["leak ladder"].startswith(why)
    assert (
        sum(line.startswith(("leaks       not given, because", "suspects    not given, because")) for line in found.lines()) == 2
    )
    assert found.record["quality"]["blank"] == 0


def test_few_tiles_of_one_slide_are_audited(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s.store", TISSUE.tiles[:6], np.array([0, 1, 0, 1, 0, 1], np.int8), groups=["one"] * 6)
    found = audit(store, out=tmp_path / "out", probe="colour", quiet=True).record
    assert "1 with 3 positive and 3 negative tiles; slides that" in found["leak_ladder"]["missing"]["grouped"]
    assert found["suspects"]["folds"].startswith("tiles (optimistic")


def test_stores_that_do_not_fit_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    small = store_of(tmp_path / "small.store", TISSUE.tiles[:4, :24, :24], TISSUE.labels[:4])
    store = store_of(tmp_path / "s.store", TISSUE.tiles[:4], TISSUE.labels[:4])
    empty = store_of(tmp_path / "empty.store", TISSUE.tiles[:0], TISSUE.labels[:0])
    with pytest.raises(StoreProblem, match=r"expected tiles of 48 px in both stores; found 24 px in .*--px 48"):
        audit(store, out=tmp_path / "out", against=small, quiet=True)
    with pytest.raises(StoreProblem, match=r"expected tiles in .*; found an empty store; pack"):
        audit(empty, out=tmp_path / "out", quiet=True)
    with pytest.raises(UsageProblem, match=r"expected a share from 0 to 1 for the queue; found '2.0'; change --queue"):
        audit(store, out=tmp_path / "out", queue=2.0, quiet=True)
    with pytest.raises(UsageProblem, match="expected workers from 1 to 1024; found '0'"):
        audit(store, out=tmp_path / "out", workers=0, quiet=True)
    assert not (tmp_path / "out").exists()


def test_a_network_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sentinode.flows.probes.installed", lambda: False)
    store = made(tmp_path / "s.store")
    with pytest.raises(MachineProblem, match=r"expected the network .*; found not installed; pip install .*--probe colour"):
        audit(store, out=tmp_path / "out", probe="network", quiet=True)
    found = audit(store, out=tmp_path / "out", quiet=True).record["suspects"]
    assert found["probe"] == "colour"
    assert "is not installed" in found["why"]


def test_the_command_line_prints_json_and_keeps_what_is_there(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["audit", str(place / "one.store"), "--out", str(place / "out"), "--probe", "colour", "--quiet", "--json"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "a finished one" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main([*words[:3], str(place / "again"), *words[4:]])
    assert ended.value.code == 0
    told = json.loads(capsys.readouterr().out)
    first = json.loads((place / "out" / "audit.json").read_text("utf-8"))
    assert told["leak_ladder"] == first["leak_ladder"]
    assert pd.read_csv(place / "again" / "queue.csv").equals(pd.read_csv(place / "out" / "queue.csv"))
