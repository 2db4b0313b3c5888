"""Files are whole or as they were: full disk, unwritable folder, a kill at the worst moment; and who may write into a folder."""

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentinode.errors import MachineProblem, RunProblem, SentinodeError, StoreProblem, UsageProblem
from sentinode.run import claim_folder, read_json, replacing, write_bytes, write_json


def python(code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run code in another process that can be killed or limited."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def fail_half_way(target: Path, kind: type[BaseException]) -> None:
    with replacing(target) as temporary:
        temporary.write_bytes(b"half")
        raise kind


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def three_parts(error: SentinodeError) -> bool:
    return all((error.expected, error.found, error.do)) and str(error).startswith("expected ")


def test_bytes_arrive_and_nothing_else_stays(tmp_path: Path) -> None:
    target = tmp_path / "new folder" / "ä b.bin"
    write_bytes(target, b"one")
    write_bytes(target, b"two")
    assert target.read_bytes() == b"two"
    assert names(target.parent) == ["ä b.bin"]


def test_what_a_power_loss_could_undo_is_forced_to_the_disk_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes before the name that stands for them, and the name before anyone is told: a folder's entries are its own data."""
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def forced(handle: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def renamed(path: Path, target: Path) -> Path:
        done.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", forced)
    monkeypatch.setattr(Path, "replace", renamed)
    write_bytes(tmp_path / "some.json", b"new")
    assert done == ["file", "rename", "folder"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_a_full_disk_at_the_last_moment_keeps_the_old_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachineProblem) as caught:
        write_bytes(target, b"new")
    assert "room to write" in caught.value.expected
    assert "full disk" in caught.value.found
    assert "--out" in caught.value.do
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_write_that_the_system_really_cuts_keeps_the_old_bytes(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    code = """
import resource, signal, sys
from pathlib import Path
from sentinode.errors import MachineProblem
from sentinode.run import write_bytes
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_bytes(Path(sys.argv[1]), b"n" * 100_000)
except MachineProblem as problem:
    print(problem)
"""
    done = python(code, target)
    assert "full disk" in done.stdout, done.stderr
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_kill_between_writing_and_renaming_keeps_the_old_bytes(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    code = """
import os, sys
from pathlib import Path
from sentinode.run import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_bytes(b"half of the new")
    os._exit(9)
"""
    assert python(code, target).returncode == 9
    assert target.read_bytes() == b"old"
    write_bytes(target, b"new")
    assert target.read_bytes() == b"new"


def test_an_error_or_ctrl_c_in_the_block_keeps_the_old_bytes(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    for kind in (ValueError, KeyboardInterrupt):
        with pytest.raises(kind):
            fail_half_way(target, kind)
        assert target.read_bytes() == b"old"
        assert names(tmp_path) == ["file"]


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    for target in (tmp_path / "file" / "x", tmp_path / "file" / "y" / "x"):
        with pytest.raises(MachineProblem) as caught:
            write_bytes(target, b"new")
        assert "a folder that can be written" in caught.value.expected
        assert three_parts(caught.value)
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_folder_where_the_file_should_be(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "inside").write_bytes(b"old")
    with pytest.raises(MachineProblem) as caught:
        write_bytes(tmp_path / "target", b"new")
    assert three_parts(caught.value)
    assert names(tmp_path) == ["target"]
    assert names(tmp_path / "target") == ["inside"]


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(MachineProblem) as caught:
        write_bytes(tmp_path / ("n" * 300), b"new")
    assert three_parts(caught.value)
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_an_unwritable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(MachineProblem) as caught:
        write_bytes(tmp_path / "file", b"new")
    assert "a folder that can be written" in caught.value.expected
    assert caught.value.found == os.strerror(number)
    assert "permissions" in caught.value.do
    assert names(tmp_path) == []


def test_a_place_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a drive that is not there; a file that the block itself misses is another matter."""

    def nowhere(path: Path, *_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", nowhere)
        with pytest.raises(MachineProblem) as caught:
            write_bytes(tmp_path / "drive" / "file", b"new")
    assert "a folder that can be written" in caught.value.expected
    assert "No such file" in caught.value.found
    assert "choose another --out" in caught.value.do
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "file"):
        (tmp_path / "missed").read_bytes()


def test_another_error_of_the_system_is_not_renamed(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="surprise"), replacing(tmp_path / "file"):
        raise OSError(errno.EINVAL, "surprise")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENODEV])
def test_a_disk_that_fails_keeps_the_old_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fails(number: int) -> None:
        raise OSError(number, os.strerror(number))

    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", lambda _: fails(number))
    with pytest.raises(MachineProblem) as caught:
        write_bytes(tmp_path / "file", b"new")
    assert "a disk that takes what is written" in caught.value.expected
    assert os.strerror(number) in caught.value.found
    assert "check the disk" in caught.value.do
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
NESTED = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8)


@settings(max_examples=40, deadline=None)
@given(value=st.dictionaries(TEXT, NESTED))
def test_json_comes_back_as_it_went(tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, value)
    assert read_json(path) == value
    assert json.loads(path.read_bytes().decode("utf-8")) == value


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_holds_no_nan_and_the_old_file_stays(tmp_path: Path, number: float) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"auroc": 0.9})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"auroc": number})
    assert read_json(path) == {"auroc": 0.9}


@pytest.mark.parametrize(
    ("content", "expected"), [(None, "readable"), (b'{"a": 1', "readable"), (b"\xff\xfe", "readable"), (b"[1]", "JSON object")]
)
def test_a_file_that_is_no_record(tmp_path: Path, content: bytes | None, expected: str) -> None:
    path = tmp_path / "run.json"
    if content is not None:
        path.write_bytes(content)
    for problem in (RunProblem, StoreProblem):
        with pytest.raises(problem) as caught:
            read_json(path, problem)
        assert expected in caught.value.expected
        assert "run.json" in caught.value.expected
        assert three_parts(caught.value)


def make(folder: Path, *files: str) -> Path:
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).write_bytes(b"{}")
    return folder


@pytest.mark.parametrize("resume", [False, True])
def test_a_new_or_empty_folder_is_free(tmp_path: Path, resume: bool) -> None:
    empty = make(tmp_path / "empty")
    for folder in (tmp_path / "a" / "new", empty):
        assert claim_folder(folder, "run.json", resume=resume, overwrite=False) is False
        assert folder.is_dir()


@pytest.mark.parametrize("flag", ["resume", "overwrite", None])
def test_foreign_files_are_never_touched(tmp_path: Path, flag: str | None) -> None:
    folder = make(tmp_path / "mine", "thesis.doc")
    (tmp_path / "plain").write_bytes(b"x")
    for path in (folder, tmp_path / "plain"):
        with pytest.raises(UsageProblem) as caught:
            claim_folder(path, "run.json", resume=flag == "resume", overwrite=flag == "overwrite")
        assert "Sentinode did not write" in caught.value.found
        assert three_parts(caught.value)
    assert names(folder) == ["thesis.doc"]


@pytest.mark.parametrize(
    ("files", "found", "do"),
    [(["run.json"], "a finished one", "--overwrite"), (["unfinished.json"], "unfinished work", "--resume")],
)
def test_work_is_kept_until_the_user_says_what_to_do(tmp_path: Path, files: list[str], found: str, do: str) -> None:
    folder = make(tmp_path / "run", *files)
    with pytest.raises(UsageProblem) as caught:
        claim_folder(folder, "run.json", resume=False, overwrite=False)
    assert caught.value.found == found
    assert do in caught.value.do
    assert names(folder) == files
    assert claim_folder(folder, "run.json", resume=True, overwrite=False) is True
    assert names(folder) == files
    assert claim_folder(folder, "run.json", resume=False, overwrite=True) is False
    assert names(folder) == []
