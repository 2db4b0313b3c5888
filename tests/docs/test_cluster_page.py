"""The how-to of clusters: its jobs run as they stand there, task after task, and a search is one that the command line takes."""

import re
import shlex
from pathlib import Path

import pytest

from sentinode.cli import app, main
from sentinode.tiles.pack import pack
from sentinode.tiles.store import open_store
from sentinode.tiles.synth import synthesise, write_kaggle_folder
from tests.docs.test_readme import fenced

PAGE = Path(__file__).parents[2] / "docs" / "cluster.md"
TASK = "$SLURM_ARRAY_TASK_ID"


def words_of(line: str, task: int = 0) -> list[str]:
    """What a shell makes of a line of task number `task`: variables and names with * are filled in."""
    words = [word.replace(TASK, str(task)) for word in shlex.split(line, comments=True)]
    assert not [word for word in words if "$" in word]
    return [name for word in words for name in (sorted(map(str, Path().glob(word))) if "*" in word else [word])][1:]


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*words, "--quiet"])
    assert ended.value.code == 0, (words, capsys.readouterr().err)


def test_the_jobs_run_as_they_stand_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = PAGE.read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    write_kaggle_folder(tmp_path / "tiles", synthesise(5, 8, px=24, seed=1))
    array, *merge, search = fenced(text)
    tasks = re.search(r"#SBATCH --array=1-(\d+)\nsentinode pack", text)
    assert tasks is not None
    assert f"--shard {TASK}/{tasks[1]}" in array
    for task in range(1, int(tasks[1]) + 1):
        run(words_of(array, task), capsys)
    run(words_of(array, 7), capsys)  # a task that is queued again
    for line in merge:
        run(words_of(line), capsys)
    assert open_store("whole.store").digest == pack("tiles", out="one.store", quiet=True).digest
    command, bound, *_ = app.parse_args(words_of(search, 3), exit_on_error=False, print_error=False)
    assert (command.__name__, str(bound.arguments["out"])) == ("tune", str(Path("search/3/study")))
