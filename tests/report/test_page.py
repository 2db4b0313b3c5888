"""The page of a judgement: everything on it, nothing fetched, data never markup, and a real browser that sorts, darkens and prints it."""

import dataclasses
import html.parser
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix

from sentinode.errors import UndefinedScore
from sentinode.flows.evidence import write_report
from sentinode.judge.bands import slide_rows
from sentinode.judge.judgement import Judgement, judge_scores
from sentinode.report.card import UNKNOWN, answers
from sentinode.report.gallery import Gallery, heat, surest_of_both, write_mistakes
from sentinode.report.html import estimate
from sentinode.report.page import Evidence, page_text, verdict
from sentinode.scores import Scores, logit_of
from tests.report.browser import Browser, browser

HOSTILE = "<img src=x onerror=alert(1)>\"'&{{7*7}}</script><script>alert(2)</script>"
MAPS = "occlusion"


def scores(n_slides: int = 6, n: int = 240, name: str = "slide ") -> Scores:
    """Return predictions on slides that differ in how hard they are; the last has one class only."""
    rng = np.random.default_rng(0)
    codes = np.arange(n) % n_slides
    labels = np.where(codes == n_slides - 1, 0, rng.integers(2, size=n))
    p = 1 / (1 + np.exp(-(1.6 * (2 * labels - 1) + 0.6 * codes - 1 + rng.normal(size=n))))
    table = pd.DataFrame(
        {
            "id": [f"{name}tile {number}" for number in range(n)],
            "group": [f"{name}{code}" for code in codes],
            "label": labels,
            "logit": logit_of(p),
            "probability": p,
        }
    )
    return Scores(table.assign(floor_probability=rng.random(n)))


def judged(found: Scores, name: str = "run 1") -> Judgement:
    """Judge them, with a passport, warnings and a record as `evaluate` adds them."""
    judgement = judge_scores(found, 0.5, "chosen on valid", found.table["floor_probability"].to_numpy(), resamples=100)
    run = {
        "name": name,
        "network": "simple-cnn",
        "px": 24,
        "backbone": "scratch",
        "settings": {"epochs": 4, "lr": 0.003, "batch": 64, "seed": 7, "balance": True},
        "n_train": 800,
        "n_valid": 200,
        "split": "grouped",
        "best_epoch": 3,
        "weights": "",
        "mean": [0.7, 0.5, 0.7],
        "std": [0.2, 0.2, 0.2],
        "minutes": 1.5,
        "digest": "a" * 32,
        "calibration": {"kind": "platt", "why": f"it helps {name}", "by": "5 folds of slides"},
    }
    store = {"name": f"{name}.store", "digest": "b" * 64, "n": len(found), "px": 24, "classes": ["normal", name]}
    store |= {"sources": [{"name": name, "kind": "class folders", "listed": 240}], "quarantined": 1}
    record = {
        "command": [f"sentinode evaluate '{name}'"],
        "versions": {"sentinode": "0.1.0"},
        "machine": {"system": "Linux"},
        "store": store,
        "runs": [run],
        "saliency": MAPS,
    }
    passport: dict[str, Any] = {"n": 240, "exact": 2, "turned": 0, "near": 4, "slides": 3, "slides_unknown": 7, "chosen": 0}
    passport |= {"examples": {"exact": [name, "other"], "turned": [], "near": [name], "slides": [name], "chosen": []}}
    return dataclasses.replace(
        judgement,
        protocol="random tiles",
        contaminated=True,
        passport=passport,
        warnings=(f"contaminated: 2 tiles, such as {name}", *judgement.warnings),
        record=record,
    )


def gallery(found: Scores, name: str = "") -> Gallery:
    rng = np.random.default_rng(1)
    labels, p = found.table["label"].to_numpy(np.int64), found.table["probability"].to_numpy(np.float64)
    rows = surest_of_both(labels, p, 0.5, 4)
    return Gallery(
        rng.integers(0, 256, (len(rows), 24, 24, 3), dtype=np.uint8),
        [f"{name}{one}" for one in found.table["id"].to_numpy()[rows]],
        found.table["group"].to_numpy()[rows].tolist(),
        labels[rows],
        p[rows],
        rng.normal(size=(len(rows), 8, 8)),
        MAPS,
        int(((p >= 0.5) != (labels == 1)).sum()),
    )


