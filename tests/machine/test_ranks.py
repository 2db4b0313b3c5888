"""Who a process is among those that torchrun started, what is its own, and which of them speaks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinode import cli
from sentinode.errors import MachineProblem, RunProblem, UsageProblem
from sentinode.machine import ranks
from sentinode.machine.plan import make_plan, own_gpu
from sentinode.machine.ranks import ALONE, Ranks, attempt, joined, lost, speaker, started
from sentinode.settings import TrainSettings

SECOND = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}


class Notes:
    """torchrun's table."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, _name: str, more: int) -> int:
        self.count += more
        return self.count


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> Notes:
    """Be the second of four processes, two on each machine."""
    for name, value in SECOND.items():
        monkeypatch.setenv(name, value)
    notes = Notes()
    monkeypatch.setattr(ranks, "notes", lambda: notes)
    return notes


def test_without_torchrun_there_is_one_process_and_all_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")  # as some clusters set it for every command
    monkeypatch.setenv("RANK", "3")
    assert started() == ALONE
    assert attempt() == 0
    with joined("cpu") as here:
        assert here is ALONE
    value = object()
    assert ALONE.told(value) is value
    assert ALONE.total(3) == 3
    assert ALONE.span(10, 4) == (0, 10)
    assert speaker() == speaker(of_error=True) == ""


@pytest.mark.usefixtures("second")
def test_torchrun_says_who_a_process_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert started() == Ranks(1, 4, 1, 2)
    assert not started().first
    assert attempt() == 0
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert attempt() == 1


def test_results_are_the_firsts_to_tell_and_of_errors_the_earliest_is_told(second: Notes) -> None:
    assert speaker() is None
    assert str(speaker(of_error=True)).startswith("process 2 of 4 on ")
    assert speaker(of_error=True) is None
    assert second.count == 2


@given(n=st.integers(0, 500), batch=st.integers(1, 64), world=st.integers(1, 9))
def test_spans_are_whole_batches_and_cover_all(n: int, batch: int, world: int) -> None:
    spans = [Ranks(rank, world).span(n, batch) for rank in range(world)]
    assert [0, *(last for _, last in spans)] == [*(first for first, _ in spans), n]
    assert all(first % batch == 0 or first == n for first, _ in spans)


def test_a_process_that_is_gone_is_told_in_three_parts() -> None:
    with pytest.raises(MachineProblem) as caught, lost():
        raise RuntimeError("[tcp/pair.cc:547] Connection closed\nby peer")
    assert caught.value.expected == "all 1 processes of this job"
    assert caught.value.found == "one that died or cannot be reached ([tcp/pair.cc:547] Connection closed by peer)"
    assert "--resume" in caught.value.do
    with pytest.raises(RuntimeError, match="out of memory"), lost():
        raise RuntimeError("CUDA out of memory")


def test_processes_with_other_tiles_do_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Ranks(1, 2)
    monkeypatch.setattr(Ranks, "told", lambda *_: "their digest")
    monkeypatch.setattr(Ranks, "total", lambda _self, number: number)
    with pytest.raises(RunProblem, match=r"expected the same tiles in all 2 processes; found others.*; give them the same files"):
        here.check_same("tiles", "my digest")
    here.check_same("tiles", "their digest")


def test_each_process_of_a_machine_has_a_gpu() -> None:
    here = Ranks(5, 8, 1, 4)
    assert own_gpu("auto", here, 4)[0] == own_gpu("cuda", here, 4)[0] == "cuda:1"
    with pytest.raises(UsageProblem, match=r"expected device auto, cpu or cuda .*found 'cuda:1'; leave --device out"):
        own_gpu("cuda:1", here, 4)
    with pytest.raises(MachineProblem, match=r"expected a GPU for each of 4 .*found 2 GPUs; start as many processes"):
        own_gpu("auto", here, 2)


@pytest.mark.parametrize(("world", "micro"), [(1, 32), (2, 32), (3, 22), (8, 8)])
def test_a_step_has_a_micro_batch_for_each_process(world: int, micro: int) -> None:
    settings = TrainSettings(precision="fp32", device="cpu", batch=64)
    plan = make_plan(settings, px=96, resident_bytes=1, positive_share=0.5, step_seconds=lambda _: 1.0, ranks=Ranks(0, world))
    assert (plan.micro_batch, plan.processes) == (micro, world)
    assert any("processes" in line for line in plan.lines()) == (world > 1)


@pytest.mark.usefixtures("second")
def test_a_command_that_cannot_be_divided_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["evaluate", "run", "tiles.store", "--out", "judgement"])
    assert ended.value.code == UsageProblem.exit_code
    said = capsys.readouterr().err
    assert "expected train or predict, which several processes can divide; found 'evaluate'; start" in said
    assert len(said.splitlines()) == 1
