"""The eight jobs of the fault matrix: a command each, what it leaves, when a fault strikes, and which file is damaged."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

TRAIN = ("--epochs", "2", "--precision", "fp32", "--batch", "16", "--threads", "1", "--lr", "0.01", "--split", "random")
JUDGE = ("--resamples", "200", "--mistakes", "0")
FROZEN = (
    "--backbone",
    "frozen",
    "--model",
    "test_resnet",
    "--weights",
    "none",
    "--input-size",
    "32",
    "--split",
    "random",
    "--head",
    "linear",
    "--epochs",
    "2",
)


@dataclass(frozen=True)
class Place:
    """What the jobs work on, shared by all cells: only jobs of their own copy may be harmed."""

    kaggle: Path
    train: Path
    test: Path
    run: Path


@dataclass(frozen=True)
class Job:
    """A command, run in an empty folder.

    `words` of the command, and `again` what is added when it runs a second time. `leaves`: files, below the folder, whose bytes are
    those of an undisturbed run, or a function of the folder. `moments`: (at, nth) of each fault that strikes while it runs.
    `harmed`: the file that is cut or of which a bit is flipped, below the folder or in `Place`; `stop`, `nth`: the moment that leaves the
    command unfinished before, if it is a file of unfinished work; `told`: what is then said, "" where the command mends it by itself;
    `remedy`: the file that is then removed, as was said, instead of bringing back the other.
    """

    words: Callable[[Place], tuple[object, ...]]
    again: tuple[str, ...]
    leaves: tuple[str, ...]
    moments: dict[str, tuple[str, int]] = field(default_factory=dict)
    harmed: str = ""
    stop: str = ""
    told: str = ""
    nth: int = 1
    remedy: str = ""
    offset: float = 0.6


def every(at: str, nth: int = 1, **others: tuple[str, int]) -> dict[str, tuple[str, int]]:
    """Return the same moment for all faults that strike, but those named."""
    kinds = {"kill -9": "kill", "SIGTERM": "term", "full disk": "full", "I/O error": "io"}
    return {kind: others.get(short, (at, nth)) for kind, short in kinds.items()}


MODEL = ("run/model.safetensors", "run/model.json", "run/split.parquet", "run/valid.parquet", "run/floor.npz")
STUDY = ("study/best/model.safetensors", "study/trials/0000.npy", "study/trials/0001.npy")
PAGE = ("j/judgement.json", "j/scores.parquet", "j/report.html")

JOBS = {
    "pack": Job(
        lambda place: ("pack", place.kaggle, "--out", "s.store", "--groups", place.kaggle / "slides.csv"),
        ("--resume",),
        ("s.store/tiles.npy", "s.store/rows.parquet", "s.store/store.json"),
        every("rows.parquet", full=("block of tiles", 2), io=("block of tiles", 2)),
        harmed="s.store/tiles.npy",
        stop="rows.parquet",
    ),
    "train step": Job(
        lambda place: ("train", place.train, "--out", "run", *TRAIN, "--resident", "no"),
        ("--resume",),
        MODEL,
        every("step", 8, full=("history.csv", 2), io=("batch", 9)),
        harmed="{train}/tiles.npy",
        stop="step",
        nth=8,
        told="the pixels that were packed into|tiles.npy as uint8|readable files",
    ),
    "checkpoint": Job(
        lambda place: ("train", place.train, "--out", "run", *TRAIN, "--checkpoint-s", "0"),
        ("--resume",),
        MODEL,
        every("state.safetensors", 8),
        harmed="run/resume/state.safetensors",
        stop="step",
        nth=8,
    ),
    "features": Job(
        lambda place: ("train", place.train, "--out", "run", *FROZEN, "--features", "features"),
        ("--resume",),
        ("run/model.safetensors", "run/model.json"),
        every("block of features", 4),
        harmed="features/*/features.npy",
        stop="model.json",
    ),
    "tune": Job(
        lambda place: ("tune", place.train, "--out", "study", *FROZEN, "--grid", "lr=1e-2,1e-3", "--features", "features"),
        ("--resume",),
        STUDY,
        every("0001.json", full=("0001.npy", 1)),
        harmed="study/trials/0000.npy",
        stop="0001.json",
        told="the scores of a trial.*remove the trial's .json",
        remedy="study/trials/0000.json",
    ),
    "evaluation": Job(
        lambda place: ("evaluate", place.run, place.test, "--out", "j", *JUDGE),
        ("--overwrite",),
        PAGE,
        every("scores.parquet"),
        harmed="{test}/tiles.npy",
        told="the pixels that were packed into|tiles.npy as uint8|readable files",
    ),
    "predict": Job(
        lambda place: ("predict", place.run, place.test, "--out", "scores.csv"),
        ("--overwrite",),
        ("scores.csv",),
        every("scores.csv"),
        harmed="{run}/model.safetensors",
        told="readable weights in model.safetensors",
    ),
    "report": Job(
        lambda place: ("evaluate", place.run, place.test, "--out", "j", *JUDGE),
        ("--overwrite",),
        PAGE,
        every("report.html", full=("judgement.json", 1)),
        harmed="{run}/floor.npz",
        told="colour histograms in",
    ),
}
FAULTS = ("kill -9", "SIGTERM", "full disk", "I/O error", "truncated file", "flipped bit")