class Reader(html.parser.HTMLParser):
    """What a browser would fetch, run and show."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.asked += [str(value) for name, value in attrs if name in {"src", "href", "srcset", "data", "action", "poster"}]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    return reader


def words(reader: Reader) -> str:
    return " ".join(" ".join(reader.text).split())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two reports: a plain one, and one whose data are hostile."""
    folder = tmp_path_factory.mktemp("page")
    for name, called in (("plain", "slide "), ("hostile", HOSTILE)):
        found = scores(name=called)
        write_report(folder / name, found.table, judged(found, "tumour" if name == "plain" else HOSTILE), gallery(found))
    return folder


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


def test_the_page_holds_every_number_and_asks_for_nothing(place: Path) -> None:
    reader = read((place / "plain" / "report.html").read_text("utf-8"))
    found = scores()
    values = json.loads(json.dumps(judged(found, "tumour").as_dict()))
    text = words(reader)
    assert all(one.startswith(("data:image/", "#")) for one in reader.asked)
    for figure in (*values["figures"].values(), *values["floor"].values()):
        assert f"{figure['estimate']:.4f}" in text
        assert f"{figure['low']:.4f} to {figure['high']:.4f}" in text
        assert figure["method"] in text
        assert f"{figure['tiles']['low']:.4f} to {figure['tiles']['high']:.4f}, {figure['tiles']['method']}" in text
    p = found.table["probability"].to_numpy()
    for row in slide_rows(found.table["label"].to_numpy(), p, found.table["group"].to_numpy(), 0.5):
        assert f"{row.group} {row.n} {row.n_positive} {row.accuracy:.3f} {row.low:.2f} to {row.high:.2f}" in text
    for said in (*values["warnings"], "Not a medical device", "one class", "random tiles", "2 of 240, such as tumour, other"):
        assert said in text
    for said in ("sentinode evaluate 'tumour'", "800 tiles trained, 200 chose", "grouped split", "b" * 64, "TRIPOD+AI 1;", MAPS):
        assert said in text
    assert estimate(values["floor"]["auroc"]) in text
    assert "overlap a training tile are not looked for here; sentinode audit --against finds them" in text
    assert (
        "re-encoded or slightly changed 4 of 240, such as tumour from a slide that was trained on 3 of 240, unknown of 7" in text
    )


def test_slides_that_are_not_known_are_not_none() -> None:
    values = judged(scores()).as_dict()
    values["passport"] |= {"slides": 0, "slides_unknown": 240}
    text = words(read(page_text(values, Evidence({}, "", [], None))))
    assert "from a slide that was trained on unknown: slides are not known" in text
    assert "of 240 it is not known whether their slide is shared" in text


def test_warnings_come_before_the_headline(place: Path) -> None:
    text = words(read((place / "plain" / "report.html").read_text("utf-8")))
    assert text.index("contaminated: 2 tiles") < text.index("AUROC, contaminated")


def test_what_comes_from_data_is_text(place: Path) -> None:
    raw = (place / "hostile" / "report.html").read_text("utf-8")
    plain, reader = read((place / "plain" / "report.html").read_text("utf-8")), read(raw)
    assert sorted(reader.tags) == sorted(plain.tags)
    assert reader.attributes == plain.attributes
    assert words(reader).count("{{7*7}}") > 20
    assert "onerror" not in re.sub(r"&lt;img src=x onerror", "", raw)


def test_pictures_are_saved_beside_the_page(place: Path) -> None:
    wanted = {
        f"{name}.{kind}" for name in ("roc", "precision_recall", "reliability", "scores", "mistakes") for kind in ("svg", "png")
    }
    assert {path.name for path in (place / "plain" / "figures").iterdir()} == wanted


