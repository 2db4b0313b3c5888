"""Killed at any moment and resumed, the store has the bytes of an undisturbed one, and what was finished is not done again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import sentinode
from sentinode.errors import StoreProblem, UsageProblem
from sentinode.tiles import pack as pack_module
from sentinode.tiles.journal import NAME
from sentinode.tiles.pack import pack
from sentinode.tiles.store import StoreWriter, open_store

Make = Callable[..., Path]

SLOW = """
import signal, sys, time
# A shell that runs the tests in the background hands down an ignored Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
from sentinode.tiles import decode, pack as packing, store
packing.BLOCK_BYTES = 24 * 24 * 3 * 5
real = packing.decode_block
def slow(*args):
    time.sleep({pause})
    return real(*args)
packing.decode_block = slow
{extra}
print("go", flush=True)
try:
    packing.pack(*{sources!r}, out={out!r}, resume=True, quiet=True, workers=2)
except KeyboardInterrupt:
    sys.exit(130)
"""
STOPS = {
    "before rows": "store.replacing = lambda path: time.sleep(60)",
    "before store.json": "store.write_json = lambda path, value: time.sleep(60)",
    "before tidying": "packing.tidy = lambda path: time.sleep(60)",
}


def start(source: Path | list[Path], out: Path, pause: float = 0.02, extra: str = "") -> subprocess.Popen[str]:
    """Start a slow pack in a process of its own and wait until it begins."""
    sources = [str(path) for path in (source if isinstance(source, list) else [source])]
    code = SLOW.format(sources=sources, out=str(out), pause=pause, extra=extra)
    env = {**os.environ, "PYTHONPATH": str(Path(sentinode.__file__).parents[1])}
    process = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n"
    return process


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def lines(out: Path) -> int:
    journal = out / NAME
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def reached(out: Path, enough: int) -> bool:
    return lines(out) >= enough


def contents(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.iterdir()}


@pytest.fixture
def source(kaggle: Make) -> Path:
    root = kaggle(100)
    (root / "train" / "bad.tif").write_bytes(b"bad")
    return root


@pytest.fixture
def undisturbed(source: Path, tmp_path: Path) -> dict[str, bytes]:
    return contents(pack(source, out=tmp_path / "whole.store", quiet=True).path)


def test_killed_again_and_again(
    source: Path, tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "s.store"
    for enough in (0, 1, 7, 13):
        process = start(source, out)
        wait_for(lambda: (out / "unfinished.json").exists())
        wait_for(partial(reached, out, enough))
        process.kill()
        process.wait()
        with pytest.raises(StoreProblem, match="not finished"):
            open_store(out)
        with pytest.raises(UsageProblem, match="--resume"):
            pack(source, out=out, quiet=True)
    finished = lines(out)
    assert finished >= 13
    done: list[int] = []
    real = pack_module.decode_block

    def counted(*args: object) -> object:
        done.append(1)
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(pack_module, "BLOCK_BYTES", 24 * 24 * 3 * 5)
    monkeypatch.setattr(pack_module, "decode_block", counted)
    pack(source, out=out, resume=True, quiet=True)
    assert len(done) == 21 - finished
    assert contents(out) == undisturbed


@pytest.mark.parametrize("stop", list(STOPS))
def test_killed_at_the_end(source: Path, tmp_path: Path, undisturbed: dict[str, bytes], stop: str) -> None:
    out = tmp_path / "s.store"
    process = start(source, out, 0, STOPS[stop])
    if stop == "before tidying":
        wait_for((out / "store.json").exists)
    elif stop == "before store.json":
        wait_for((out / "rows.parquet").exists)
    else:
        wait_for(lambda: lines(out) == 21)
    process.kill()
    process.wait()
    pack(source, out=out, resume=True, quiet=True)
    assert contents(out) == undisturbed


def test_interrupted_with_control_c(source: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    out = tmp_path / "s.store"
    process = start(source, out)
    wait_for(lambda: lines(out) >= 3)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    pack(source, out=out, resume=True, quiet=True)
    assert contents(out) == undisturbed


def unfinished(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave all blocks written and nothing else."""
    with monkeypatch.context() as patch:
        patch.setattr(pack_module, "BLOCK_BYTES", 24 * 24 * 3 * 5)
        patch.setattr(StoreWriter, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pack(source, out=out, quiet=True)


@pytest.mark.parametrize("name", ["tiles.npy", NAME])
@pytest.mark.parametrize("harm", ["cut", "garble", "zero", "grow", "empty", "remove"])
def test_after_a_power_loss(
    source: Path, tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, name: str, harm: str
) -> None:
    out = tmp_path / "s.store"
    unfinished(source, out, monkeypatch)
    (out / ".rows.parquet.123.tmp").write_bytes(b"left over")
    path = out / name
    data = path.read_bytes()
    half = len(data) // 2
    harmed = {
        "cut": data[: half + 7],
        "garble": data[:half] + bytes(255 - byte for byte in data[half : half + 40]) + data[half + 40 :],
        "zero": data[:half] + bytes(len(data) - half),
        "grow": data + b"\0" * 5000,
        "empty": b"",
    }
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(harmed[harm])
    pack(source, out=out, resume=True, quiet=True)
    assert contents(out) == undisturbed


def test_only_the_same_input_is_resumed(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "s.store"
    unfinished(source, out, monkeypatch)
    with pytest.raises(UsageProblem) as caught:
        pack(source, out=out, resume=True, px=12, quiet=True)
    assert "same sources and settings" in caught.value.expected
    assert "--overwrite" in caught.value.do
    assert len(pack(source, out=out, overwrite=True, px=12, quiet=True)) == 100


def test_a_kill_before_the_first_file_leaves_a_folder_that_can_be_used(
    source: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    out = tmp_path / "s.store"
    out.mkdir()
    (out / ".unfinished.json.77.tmp").write_bytes(b"{")
    pack(source, out=out, quiet=True)
    assert contents(out) == undisturbed
