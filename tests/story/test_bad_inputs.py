"""Bad inputs through the command line: a line that says what was expected, what was found and what to do, never a silent NaN."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sentinode.cli import main
from tests.qc.stores import store_of

N = 40
IDS = [f"tile-{at:05d}" for at in range(N)]
LABELS = (np.arange(N) % 2).astype(np.int8)
SLIDES = [f"s{at // 10}" for at in range(N)]
THREE_PARTS = re.compile(r"sentinode: expected [^;]+; found .+; .+\n")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    tiles = np.random.default_rng(0).integers(0, 256, (N, 16, 16, 3), dtype=np.uint8)
    store_of(folder / "whole.store", tiles, LABELS, groups=SLIDES)
    store_of(folder / "positive.store", tiles, np.ones(N, np.int8), groups=SLIDES)
    store_of(folder / "slide.store", tiles, LABELS, groups=["only"] * N)
    store_of(folder / "other.store", tiles, LABELS, ids=[f"other-{at}" for at in range(N)], groups=SLIDES)
    store_of(folder / "empty.store", tiles[:0], LABELS[:0])
    store_of(folder / "few.store", tiles[:3], LABELS[:3])
    good = np.clip(0.5 + 0.2 * (2.0 * LABELS - 1) + np.random.default_rng(1).normal(0, 0.2, N), 0.01, 0.99)
    for name, wrong in (("nan", {3: np.nan}), ("over", {5: 1.2}), ("under", {7: -0.1}), ("infinite", {0: np.inf})):
        table = pd.DataFrame({"id": IDS, "probability": good})
        table.loc[list(wrong), "probability"] = list(wrong.values())
        table.to_csv(folder / f"{name}.csv", index=False, na_rep="nan")
    for name, ids, p in (
        ("good", IDS, good),
        ("foreign", ["x" + name for name in IDS], good),
        ("short", IDS[:-4], good[:-4]),
        ("equal", IDS, np.full(N, 0.5)),
        ("sure", IDS, np.where(np.arange(N) % 5, LABELS, 1 - LABELS).astype(float)),
    ):
        pd.DataFrame({"id": ids, "probability": p}).to_csv(folder / f"{name}.csv", index=False)
    return folder


def told(place: Path, out: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Return the exit code and what was printed; words that name a file of `place` are taken there."""
    given = [str(place / word) if word.endswith((".csv", ".store")) else word for word in words]
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main([*given, "--out", str(out), "--quiet", "--json"])
    assert isinstance(end.value.code, int)
    return end.value.code, *capsys.readouterr()


@pytest.mark.parametrize(
    ("scores", "store", "code", "said"),
    [
        ("good.csv", "positive.store", 4, "tiles of both classes"),
        ("nan.csv", "whole.store", 3, "found 'nan' in row 4"),
        ("over.csv", "whole.store", 3, "found '1.2' in row 6"),
        ("under.csv", "whole.store", 3, "found '-0.1' in row 8"),
        ("infinite.csv", "whole.store", 3, "found 'inf' in row 1"),
        ("foreign.csv", "whole.store", 3, "found 0 that join, 40 tiles without a score"),
        ("short.csv", "whole.store", 3, "found 36 that join, 4 tiles without a score"),
        ("good.csv", "other.store", 3, "found 0 that join, 40 tiles without a score"),
        ("good.csv", "empty.store", 3, "found an empty store"),
        ("good.csv", "nowhere.store", 3, "expected a store at"),
    ],
)
@pytest.mark.parametrize("verb", ["evaluate", "compare"])
def test_what_cannot_be_judged_is_one_line_of_three_parts(
    verb: str, scores: str, store: str, code: int, said: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [verb, scores, store] if verb == "evaluate" else [verb, scores, "equal.csv", "--test", store]
    ended, out, err = told(place, tmp_path / "out", capsys, *words)
    assert (ended, out) == (code, "")
    assert THREE_PARTS.fullmatch(err), err
    assert said in err
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["audit", "empty.store"], 3, "found an empty store"),
        (["train", "empty.store"], 3, "found an empty store"),
        (["train", "positive.store", "--split", "random"], 3, "tiles of both classes"),
        (["train", "slide.store", "--split", "grouped"], 3, "found 1 separable slides"),
        (["crossvalidate", "empty.store"], 3, "found an empty store"),
        (["crossvalidate", "few.store", "--folds", "5"], 3, "make 5 folds with both classes; found 3 with"),
        (["crossvalidate", "slide.store", "--folds", "3"], 3, "make 3 folds with both classes; found 1 with"),
        (["crossvalidate", "positive.store", "--folds", "2"], 3, "found 4 with 40 positive and 0 negative tiles"),
    ],
)
def test_what_cannot_be_split_is_one_line_of_three_parts(
    words: list[str], code: int, said: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended, out, err = told(place, tmp_path / "out", capsys, *words)
    assert (ended, out) == (code, "")
    assert THREE_PARTS.fullmatch(err), err
    assert said in err
    assert list(tmp_path.iterdir()) == []


def no_nan(text: str) -> Any:
    """Raise for a number that JSON does not have."""
    raise AssertionError(f"{text} in the output")


@pytest.mark.parametrize(
    ("scores", "store", "auroc", "said"),
    [
        ("equal.csv", "whole.store", 0.5, "no spread among the resamples of auroc"),
        ("sure.csv", "whole.store", 0.8, "40 probabilities lie within 1e-7 of 0 or 1"),
        ("good.csv", "slide.store", None, "all tiles are from one slide: nothing can be said about the next one"),
    ],
)
def test_what_can_be_judged_with_care_is_given_whole_and_says_so(
    scores: str,
    store: str,
    auroc: float | None,
    said: str,
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["evaluate", scores, store, "--resamples", "200", "--mistakes", "0"]
    ended, out, err = told(place, tmp_path / "out", capsys, *words)
    assert (ended, err) == (0, "")
    found = json.loads(out, parse_constant=no_nan)
    assert any(said in text for text in found["warnings"])
    assert auroc is None or found["figures"]["auroc"]["estimate"] == pytest.approx(auroc)
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert said in page
    assert ">nan" not in page.lower()
