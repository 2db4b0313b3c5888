"""Files that are never half-written, and the run folder: record, history, resume state's place.

Everything Sentinode writes goes through `replacing` (or a journal that is checked when read): a temporary name beside the
target, flush, fsync, rename, fsync of the folder. This module knows no torch; `nets` puts the model into the folder.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sentinode.errors import MachineProblem, RunProblem, SentinodeError, UsageProblem, shown

FORMAT = 1
"""Version of the run folder's layout."""
FULL_DISK = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
"""What a system says when nothing more fits: no space, file too large, quota."""
BROKEN = {
    getattr(errno, name)
    for name in ("EIO", "ENXIO", "ENODEV", "ESTALE", "ETIMEDOUT", "EREMOTEIO", "EUCLEAN", "ENOTCONN", "EHOSTDOWN")
    if hasattr(errno, name)
}
"""What a system says of a disk, or one across a network, that does not do what it is asked."""
UNWRITABLE = {
    getattr(errno, name) for name in ("EACCES", "EPERM", "EROFS", "ENOTDIR", "EEXIST", "EISDIR", "ENAMETOOLONG", "ELOOP")
}
"""What a system says of a path it cannot write: no permission, a file in a folder's place or the reverse, a long name."""


@contextmanager
def disk_problems(path: Path) -> Iterator[None]:
    """Turn what the system says about writing `path` into an error in three parts."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL_DISK:
            raise MachineProblem(
                f"room to write {shown(path)}",
                f"a full disk ({error.strerror})",
                "free some space or choose another --out, then run the same command with --resume where it has one",
            ) from error
        if error.errno in BROKEN:
            raise MachineProblem(
                f"a disk that takes what is written to {shown(path)}",
                f"one that fails ({error.strerror})",
                "check the disk, or choose another --out; then run the same command with --resume where it has one",
            ) from error
        # A path that cannot be made, as on a drive that is not there, and not another file that the block missed.
        nowhere = error.errno == errno.ENOENT and Path(error.filename or ".") in (path, *path.parents)
        if error.errno in UNWRITABLE or nowhere:
            raise MachineProblem(
                f"a folder that can be written for {shown(path)}",
                str(error.strerror),
                "choose another --out or change its permissions",
            ) from error
        raise


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a power loss, where the system can (not on Windows)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well it becomes `path`, else it is removed.

    Raises MachineProblem on a full disk or an unwritable folder; `path` then holds what it held before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with disk_problems(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb+") as handle:
                os.fsync(handle.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
    finally:
        if os.path.lexists(temporary):  # False, not an error, where the path itself is impossible
            temporary.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with a final line break, whole or not at all; NaN is refused."""
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path, problem: type[SentinodeError] = RunProblem) -> dict[str, Any]:
    """Read a JSON object; a missing, cut or foreign file raises `problem`."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise problem(
            f"a readable {shown(path)}", f"{type(error).__name__}: {error}"[:200], "make it again, or name another folder"
        ) from error
    if not isinstance(value, dict):
        raise problem(f"a JSON object in {shown(path)}", type(value).__name__, "make it again, or name another folder")
    return value


def claim_folder(path: Path, finished: str, *, resume: bool, overwrite: bool) -> bool:
    """Make `path` ready for a job whose last written file is `finished`; return whether unfinished work is there to go on with.

    Parameters
    ----------
    path
        The folder the job writes.
    finished
        Name of the file that only a finished job has.
    resume
        Go on with unfinished work if there is some.
    overwrite
        Remove a Sentinode folder of that name first.

    Raises
    ------
    UsageProblem
        If the folder holds a finished or an unfinished job and neither flag allows it, or holds foreign files.
    """
    with disk_problems(path):
        if not path.exists() or (path.is_dir() and all(is_leftover(entry) for entry in path.iterdir())):
            path.mkdir(parents=True, exist_ok=True)
            return False
        ours = path.is_dir() and ((path / finished).exists() or (path / "unfinished.json").exists())
        if not ours:
            found = f"{'files' if path.is_dir() else 'a file'} that Sentinode did not write"
            raise UsageProblem(f"a new or empty folder for {shown(path)}", found, "choose another --out")
        if overwrite:
            clear_folder(path)
            return False
    if (path / finished).exists() and not (path / "unfinished.json").exists():
        if resume:
            return True
        raise UsageProblem(f"a new folder for {shown(path)}", "a finished one", "choose another --out, or add --overwrite")
    if not resume:
        raise UsageProblem(
            f"a new folder for {shown(path)}", "unfinished work", "add --resume to go on with it, or --overwrite to start anew"
        )
    return True


@contextmanager
def not_left_empty(path: Path) -> Iterator[None]:
    """Remove the folder of a job that ends before anything is in it, by an error or by Ctrl-C."""
    try:
        yield
    finally:
        with suppress(OSError):  # there is something in it
            path.rmdir()


@contextmanager
def nothing_left(path: Path, work: Path) -> Iterator[None]:
    """Remove the folder of a job that ends with an error of ours before there is `work` in it to go on with; Ctrl-C is none."""
    try:
        yield
    except SentinodeError:
        if not work.exists():
            clear_folder(path)
            with suppress(OSError):  # a folder that cannot be removed, such as a mount, is left empty
                path.rmdir()
        raise


def is_leftover(path: Path) -> bool:
    """Return whether `path` is a temporary file of `replacing` that a killed process left behind."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left behind in a folder that is finished."""
    for entry in folder.iterdir():
        if is_leftover(entry) and entry.is_file():
            entry.unlink(missing_ok=True)


def clear_folder(path: Path) -> None:
    """Empty a folder of ours, so that a kill on the way leaves one that still says it is ours and unfinished."""
    mark = path / "unfinished.json"
    if not mark.exists():  # a full disk may be the reason for emptying it
        write_json(mark, {})
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry != mark:
            entry.unlink()
    mark.unlink()
