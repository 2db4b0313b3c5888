"""The fault matrix: six faults in eight jobs, and each ends with the bytes of an undisturbed run, or is told and loses nothing.

What strikes a process is real: a child is killed or asked to end at a chosen moment. What the system refuses is refused where it
would be: by the call that writes or reads. Files are cut, or a bit of them is flipped, on the disk.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sentinode.cli import main
from sentinode.tiles.synth import synthesise, write_kaggle_folder
from tests.faults.hooks import Fault, struck
from tests.faults.jobs import FAULTS, JOBS, TRAIN, Job, Place

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="children that are killed are forked")


def sentinode(*words: object) -> int:
    """Return the exit code of a command line in this process."""
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.fixture(scope="module", autouse=True)
def one_engine() -> Iterator[None]:
    """Let every network compute in its plain form: which is the fastest is the moment's matter, and decides last digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sentinode.nets.engine.SHARE", 0.0)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("faults")
    write_kaggle_folder(folder / "kaggle", synthesise(5, 16, px=32, difficulty=0.0, seed=3))
    write_kaggle_folder(folder / "others", synthesise(4, 16, px=32, difficulty=0.0, seed=4))
    for source, store in (("kaggle", "train.store"), ("others", "test.store")):
        assert (
            sentinode("pack", folder / source, "--out", folder / store, "--groups", folder / source / "slides.csv", "--quiet")
            == 0
        )
    assert sentinode("train", folder / "train.store", "--out", folder / "run", *TRAIN, "--quiet") == 0
    return Place(folder / "kaggle", folder / "train.store", folder / "test.store", folder / "run")


