"""The how-tos of search, comparison and transfer: the commands of a first run as they stand there; tables name what is written."""

import re
import shlex
from pathlib import Path

import pytest

from sentinode.cli import main
from sentinode.tiles.pack import pack
from sentinode.tiles.synth import synthesise, write_kaggle_folder
from tests.docs.test_readme import fenced

DOCS = Path(__file__).parents[2] / "docs"


def test_the_commands_of_a_search_run_and_write_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (DOCS / "tune.md").read_text("utf-8")
    for name, seed in (("train", 1), ("test", 2)):
        write_kaggle_folder(tmp_path / name, synthesise(4, 20, px=24, seed=seed))
        pack(tmp_path / name, out=tmp_path / f"{name}.store", quiet=True)
    monkeypatch.chdir(tmp_path)
    for line in fenced(text):
        # As they stand there, on less: what a larger input, more epochs and more pictures give is not the page's matter.
        short = ["--mistakes", "2", "--resamples", "100"] if "evaluate" in line else ["--input-size", "32", "--epochs", "3"]
        with pytest.raises(SystemExit) as ended:
            main([*shlex.split(line)[1:], *short, "--quiet"])
        assert ended.value.code == 0, (line, capsys.readouterr().err)
    told = {name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`([\w./]+)`", row)}
    assert {name.rstrip("/") for name in told} == {path.name for path in Path("grid").iterdir()} - {"trials"}


def test_the_page_on_comparison_plans_what_the_planner_says() -> None:
    from sentinode.judge.planner import assumed_variance, slides_needed

    text = (DOCS / "compare.md").read_text("utf-8")
    stated = re.search(
        r"assumed_variance\(\(0.95, 0.94\), correlation=0.7, tiles_a_slide=1000, positive_share=0.4, design_effect=60\)\n"
        r"slides_needed\(0.01, variance, power=0.8\)  # (\d+)",
        text,
    )
    variance = assumed_variance((0.95, 0.94), 0.7, tiles_a_slide=1000, positive_share=0.4, design_effect=60)
    assert stated is not None
    assert int(stated[1]) == slides_needed(0.01, variance, power=0.8)


def test_the_page_on_transfer_lists_what_weights_can_be() -> None:
    from sentinode.nets import weights

    text = (DOCS / "transfer.md").read_text("utf-8")
    for word in ("auto", "none", "a1_in1k", ".safetensors", ".pth"):
        assert word in (weights.__doc__ or "")
        assert f"`{word}`" in text or f"FILE{word}`" in text
