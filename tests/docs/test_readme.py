"""What the documents say can be typed: every command line in them parses, and the reference is the command line's own."""

import re
import shlex
from pathlib import Path

import pytest

from docs.reference import PAGE, reference
from sentinode.cli import app
from sentinode.flows.quickstart import STEPS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def fenced(text: str) -> list[str]:
    """Every line of a fenced block of `text` that calls `sentinode`."""
    found = []
    for block in re.findall(r"```(?:sh|bash|console)\n(.*?)```", text, re.DOTALL):
        for line in re.sub(r"\\\n *", "", block).splitlines():
            # A prompt, the path of a virtual environment and a pipe stand around the command, not in it.
            call = re.match(r"(?:\$ )?(?:\S*/)?(sentinode [^#|;&>]*)", line)
            found += [call[1].strip()] if call else []
    return found


def command_lines() -> list[str]:
    """Every line of a fenced block, every code span, and every next step of quickstart, that calls `sentinode`."""
    found = [step.strip() for step in STEPS if step.startswith("  sentinode ")]
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found += fenced(text)
        found += re.findall(r"`(sentinode [a-z]+ [^`]+)`", text)
    return found


def test_there_are_command_lines_of_every_verb_of_the_main_job() -> None:
    assert {shlex.split(line)[1] for line in command_lines()} >= {"pack", "info", "train", "evaluate", "predict"}


@pytest.mark.parametrize("line", command_lines())
def test_every_command_line_in_the_documents_parses(line: str) -> None:
    words = [re.sub(r"\$\w+", "1", word) for word in shlex.split(line)[1:]]  # variables of a shell or a cluster
    if "--help" in words:
        assert words[0] in set(app)
        return
    command, bound, *_ = app.parse_args(words, exit_on_error=False, print_error=False)
    assert command.__name__ == words[0]
    assert bound.arguments


def test_every_make_target_in_the_documents_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    told = {
        target for page in PAGES for target in re.findall(r"(?:^|`)make (\w+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert told
    assert told <= targets


def test_the_reference_is_fresh() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference()


def test_every_link_of_the_documents_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 200
