"""What cannot be trained stands beside what can; what was typed stays; nothing is half-written."""

import dataclasses
import errno
from pathlib import Path
from typing import Any

import pytest
import torch

import sentinode
from sentinode.cli import main
from sentinode.errors import MachineProblem, RunProblem, UsageProblem
from sentinode.fit.sampler import SPACES, Sampled, open_storage, space_of
from sentinode.fit.trials import Watch
from sentinode.flows.tune import tune
from sentinode.settings import TrainSettings, resolved
from tests.flows.test_tune import FAST, GRID, Formula, tissue


class Failing(Formula):
    """Trials of which the second raises what it is given."""

    error: BaseException | None = None

    def run(self, number: int, settings: TrainSettings, watch: Watch) -> tuple[Any, dict[str, Any]]:
        if self.error is not None and number == 1:
            raise self.error
        return super().run(number, settings, watch)


@pytest.fixture
def formula(monkeypatch: pytest.MonkeyPatch) -> Failing:
    made = Failing()
    monkeypatch.setattr("sentinode.flows.tune.Trainings", lambda *_: made)
    return made


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RunProblem("a training that stays finite", "one that does not", "lower --lr"), "a training that stays finite"),
        (UsageProblem("an input of 32 px", "7", "change --input-size"), "an input of 32 px"),
        (MachineProblem("weights of resnet50", "none here", "get them"), "weights of resnet50"),
        (MemoryError(), "memory enough for the work; found more asked for than there is"),
        (torch.OutOfMemoryError("CUDA out of memory"), "found more asked for than there is (that of the GPU)"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
            "found 99 bytes asked for at once",
        ),
    ],
)
def test_a_cell_that_cannot_be_trained_is_one_of_the_result(
    tmp_path: Path, formula: Failing, error: BaseException, told: str
) -> None:
    formula.error = error
    study = tune(tissue(), out=tmp_path / "study", grid=GRID, **FAST)
    assert [trial.state for trial in study.trials] == ["done", "failed", "done", "done"]
    line = next(line for line in study.lines() if line.startswith("failed"))
    assert line.startswith("failed     1 of 4 trials; trial 1: expected ")
    assert told in line
    assert study.record["ended"] == {"done": 3, "pruned": 0, "failed": 1}
    assert told in (tmp_path / "study" / "trials.csv").read_text("utf-8")
    assert tune(tissue(), out=tmp_path / "study", grid=GRID, resume=True, **FAST).record == study.record


@pytest.mark.parametrize("what", ["choose_parts", "finish_once"])
def test_memory_that_is_too_small_for_the_study_itself_is_told(
    tmp_path: Path, formula: Failing, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 8.00 PiB for an array")

    assert formula.error is None
    monkeypatch.setattr(f"sentinode.flows.tune.{what}", full)
    with pytest.raises(MachineProblem, match=r"expected memory enough for the work; found 8.00 PiB asked for at once"):
        tune(tissue(), out=tmp_path / "study", grid=GRID, **FAST)


def test_a_full_disk_is_no_fault_of_a_trial(tmp_path: Path, formula: Failing) -> None:
    problem = MachineProblem("room to write 'x'", "a full disk", "free some space")
    problem.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    outer = MachineProblem("room for features", "a full disk", "free some space")
    outer.__cause__ = problem
    formula.error = outer
    with pytest.raises(MachineProblem, match="room for features"):
        tune(tissue(), out=tmp_path / "study", grid=GRID, **FAST)
    formula.error = None
    study = tune(tissue(), out=tmp_path / "study", grid=GRID, resume=True, **FAST)
    assert [trial.state for trial in study.trials] == ["done"] * 4


def test_a_frozen_cell_without_its_weights_fails_alone_and_all_without_leave_no_folder(tmp_path: Path) -> None:
    lost = str(tmp_path / "lost.safetensors")
    options: dict[str, Any] = {
        "backbone": "frozen",
        "precision": "fp32",
        "input_size": 32,
        "features": str(tmp_path / "f"),
        "quiet": True,
    }
    study = tune(tissue(), out=tmp_path / "study", grid={"weights": [lost, "auto"]}, **options)
    assert [trial.state for trial in study.trials] == ["failed", "done"]
    assert "lost.safetensors" in study.trials[0].note
    before = sorted(tmp_path.iterdir())
    for search in ({"grid": {"weights": [lost, lost + "2"]}}, {"trials": 3, "weights": lost}):
        with pytest.raises(sentinode.SentinodeError, match=r"lost\.safetensors"):
            tune(tissue(), out=tmp_path / "none", **search, **options)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "search",
    [
        {"backbone": "frozen", "grid": {"head": ["linear", "mlp"]}},
        {"grid": {"backbone": ["frozen", "scratch"]}},
        {"backbone": "frozen", "head": "linear", "trials": 3},
    ],
)
def test_heads_of_a_study_cannot_follow_a_clock_and_nothing_is_written(tmp_path: Path, search: dict[str, Any]) -> None:
    with pytest.raises(UsageProblem, match=r"how a frozen backbone follows --minutes; found 100%; .*--minutes out"):
        tune(tissue(), out=tmp_path / "study", minutes=5.0, quiet=True, **search)
    assert not (tmp_path / "study").exists()


