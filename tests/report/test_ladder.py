"""The ladder's page, table and picture: everything is said, nothing overlaps, nothing is run that was named."""

import copy
import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sentinode.report import climb
from sentinode.report.ladder import WIDE, compared, estimate, ladder_lines, minutes, number, verdict, write_ladder
from tests.report import test_page
from tests.report.browser import Browser, browser
from tests.report.test_page import HOSTILE, Reader, read, words


def figure(estimate: float, reach: float = 0.01) -> dict[str, Any]:
    ends = {"estimate": estimate, "low": estimate - reach, "high": estimate + reach}
    return ends | {"method": "slide bootstrap (2000 resamples)", "n": 2400, "n_groups": 61}


def rung(name: str, title: str, auroc: float, minutes: float, weights: int) -> dict[str, Any]:
    cost = {
        "minutes": minutes,
        "minutes_lack": "",
        "notes": [],
        "train_tiles_per_s": 800.0,
        "predict_tiles_per_s": 1500.0,
        "megabytes": weights / 250_000,
    }
    return {"name": name, "title": title, **cost, "weights": weights, "valid": figure(auroc + 0.01), "test": figure(auroc)}


def ensemble_told(rungs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what is told of an ensemble of the fine-tuned rung and one more network; the CNNs and the frozen rung left out."""
    more = rung("finetune-lite1-128", "fine-tuned lite1 at 128 px", 0.955, 30.0, 4_200_000)
    places = {"finetune": 1, "finetune-lite1-128": 2}
    rows = [
        {key: one[key] for key in ("name", "title", "minutes", "minutes_lack", "valid", "test")}
        | {"network": "some_network", "picked": places.get(one["name"]), "same_as": None, "log_loss": 0.2}
        for one in (*rungs[1:5], more)
    ]
    return {"chosen_on": "valid", "criterion": "log loss", "views": 8, "candidates": rows}


def ladder_values() -> dict[str, Any]:
    rungs = [
        rung("floor", "colour floor", 0.79, 0.05, 0),
        rung("simple-cnn", "simple CNN", 0.921, 6.2, 159_265),
        rung("p4m-cnn", "equivariant CNN", 0.94, 9.0, 15_000),
        rung("frozen", "frozen backbone", 0.912, 1.1, 3_400_000),
        rung("finetune", "fine-tuned backbone", 0.956, 31.0, 3_400_000),
        rung("ensemble", "ensemble of 4, 8 views", 0.966, 47.0, 7_000_000),
    ]
    for below, row, word in zip(rungs[:-1], rungs[1:], ("worth it", "worth it", "worse", "worth it", "no better"), strict=True):
        row |= {"below": below["name"], "below_title": below["title"], "verdict": word, "cost": "3.1 minutes of training more"}
        row["difference"] = figure(row["test"]["estimate"] - below["test"]["estimate"]) | {"on": "test"}
    rungs[-1]["notes"] = ["fine-tuned backbone alone over 8 views: 0.9601 on test"]
    study = {"study": "simple CNN, all tiles", "auc": 0.9365, "ours": "simple CNN", "valid": figure(0.93), "test": figure(0.92)}
    heads = {"dense": {"valid": figure(0.72), "test": figure(0.7)}, "logistic": {"valid": figure(0.9), "test": figure(0.89)}}
    mistake = {"title": "255 times too small", "low": -0.01, "high": 0.01, **heads}
    part = {"store": "T.store", "n": 2400, "n_positive": 1200, "n_groups": 61}
    return {
        "warnings": ["only 12 slides"],
        "contaminated": False,
        "protocol": "other slides",
        "judged": [part | {"name": "valid", "chose": True}, part | {"name": "test", "chose": False}],
        "rungs": rungs,
        "backbone": "tf_efficientnet_lite0",
        "rule": "worth it: the interval lies above 0",
        "ensemble": ensemble_told(rungs),
        "study": [study],
        "mistakes": {
            "network": "lite0",
            "n_train": 5600,
            "on": ["valid", "test"],
            "rows": [mistake],
            "answer": "Scaling it was.",
        },
        "command": ["sentinode ladder S.store --out DIR"],
        "versions": {"sentinode": "0", "torch": "2", "python": "3"},
        "settings": {"seed": 0},
        "fingerprint": "f" * 32,
    }


def named(title: str) -> dict[str, Any]:
    """Return a ladder with a rung, a warning and a command of this name."""
    values = ladder_values()
    values["rungs"][3]["title"] = values["warnings"][0] = values["command"][0] = title
    return values


def page(folder: Path, values: dict[str, Any]) -> Reader:
    write_ladder(folder, values)
    return read((folder / "ladder.html").read_text("utf-8"))


def test_the_page_holds_all_and_asks_for_nothing(tmp_path: Path) -> None:
    values = ladder_values()
    reader = page(tmp_path, values)
    text = words(reader)
    assert all(one.startswith("data:image/svg+xml;base64,") for one in reader.asked)
    assert len(reader.asked) == 1
    assert text.index("only 12 slides") < text.index("Rungs")
    for row in values["rungs"]:
        assert row["title"] in text
        assert estimate(row["test"]) in text
        assert verdict(row) in text
        assert compared(row) in text
    for row in values["ensemble"]["candidates"]:
        assert row["title"] in text
    for said in (
        "picked, 2.",
        "left out",
        "Not a medical device",
        "Scaling it was.",
        "0.9365",
        "sentinode ladder S.store",
        "only 12 slides",
    ):
        assert said in text


def test_names_from_data_are_escaped_in_page_and_picture(tmp_path: Path) -> None:
    plain, reader = page(tmp_path / "plain", ladder_values()), page(tmp_path / "hostile", named(HOSTILE))
    assert sorted(reader.tags) == sorted(plain.tags)
    assert reader.attributes == plain.attributes
    assert words(reader).count("{{7*7}}") >= 3
    assert "<script>" not in (tmp_path / "hostile" / "figures" / "ladder.svg").read_text("utf-8")


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_opens_it_without_errors_at_any_width(tmp_path: Path, tab: Browser, width: int) -> None:
    page(tmp_path, named(HOSTILE))
    tab.open(tmp_path / "ladder.html", width=width, dark=width > 1000)
    assert tab.said == []
    assert [url for url in tab.asked if not url.startswith("data:")] == [(tmp_path / "ladder.html").resolve().as_uri()]
    assert tab.value("Array.from(document.images).every(image => image.complete && image.naturalWidth > 0)")
    assert tab.value(test_page.WIDE) <= width
    assert len(re.findall(rb"/Type\s*/Page\b", tab.paper())) >= 2


@pytest.mark.parametrize("cut", ["test", "study", "mistakes", "floor", "ensemble"])
def test_what_was_not_made_is_left_out(tmp_path: Path, cut: str) -> None:
    values = ladder_values()
    if cut == "test":
        values["judged"].pop()
        values["mistakes"]["on"].pop()
        for row in values["rungs"]:
            del row["test"]
            if "difference" in row:
                row["difference"]["on"] = "valid"
        del values["study"][0]["test"]
        for row in values["ensemble"]["candidates"]:
            del row["test"]
    elif cut == "floor":
        values["rungs"] = [{**values["rungs"][1]}, *values["rungs"][2:]]
        for name in ("below", "below_title", "difference", "verdict", "cost"):
            del values["rungs"][0][name]
    else:
        values[cut] = None
    page(tmp_path, values)
    assert ladder_lines(values)


def test_the_table_fits_the_terminal_and_names_every_rung() -> None:
    values = ladder_values()
    values["warnings"].append("long " * 60)
    lines = ladder_lines(values)
    assert max(map(len, lines)) <= WIDE
    end = next(at for at, line in enumerate(lines) if line.startswith("rule:"))
    for row in values["rungs"]:
        assert sum(line.startswith(row["title"] + "  ") for line in lines[:end]) == 1
    for row in values["ensemble"]["candidates"]:
        (line,) = [line for line in lines[end:] if line.startswith(row["title"] + "  ")]
        assert line.split()[-1] == minutes(row), "a candidate is one line"


def test_the_csv_gives_every_number_back(tmp_path: Path) -> None:
    values = ladder_values()
    write_ladder(tmp_path, values)
    with (tmp_path / "ladder.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [row["name"] for row in values["rungs"]]
    for row, wanted in zip(rows, values["rungs"], strict=True):
        assert float(row["test_auroc_low"]) == wanted["test"]["low"]
        assert float(row["minutes"]) == wanted["minutes"]
        assert row["verdict"] == wanted.get("verdict", "")
        assert row["notes"] == "; ".join(wanted.get("notes", []))
    assert float(rows[3]["difference"]) == values["rungs"][3]["difference"]["estimate"]


@pytest.mark.parametrize(
    ("value", "digits", "text"), [(0.0, 1, "-"), (0.0123, 1, "0.012"), (12.34, 1, "12.3"), (3_400_000, 0, "3,400,000")]
)
def test_numbers_are_short_and_never_round_to_nothing(value: float, digits: int, text: str) -> None:
    assert number(value, digits) == text


def crowded() -> dict[str, Any]:
    """Return rungs of one AUROC and nearly one time: the worst to label."""
    values = ladder_values()
    for at, row in enumerate(values["rungs"][1:]):
        row["minutes"], row["test"] = 5 + at / 4, figure(0.93 + at / 2000)
    return values


def noisy() -> dict[str, Any]:
    """Return rungs about the floor, with long bars that cross it and each other's labels."""
    values = ladder_values()
    levels = ((0.55, 0.2), (0.625, 0.048), (0.514, 0.063), (0.753, 1.15), (0.551, 1.27), (0.632, 2.5))
    for row, (level, spent) in zip(values["rungs"], levels, strict=True):
        row["minutes"], row["test"] = spent, figure(level, 0.09)
    return values


@pytest.mark.parametrize("make", [ladder_values, crowded, noisy])
def test_no_label_touches_another_or_leaves_the_picture(make: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kept = []

    def keep(figure: Any, _folder: Path, _name: str) -> list[Path]:
        figure.draw_without_rendering()
        axes = figure.axes[0]
        kept.append((axes.get_window_extent(), [climb.words_of(note) for note in axes.texts]))
        return []

    monkeypatch.setattr(climb, "save", keep)
    climb.write_climb(tmp_path, make())
    ((inside, boxes),) = kept
    assert len(boxes) == 6
    for at, box in enumerate(boxes):
        assert climb.overlap(box, inside) == pytest.approx(climb.area(box))
        assert all(climb.overlap(box, other) == 0 for other in boxes[:at])


def test_the_same_values_give_the_same_bytes(tmp_path: Path) -> None:
    values = ladder_values()
    first = write_ladder(tmp_path / "a", values)
    second = write_ladder(tmp_path / "b", json.loads(json.dumps(copy.deepcopy(values))))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    with Image.open(tmp_path / "a" / "figures" / "ladder.png") as picture:
        assert picture.format == "PNG"
