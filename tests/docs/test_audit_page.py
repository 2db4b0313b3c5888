"""The how-to of the audit: its commands run as they stand there, and its table names what is written."""

import re
import shlex
from pathlib import Path

import pytest

from sentinode.cli import main
from sentinode.tiles.pack import pack
from sentinode.tiles.synth import synthesise, write_kaggle_folder
from tests.docs.test_readme import fenced

PAGE = Path(__file__).parents[2] / "docs" / "audit.md"


def test_the_commands_run_and_write_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sentinode.flows.probes.installed", lambda: False)  # the network has tests of its own
    text = PAGE.read_text("utf-8")
    for name, seed in (("train", 1), ("test", 2)):
        write_kaggle_folder(tmp_path / name, synthesise(3, 10, px=24, seed=seed))
        pack(tmp_path / name, out=tmp_path / f"{name}.store", quiet=True)
    monkeypatch.chdir(tmp_path)
    for line in fenced(text):
        with pytest.raises(SystemExit) as ended:
            main([*shlex.split(line, comments=True)[1:], "--quiet"])
        assert ended.value.code == 0, (line, capsys.readouterr().err)
    told = {name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`([\w./]+)`", row)}
    assert {name.rstrip("/") for name in told} == {path.name for path in Path("audit").iterdir()}