def test_without_floor_slides_runs_or_mistakes_the_page_says_so() -> None:
    found = scores()
    table = found.table.assign(group="", probability=np.where(found.table["label"] == 1, 0.9, 0.1))
    judgement = judge_scores(Scores(table.drop(columns="floor_probability")), resamples=100)
    nobody = Gallery(np.zeros((0, 9, 9, 3), np.uint8), [], [], np.zeros(0, np.int64), np.zeros(0), None, "", 0)
    text = words(read(page_text(judgement.as_dict(), Evidence({}, "", [], nobody))))
    for said in (
        "Judgement of given scores",
        "No colour floor is known",
        "none can be named",
        "No tile is called wrong",
        "Unknown: predictions came without",
    ):
        assert said in text
    assert "None are shown" in words(read(page_text(judgement.as_dict(), Evidence({}, "", [], None))))


def figure(low: float, high: float) -> dict[str, Any]:
    return {"estimate": (low + high) / 2, "low": low, "high": high}


def test_the_verdict_follows_the_interval() -> None:
    for ends, said in (((0.01, 0.1), "Better than"), ((-0.1, -0.01), "Worse than"), ((-0.1, 0.1), "Not told apart from")):
        assert verdict({"floor": {"auroc_difference": figure(*ends)}}).startswith(said)


def test_the_card_answers_from_the_record_or_says_unknown() -> None:
    found = scores()
    values = judged(found).as_dict()
    told = {one.asked: one for one in answers(values)}
    labels, called = found.table["label"], found.table["probability"] >= 0.5
    (passed, alarms), (missed, hits) = confusion_matrix(labels, called)
    said = f"{hits} positives called positive, {missed} missed; {passed} negatives called negative, {alarms} false alarms."
    assert told["Cross-table"].answer == said
    came = "240 files or rows were listed, 1 refused, 240 packed; 240 with a label were judged,"
    assert (
        told["What came in and what was left out"].answer == f"{came} {labels.sum()} positive and {240 - labels.sum()} negative."
    )
    assert told["Ethics approval"].answer == UNKNOWN
    assert "epoch 3, on 200 tiles" in told["How the final model was chosen"].answer
    share = f"{labels.sum()} of 240 test tiles are positive; figures are of this share, not of a clinic's"
    assert told["Class imbalance"].answer == f"{share}; classes weighed equally in training."
    assert told["Data of the same or of other slides and sites"].answer.startswith("Internal: ")
    bare = {one.asked: one for one in answers(judge_scores(found, resamples=100).as_dict())}
    unsaid = ("The model", "Training", "Software", "Sources of the tiles", "Weights it began with", "Ensemble", "Robustness")
    for asked in (*unsaid, "What the model knows besides the tile", "Failures", "Data of the same or of other slides and sites"):
        assert bare[asked].answer == UNKNOWN


ASKED = {
    "TRIPOD+AI": "1 3a 3b 3c 4 5a 5b 6a 6b 6c 7 8a 8b 8c 9a 9b 10 11 12a 12b 12c 12d 12e 12f 12g 13 14 15 16 17 "
    "18a 18b 18c 18d 18e 18f 19 20a 20b 20c 21 22 23a 23b 24 25 26 27a 27b 27c",
    "CLAIM": " ".join(str(number) for number in range(1, 45) if number != 2),
    "STARD-AI": "1 3 4 5 6 7 8 9 10 11 12 13 14 15a 15b 15c 15d 16a 16b 16c 17a 17b 18 19 20 21 22 23 24 25 26a 26b 27 28 29 30 31 "
    "32 33 34 35 36 37 38 39 40a 40b",
}
"""Every item of the published lists but the abstract's, and TRIPOD+AI 9c: pixels are read without interpretation."""


@pytest.mark.parametrize("guideline", ASKED)
def test_the_card_asks_every_item_of_a_guideline_and_no_other(guideline: str) -> None:
    parts = [part for one in answers(judged(scores()).as_dict()) for part in one.items.split("; ")]
    numbers = {number for part in parts if part.startswith(f"{guideline} ") for number in part.split(" ", 1)[1].split(", ")}
    assert numbers == set(ASKED[guideline].split())


