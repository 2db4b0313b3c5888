"""Records come back as they were written, are never written over, and fill README's places exactly."""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.clock import Measured, in_turn, ratio, spread
from benchmarks.fill_readme import filled
from benchmarks.records import Figure, Record, conditions, figure, latest, read_record, table, warnings, write_record
from sentinode.errors import DataProblem

ROOT = Path(__file__).parents[2]


def record(value: float = 9.0, suite: str = "pack") -> Record:
    raw = {
        "ours": [{"seconds": 0.5, "n": 100}, {"seconds": 0.25, "n": 100}],
        "peer": [{"seconds": 4.5, "n": 100}, {"seconds": 2.0, "n": 100}],
    }
    speedup = Figure(value, f"{value:.1f}x", "x", bar=8)
    return Record(suite, "all of it", {"ours": "our way", "peer": "their way"}, raw, {"speedup": speedup}, conditions(n=100))


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    made = record()
    folder = write_record(made, tmp_path, date="2024-05-06")
    assert folder.name == "2024-05-06-pack"
    back = read_record(folder)
    assert (back.suite, back.raw, back.figures, back.variants) == (made.suite, made.raw, made.figures, made.variants)
    assert {name: back.conditions[name] for name in made.conditions} == json.loads(json.dumps(made.conditions))


def test_a_record_says_what_a_figure_depends_on(tmp_path: Path) -> None:
    whole = json.loads((write_record(record(), tmp_path) / "run.json").read_text(encoding="utf-8"))["conditions"]
    assert {"started", "ended", "machine", "threads", "load_average", "versions", "git", "command", "n"} <= whole.keys()
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert whole["git"]["sha"] == (done.stdout.strip() if done.returncode == 0 else "")
    assert str(Path.home()) not in json.dumps(whole)


def test_a_record_is_never_written_over(tmp_path: Path) -> None:
    names = [write_record(record(float(k)), tmp_path, date="2024-05-06").name for k in range(11)]
    assert names[:3] == ["2024-05-06-pack", "2024-05-06-pack-2", "2024-05-06-pack-3"]
    assert len(set(names)) == 11
    assert latest("pack", tmp_path).figures["speedup"].value == 10.0


def test_the_newest_record_counts_and_suites_are_not_mixed_up(tmp_path: Path) -> None:
    write_record(record(2.0), tmp_path, date="2024-05-06")
    write_record(record(1.0), tmp_path, date="2023-12-31")
    write_record(record(3.0, suite="pack-more"), tmp_path, date="2025-01-01")
    assert latest("pack", tmp_path).figures["speedup"].value == 2.0


def test_a_missing_a_cut_and_a_foreign_record_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataProblem) as caught:
        latest("pack", tmp_path)
    assert caught.value.expected == "a record of suite 'pack'"
    assert caught.value.found.startswith("none in")
    assert caught.value.do == "run python -m benchmarks.pack"
    path = write_record(record(), tmp_path) / "run.json"
    for text in (path.read_text(encoding="utf-8")[:100], '{"format": 99}', '{"format": 1, "suite": "pack"}'):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(DataProblem):
            read_record(path.parent)


def test_the_table_holds_medians_and_whether_the_bar_is_reached() -> None:
    text = table(record(9.0))
    assert f"| our way | {statistics.median([200, 400]):.0f} (200 to 400) | 2 |" in text
    assert "| speedup | 9.0x | 8 x: reached |" in text
    assert "| speedup | 7.0x | 8 x: NOT reached |" in table(record(7.0))


def test_ratios_are_paired_with_the_neighbour_in_time() -> None:
    """Each turn's own ratio counts, so that a machine that slows down between turns changes nothing: 9 and 8 here."""
    assert ratio(record().raw, "ours", "peer") == {"median": 8.5, "low": 8.0, "high": 9.0}
    assert figure(spread([8.5, 8.0, 9.0]), "x").text == "8.5x (8.0 to 9.0)"
    assert figure(spread([8.5]), "x") == figure(8.5, "x")
    assert figure(8.5, "x").text == "8.5x"


def test_poor_conditions_are_said() -> None:
    good = {"machine": {"cores": 2}, "threads": 2, "load_average": [0.2, 3.0, 3.0], "git": {"sha": "", "dirty": False}}
    assert warnings(good) == []
    for name, value in (("threads", 1), ("load_average", [1.7, 0.0, 0.0]), ("git", {"sha": "", "dirty": True})):
        assert len(warnings(good | {name: value})) == 1


def test_peers_run_in_turn(capsys: pytest.CaptureFixture[str]) -> None:
    order: list[str] = []

    def variant(name: str) -> Callable[[], Measured]:
        def run() -> Measured:
            order.append(name)
            return {"seconds": 1.0, "n": 7}

        return run

    raw = in_turn({name: variant(name) for name in "AB"}, 3)
    assert "".join(order) == "ABABAB"
    assert [len(turns) for turns in raw.values()] == [3, 3]
    assert "7 tiles/s" in capsys.readouterr().out


def test_less_is_better_where_the_figure_says_so() -> None:
    assert Figure(1.05, "", "x", 1.1, higher_is_better=False).reached is True
    assert Figure(1.20, "", "x", 1.1, higher_is_better=False).reached is False
    assert Figure(1.20, "").reached is None


def test_places_are_filled_and_nothing_else_is_touched(tmp_path: Path) -> None:
    write_record(record(9.0), tmp_path)
    text = "Fast: <!-- record:pack.speedup -->old<!-- /record --> than a loop.\n<!-- record:pack --><!-- /record -->\nend"
    new = filled(text, tmp_path)
    assert new.startswith("Fast: <!-- record:pack.speedup -->9.0x<!-- /record --> than a loop.\n<!-- record:pack -->\n\n| what |")
    assert new.endswith("<!-- /record -->\nend")
    assert filled(new, tmp_path) == new


@pytest.mark.parametrize(
    ("text", "expected", "do"),
    [
        ("<!-- record:pack.speedip --><!-- /record -->", "a figure of suite pack", "did you mean speedup?"),
        ("<!-- record:pack.speedup -->9", "<!-- /record --> after every", "close the place"),
        ("<!-- record:pack.speedup --><!-- record:pack --><!-- /record -->", "<!-- /record --> after", "close the place"),
        ("<!-- record:feed.speedup --><!-- /record -->", "a record of suite 'feed'", "run python -m benchmarks.feed"),
    ],
)
def test_a_place_that_cannot_be_filled_is_said_so(tmp_path: Path, text: str, expected: str, do: str) -> None:
    write_record(record(9.0), tmp_path)
    with pytest.raises(DataProblem) as caught:
        filled(text, tmp_path)
    assert caught.value.expected.startswith(expected)
    assert caught.value.found
    assert caught.value.do == do


def test_check_fails_on_a_stale_page_and_writes_nothing(tmp_path: Path) -> None:
    page, records = tmp_path / "README.md", tmp_path / "records"
    write_record(record(9.0), records)
    page.write_text("<!-- record:pack.speedup -->100x<!-- /record -->", encoding="utf-8")

    def run(*more: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "benchmarks.fill_readme", str(page), "--records", str(records), *more]
        code = subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode
        return code, page.read_text(encoding="utf-8")

    assert run("--check") == (1, "<!-- record:pack.speedup -->100x<!-- /record -->")
    assert run() == (0, "<!-- record:pack.speedup -->9.0x<!-- /record -->")
    assert run("--check")[0] == 0
