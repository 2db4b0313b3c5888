"""The page of a comparison: every figure on it, data never markup, and a real browser that opens, sorts and prints it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sentinode.judge.comparison import Comparison, Provenance
from sentinode.judge.contest import contest
from sentinode.judge.spread import Cell, spread_of
from sentinode.judge.statement import slides_of
from sentinode.report.comparison import comparison_picture
from sentinode.report.contest import verdict, write_page
from tests.report.browser import Browser, browser
from tests.report.test_page import HOSTILE, WIDE, read, words

SEEN: dict[str, Any] = {
    "n": 240,
    "exact": 2,
    "turned": 1,
    "near": 5,
    "slides": 3,
    "slides_unknown": 0,
    "chosen": 4,
    "examples": {},
}


def compared(called: str) -> Comparison:
    """Return a comparison of a good model, its twin in two runs, a poor one and the floor; `called` stands in every name."""
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(2, size=240), np.array([f"slide {number % 12}" for number in range(240)])
    good, poor, floor = (2 * labels * gain + rng.normal(size=240) for gain in (1.0, 0.5, 0.1))
    twins = [2 * labels + rng.normal(size=240) for _ in range(2)]
    names = {f"good {called}": [good], f"twins {called}": twins, f"poor {called}": [poor], "colour floor": [floor]}
    found = contest(labels, names, slides_of(groups), 200, 0, 0.8)
    provenance = {name: Provenance("run", "other slides") for name in names}
    provenance[f"good {called}"] = Provenance("run", "other slides", True, SEEN)
    cells = [Cell(seed, "", 0.9 - 0.01 * seed) for seed in range(2)]
    provenance[f"twins {called}"] = Provenance("recipe", "other slides", runs=("run 0", "run 1"), spread=spread_of(cells))
    provenance["colour floor"] = Provenance("floor", "other slides")
    record = {
        "command": [f"sentinode compare '{called}'"],
        "versions": {"sentinode": "0.1.0"},
        "machine": {"system": "Linux"},
        "store": {"name": called, "digest": "b" * 64, "n": 240, "px": 24, "classes": ["normal", called]},
        "runs": [],
    }
    about = {"n": 240, "n_positive": int(labels.sum()), "n_groups": 12, "n_unlabelled": 0, "resamples": 200, "seed": 0}
    ordered = {name: provenance[name] for name in found.figures}
    warnings = (f"contaminated: good {called}", *found.warnings)
    return Comparison(found, ordered, warnings, about | {"power": 0.8, "test_store": "b" * 64, "record": record})


def written(folder: Path, called: str) -> Path:
    """Write the page of `compared` and return it."""
    found = compared(called)
    folder.mkdir()
    spreads = {name: one.spread.lines() for name, one in found.provenance.items() if one.spread}
    write_page(folder / "report.html", found.as_dict(), spreads, found.plans(), comparison_picture(found.as_dict()))
    return folder / "report.html"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("contest")
    for name, called in (("plain", "model"), ("hostile", HOSTILE)):
        written(folder / name, called)
    return folder


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


def test_the_page_holds_every_contestant_pair_and_plan_and_asks_for_nothing(place: Path) -> None:
    reader = read((place / "plain" / "report.html").read_text("utf-8"))
    found = compared("model")
    values, text = json.loads(json.dumps(found.as_dict())), words(reader)
    assert all(one.startswith(("data:image/", "#")) for one in reader.asked)
    for name, one in values["contestants"].items():
        marked = f"{name} (contaminated)" if one["contaminated"] else name
        assert f"{marked} {one['rank']} {one['auroc']['estimate']:.4f}" in text
    for pair in values["pairs"]:
        difference, told = pair["difference"], "told apart" if pair["told_apart"] else "not told apart"
        ends = f"{difference['estimate']:+.4f} {difference['low']:+.4f} to {difference['high']:+.4f}"
        assert f"{pair['first']} less {pair['second']} {told} {ends} {pair['p_holm']:.2g} {pair['p']:.2g}" in text
    assert found.plans()
    for said in (*found.plans(), *values["warnings"], values["rule"], "sentinode compare 'model'", "Not a medical device"):
        assert said in text
    assert "good model 2 of 240 1 of 240 5 of 240 3 of 240 4 of 240" in text, "the passport"
    assert "twins model run 0, run 1 seed" in text
    assert "unknown: predictions came without the run that made them" in text
    for line in next(one.spread.lines() for one in found.provenance.values() if one.spread):
        assert " ".join(line.split()) in text


def test_warnings_come_before_the_headline(place: Path) -> None:
    text = words(read((place / "plain" / "report.html").read_text("utf-8")))
    assert text.index("contaminated: good model") < text.index("AUROC, contaminated")


def test_what_comes_from_data_is_text(place: Path) -> None:
    raw = (place / "hostile" / "report.html").read_text("utf-8")
    plain, reader = read((place / "plain" / "report.html").read_text("utf-8")), read(raw)
    assert sorted(reader.tags) == sorted(plain.tags)
    assert reader.attributes == plain.attributes
    assert "onerror" not in re.sub(r"&lt;img src=x onerror", "", raw)


def test_the_verdict_names_who_is_tied_and_counts_who_is_behind() -> None:
    def of(*ranks: str) -> str:
        return verdict({"contestants": {f"m{number}": {"rank": rank} for number, rank in enumerate(ranks)}})

    assert of("a", "b") == "It is told apart from the other."
    assert of("a", "b", "c") == "It is told apart from both others."
    assert of("a", "b", "c", "c") == "It is told apart from all 3 others."
    assert of("a", "ab", "b") == "Not told apart from it: m1. Behind it: 1."
    assert of("a", "a") == "Not told apart from it: m1."


@pytest.mark.parametrize("name", ["plain", "hostile"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_opens_it_without_errors_and_without_asking_anybody(place: Path, tab: Browser, name: str, width: int) -> None:
    page = place / name / "report.html"
    tab.open(page, width=width, dark=width > 1000)
    assert tab.said == []
    assert [url for url in tab.asked if not url.startswith("data:")] == [page.resolve().as_uri()]
    assert tab.value("Array.from(document.images).every(image => image.complete && image.naturalWidth > 0)")
    assert tab.value(WIDE) <= width
    assert tab.value("document.images.length") == 1


def test_headings_of_both_tables_sort_and_it_prints(place: Path, tab: Browser) -> None:
    tab.open(place / "plain" / "report.html")
    for table, column in (("#contestants", 2), ("#pairs", 4)):
        tab.value(f"document.querySelectorAll('{table} button')[{column}].click()")
        order = f"Array.from(document.querySelectorAll('{table} tbody tr')).map(row => Number(row.cells[{column}].dataset.value))"
        found = tab.value(order)
        assert len(found) >= 4
        assert found == sorted(found)
    assert len(re.findall(rb"/Type\s*/Page\b", tab.paper())) >= 2


def test_paper_is_light_where_the_screen_is_dark(place: Path, tab: Browser) -> None:
    tab.open(place / "plain" / "report.html", dark=True)
    tab.call("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    told = tab.value("['backgroundColor', 'color'].map(name => getComputedStyle(document.body)[name])")
    tab.call("Emulation.setEmulatedMedia", media="")
    paper, ink = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in told)
    assert paper > 700
    assert ink < 200
