"""The ladder's record claims the conditions that were noted when rungs were trained, and says where nobody noted any."""

from typing import Any

from benchmarks.ladder import conditions_of, figures_of_ensemble, notes_of
from benchmarks.records import warnings


def noted(started: str, load: float = 0.2, commit: str = "a" * 40, changed: bool = False) -> dict[str, Any]:
    of = {"started": started, "machine": {"cores": 2, "cpu": "then"}, "threads": 2, "load_average": [load, 0, 0]}
    return of | {"versions": {"torch": "1"}, "commit": commit, "changed": changed, "seconds": 1.0}


NOW: dict[str, Any] = {
    "started": "2026-02-02",
    "machine": {"cores": 64, "cpu": "now"},
    "threads": 64,
    "load_average": [60.0, 0, 0],
    "versions": {"torch": "2", "timm": "3"},
    "git": {"sha": "b" * 40, "dirty": True},
}


def test_conditions_are_those_of_the_training_and_not_of_today() -> None:
    rungs = {"finetune": [noted("2026-01-02")], "floor": [noted("2026-01-01")]}
    got = conditions_of(NOW, rungs)
    assert (got["started"], got["machine"]["cpu"], got["threads"]) == ("2026-01-01", "then", 2)
    assert got["git"] == {"sha": "a" * 40, "dirty": False}
    assert got["versions"] == {"torch": "1", "timm": "3"}
    assert got["read"]["git"] == NOW["git"]
    assert got["rungs"] == rungs
    assert not warnings(got)
    assert conditions_of(NOW, {}) == NOW


def test_what_was_not_noted_and_what_was_poor_is_said() -> None:
    assert notes_of({"floor": [noted("1")]}, []) == []
    rungs = {"floor": [noted("1")], "finetune": [noted("2", load=7.5), noted("3", commit="")]}
    unknown, busy, commits = notes_of(rungs, ["finetune", "p4m-cnn"])
    assert "nobody noted: p4m-cnn." in unknown
    assert "finetune (7.5 on 2 cores)" in busy
    assert f"{'a' * 12}, unknown" in commits


def test_members_and_views_are_figures() -> None:
    figure = {"estimate": 0.95, "low": 0.94, "high": 0.96}
    rows: list[dict[str, Any]] = [
        {"name": "finetune", "title": "fine-tuned backbone", "picked": 1, "test": figure},
        {"name": "finetune-x", "title": "fine-tuned x", "picked": 2, "test": figure},
        {"name": "p4m-cnn", "title": "equivariant CNN", "picked": None, "test": figure},
    ]
    told: dict[str, Any] = {"candidates": rows, "views_alone": {"estimate": 0.004, "low": 0.002, "high": 0.006}}
    runs = {row["name"]: {"cost": {"cpu_minutes": 51.7}} for row in rows}
    got = figures_of_ensemble(told, runs)
    assert (got["ensemble_members"].value, got["ensemble_members"].text) == (2, "fine-tuned backbone, fine-tuned x")
    assert got["finetune-x_cpu_minutes"].text == "52 CPU minutes"
    assert "finetune_cpu_minutes" not in got, "told with its bar by the rung"
    assert got["views_alone_difference"].text == "+0.0040 (+0.0020 to +0.0060)"
    assert got["p4m-cnn_views"].value == 0.95
