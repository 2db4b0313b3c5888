"""The how-to of splits: its commands run as they stand there, and its table names what is written."""

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from sentinode.cli import main
from sentinode.tiles.pack import pack
from sentinode.tiles.synth import synthesise, write_kaggle_folder
from tests.docs.test_readme import fenced

PAGE = Path(__file__).parents[2] / "docs" / "splits.md"


def test_the_commands_run_and_write_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = PAGE.read_text("utf-8")
    tissue = synthesise(12, 8, px=24, seed=1)
    write_kaggle_folder(tmp_path / "train", tissue)
    pack(tmp_path / "train", out=tmp_path / "train.store", groups=str(tmp_path / "train" / "slides.csv"), quiet=True)
    sites = {group: f"site {at % 2}" for at, group in enumerate(sorted(set(tissue.groups)))}
    table = pd.DataFrame({"id": tissue.ids, "domain": [sites[group] for group in tissue.groups]})
    table.to_csv(tmp_path / "domains.csv", index=False)
    monkeypatch.chdir(tmp_path)
    for line in fenced(text):
        short = [] if "evaluate" in line else ["--precision", "fp32"]
        with pytest.raises(SystemExit) as ended:
            main([*shlex.split(line, comments=True)[1:], *short, "--quiet"])
        assert ended.value.code == 0, (line, capsys.readouterr().err)
    told = {name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`([\w./-]+)`", row)}
    written = {path.name for path in Path("cv").iterdir()}
    assert {name.rstrip("/") for name in told} == written - {"fold-3"}