def test_mistakes_are_the_surest_of_both_kinds() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 0])
    p = np.array([0.9, 0.6, 0.99, 0.3, 0.01, 0.9, 0.1])
    assert surest_of_both(labels, p, 0.5, 4).tolist() == [2, 0, 4, 3]
    assert surest_of_both(labels, p, 0.5, 2).tolist() == [2, 4]
    assert surest_of_both(labels, p, 0.5, 9).tolist() == [2, 0, 1, 4, 3]
    assert surest_of_both(labels[:3], p[:3], 0.5, 2).tolist() == [2, 0]


def test_heat_is_orange_for_and_blue_against_and_clear_between() -> None:
    made = heat(np.array([[2.0, 0.0], [-1.0, 0.0]]))
    assert made[0, 0].tolist() == [213, 94, 0, 170]
    assert made[1, 0].tolist() == [0, 114, 178, 85]
    assert made[:, 1, 3].tolist() == [0, 0]


def test_a_gallery_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    broken = dataclasses.replace(gallery(scores()), ids=["one"])
    with pytest.raises(UndefinedScore, match=r"one tile, id, label, score and map a mistake; found lengths \[1, 4\]; align"):
        write_mistakes(tmp_path, broken)


ORDER = "Array.from(document.querySelectorAll('table.sortable tbody tr')).map(row => row.cells[{0}].dataset.value)"
WIDE = "document.documentElement.scrollWidth"


@pytest.mark.parametrize("name", ["plain", "hostile"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_opens_it_without_errors_and_without_asking_anybody(place: Path, tab: Browser, name: str, width: int) -> None:
    page = place / name / "report.html"
    tab.open(page, width=width)
    assert tab.said == []
    assert [url for url in tab.asked if not url.startswith("data:")] == [page.resolve().as_uri()]
    assert tab.value("Array.from(document.images).every(image => image.complete && image.naturalWidth > 0)")
    assert tab.value(WIDE) <= width
    assert tab.value("document.images.length") == 4 + 3 * 4


def test_a_heading_sorts_by_mouse_and_by_key(place: Path, tab: Browser) -> None:
    tab.open(place / "plain" / "report.html")
    before = tab.value(ORDER.format(3))
    tab.value("document.querySelectorAll('table.sortable button')[3].click()")
    rising = tab.value(ORDER.format(3))
    assert [float(one) for one in rising] == sorted(float(one) for one in before)
    assert tab.value("document.querySelectorAll('table.sortable th')[3].getAttribute('aria-sort')") == "ascending"
    tab.value("document.querySelectorAll('table.sortable button')[3].focus()")
    tab.press("Enter", 13)
    assert tab.value(ORDER.format(3)) == rising[::-1]
    tab.press("Tab", 9)
    tab.press("Tab", 9)
    tab.press("Enter", 13)
    areas = tab.value(ORDER.format(5))
    assert areas[-1] == ""
    assert areas[:-1] == sorted(areas[:-1], key=float)
    tab.value("document.querySelectorAll('table.sortable button')[0].click()")
    assert tab.value(ORDER.format(0)) == [f"slide {number}" for number in range(6)]


def test_it_is_dark_where_the_reader_wants_it_dark(place: Path, tab: Browser) -> None:
    shades = {}
    for dark in (False, True):
        tab.open(place / "plain" / "report.html", dark=dark)
        told = tab.value("['backgroundColor', 'color'].map(name => getComputedStyle(document.body)[name])")
        shades[dark] = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in told]
    assert shades[False][0] > 700 > 200 > shades[False][1]
    assert shades[True][0] < 100 < 600 < shades[True][1]


def test_it_prints(place: Path, tab: Browser) -> None:
    tab.open(place / "plain" / "report.html")
    paper = tab.paper()
    assert paper.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", paper)) >= 3