def test_frozen_and_trained_cells_stand_in_one_grid(tmp_path: Path) -> None:
    options = FAST | {"input_size": 32, "features": str(tmp_path / "f"), "epochs": 1}
    study = tune(tissue(), out=tmp_path / "study", grid={"backbone": ["frozen", "scratch"]}, **options)
    assert [trial.state for trial in study.trials] == ["done", "done"]
    assert study.trials[1].epochs == 1
    assert len(study.record["about"]["extractions"]) == 1
    best = sentinode.load(tmp_path / "study" / "best")
    assert best.record["settings"]["backbone"] == study.record["best"]["options"]["backbone"]
    assert best.record["valid"]["auroc"] == study.record["best"]["auroc"]


def test_what_was_given_stays_as_it_is(tmp_path: Path, formula: Failing) -> None:
    study = tune(
        tissue(), out=tmp_path / "a", trials=3, settings=TrainSettings(lr=2e-3), weight_decay=0.05, keep="colour", **FAST
    )
    assert {name for trial in study.trials for name in trial.options} == {"batch", "dropout"}
    with pytest.raises(UsageProblem, match=r"another space to draw from"):
        tune(tissue(), out=tmp_path / "a", trials=3, settings=TrainSettings(lr=2e-3), weight_decay=0.05, resume=True, **FAST)
    with pytest.raises(UsageProblem, match=r"expected settings to keep; found 'colours'; did you mean colour"):
        tune(tissue(), out=tmp_path / "b", trials=3, keep=["colours"], **FAST)
    with pytest.raises(
        UsageProblem, match=r"settings left to draw; found none beside lr, weight_decay, .*; leave one of them out"
    ):
        tune(tissue(), out=tmp_path / "b", trials=3, keep=list(SPACES["scratch"]), **FAST)
    assert not (tmp_path / "b").exists()


def test_what_was_typed_or_stands_in_a_recipe_is_given_even_where_it_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: dict[str, Any] = {}

    def tuned(*_: Any, **options: Any) -> Any:
        got.update(options)
        raise UsageProblem("a", "b", "c")

    monkeypatch.setattr(sentinode, "tune", tuned, raising=False)
    (tmp_path / "r.toml").write_text("dropout = 0.3\n", "utf-8")
    words = ["tune", "s.store", "--out", "o", "--trials", "3", "--weight-decay", "0.05", "--keep", "lr"]
    with pytest.raises(SystemExit):
        main([*words, "--no-dihedral", "--recipe", str(tmp_path / "r.toml")])
    assert sorted(got["keep"]) == ["dihedral", "dropout", "lr", "weight_decay"]


def test_a_frozen_network_is_tried_with_every_head_and_what_each_reads(tmp_path: Path) -> None:
    settings = resolved(TrainSettings(backbone="frozen"))
    space = space_of(settings, ["backbone"])
    sampled = Sampled(open_storage(tmp_path, None), "study", {"settings": dataclasses.asdict(settings)}, space, settings)
    drawn = [sampled.draw()[1] for _ in range(20)]
    assert drawn[0] == {"head": "logistic"}
    assert drawn[1] == {"head": "linear", "lr": 1e-3, "weight_decay": 0.05, "batch": 256}
    assert {options["head"] for options in drawn[1:]} == {"linear", "mlp"}
    assert all(("dropout" in options) == (options["head"] == "mlp") for options in drawn)
    again = [sampled.again(number)[1] for number in range(20)]
    assert again == drawn
    typed = resolved(TrainSettings(backbone="frozen", head="linear"))
    assert set(space_of(typed, ["head"])) == {"lr", "weight_decay", "batch"}
    with pytest.raises(UsageProblem, match=r"found none beside head, and a logistic head has no others; .*--grid"):
        space_of(settings, ["head"])