@pytest.fixture(scope="module")
def server() -> Iterator["subprocess.Popen[str]"]:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]),
        "OMP_NUM_THREADS": "1",
    }
    words = [sys.executable, "-m", "tests.faults.server"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()
        process.wait(30)


class Undisturbed(dict[str, dict[str, bytes]]):
    """What each job leaves where nothing happens; run when it is first asked for."""

    def __init__(self, place: Place, folder: Path) -> None:
        super().__init__()
        self.place, self.folder = place, folder

    def __missing__(self, name: str) -> dict[str, bytes]:
        here = self.folder / name.replace(" ", "-")
        here.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(here)
            assert sentinode(*JOBS[name].words(self.place), "--quiet") == 0
        self[name] = left(JOBS[name], here)
        return self[name]


@pytest.fixture(scope="module")
def undisturbed(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return Undisturbed(place, tmp_path_factory.mktemp("undisturbed"))


def left(job: Job, folder: Path) -> dict[str, bytes]:
    """Return what a job has left: the bytes of its files, and the names of all others."""
    everything = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    names = {name for name in everything if not name.startswith(("said.txt", "features")) and not name.endswith("lock")}
    return {name: (folder / name).read_bytes() if name in job.leaves else b"" for name in names}


def in_child(server: "subprocess.Popen[str]", folder: Path, words: list[str], fault: Fault) -> int:
    """Return the exit code of a command that a fault strikes in a process of its own, or minus the signal that ended it."""
    assert server.stdin is not None
    assert server.stdout is not None
    asked = {"folder": str(folder), "words": words, "fault": [fault.kind, fault.at, fault.nth]}
    server.stdin.write(json.dumps(asked) + "\n")
    server.stdin.flush()
    return int(server.stdout.readline())


def check_told(said: str, pattern: str = "") -> None:
    """Check that the last line is an error in three parts, and no traceback."""
    line = said.strip().splitlines()[-1]
    assert re.match(r"sentinode: expected .+; found .+; .+", line), said
    assert re.search(pattern, line), said
    assert "Traceback" not in said


CELLS = [(job, fault) for job in JOBS for fault in FAULTS]


@pytest.mark.parametrize(("name", "kind"), [cell for cell in CELLS if cell[1] in FAULTS[:2]])
def test_a_process_that_ends_at_the_worst_moment(
    name: str,
    kind: str,
    place: Place,
    server: "subprocess.Popen[str]",
    undisturbed: Undisturbed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = JOBS[name]
    words = [str(word) for word in (*job.words(place), "--quiet")]
    ended = in_child(server, tmp_path, words, Fault(kind, *job.moments[kind]))
    said = (tmp_path / "said.txt").read_text("utf-8")
    assert ended == (-9 if kind == "kill -9" else 130), said
    assert "Traceback" not in said
    monkeypatch.chdir(tmp_path)
    if kind == "kill -9":
        assert not set(job.leaves) <= {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert sentinode(*words, *job.again) == 0
    found = left(job, tmp_path)
    if kind == "kill -9":  # a temporary name beside a single file that nobody owns stays
        found = {path: data for path, data in found.items() if not (name == "predict" and path.endswith(".tmp"))}
    assert found == undisturbed[name]


@pytest.mark.parametrize(("name", "kind"), [cell for cell in CELLS if cell[1] in FAULTS[2:4]])
def test_a_disk_that_is_full_or_fails(
    name: str,
    kind: str,
    place: Place,
    undisturbed: Undisturbed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = JOBS[name]
    monkeypatch.chdir(tmp_path)
    with struck(Fault(kind, *job.moments[kind])) as count:
        code = sentinode(*job.words(place), "--quiet")
    assert count[0] >= job.moments[kind][1]
    check_told(capsys.readouterr().err, "a full disk" if kind == "full disk" else "fails|stay readable")
    assert code in {3, 5}
    again = job.again if any(tmp_path.iterdir()) else ()
    assert sentinode(*job.words(place), *again, "--quiet") == 0
    assert left(job, tmp_path) == undisturbed[name]


def harm(path: Path, kind: str, offset: float) -> None:
    """Cut a file, or flip one bit of it."""
    at = int(path.stat().st_size * offset)
    if kind == "truncated file":
        os.truncate(path, at)
        return
    with path.open("rb+") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 16]))


def with_copies(place: Place, job: Job, folder: Path) -> Place:
    """Return the place with a copy of what is to be harmed, if that is shared."""
    shared = re.match(r"\{(\w+)\}", job.harmed)
    if not shared:
        return place
    true: Path = getattr(place, shared[1])
    copy = folder.parent / "copy" / true.name
    shutil.copytree(true, copy)
    return Place(**vars(place) | {shared[1]: copy})


@pytest.mark.parametrize(("name", "kind"), [cell for cell in CELLS if cell[1] in FAULTS[4:]])
def test_a_file_that_is_cut_or_changed(
    name: str,
    kind: str,
    place: Place,
    undisturbed: Undisturbed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job, folder = JOBS[name], tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    mine = with_copies(place, job, folder)
    words = (*job.words(mine), "--quiet")
    if job.stop:
        with struck(Fault("I/O error", job.stop, job.nth)):
            stopped(words)
    where = job.harmed.format(**{key: str(value) for key, value in vars(mine).items()})
    path = Path(where) if Path(where).is_absolute() else next(folder.glob(where))
    whole = path.read_bytes()
    harm(path, kind, job.offset)
    capsys.readouterr()
    again = job.again if any(folder.iterdir()) else ()
    if job.told:
        assert sentinode(*words, *again) == 3
        check_told(capsys.readouterr().err, job.told)
        if job.remedy:
            Path(job.remedy).unlink()
        else:
            path.write_bytes(whole)
        again = job.again if any(folder.iterdir()) else ()
    assert sentinode(*words, *again) == 0
    there, here = str(place.train.parent).encode(), str(tmp_path / "copy").encode()
    found = {path: data.replace(here, there) for path, data in left(job, folder).items()}
    assert found == undisturbed[name]


def stopped(words: tuple[object, ...]) -> None:
    """Run a command that ends in the middle, by an error of whatever kind."""
    with pytest.raises((SystemExit, OSError)):
        main([str(word) for word in words])
