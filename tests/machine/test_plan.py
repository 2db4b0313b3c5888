"""The plan: precision by measurement, everything else by rule, anything by hand, and a reason for each."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinode.errors import MachineProblem
from sentinode.machine.plan import Plan, choose_device, choose_precision, make_plan
from sentinode.nets.engine import choose
from sentinode.settings import TrainSettings


def plan_of(times: dict[str, float] | None = None, px: int = 96, size: int = 10**6, **options: Any) -> Plan:
    seconds = times or {"fp32": 1.0, "bf16": 0.5}
    settings = TrainSettings(**{"device": "cpu"} | options)
    return make_plan(settings, px=px, resident_bytes=size, positive_share=0.4, step_seconds=lambda plan: seconds[plan.precision])


@pytest.mark.parametrize(
    ("bf16", "chosen"), [(0.5, "bf16"), (0.99, "fp32"), (0.9, "fp32"), (3.0, "fp32")], ids=["half", "same", "little", "slower"]
)
def test_reduced_precision_is_chosen_only_where_it_clearly_pays(bf16: float, chosen: str) -> None:
    assert plan_of({"fp32": 1.0, "bf16": bf16}).precision == chosen


@pytest.mark.parametrize(
    ("option", "value"), [("precision", "fp32"), ("micro_batch", 5), ("threads", 1), ("resident", "no"), ("resident", "yes")]
)
def test_what_is_asked_for_is_done_and_said(option: str, value: Any) -> None:
    plan = plan_of(**{option: value})
    wanted = {"no": False, "yes": True}.get(value, value) if option == "resident" else value
    assert getattr(plan, option) == wanted
    assert plan.reasons[option] == "asked for"


def test_every_choice_has_its_reason_on_a_line() -> None:
    plan = plan_of()
    named = {"device", "precision", "micro_batch", "accumulation", "memory_format", "compile", "threads", "resident"}
    assert set(plan.reasons) == named
    assert all(name in line for name, line in zip(plan.reasons, plan.lines(), strict=True))
    assert "1000 ms in fp32, 500 ms in bf16" in plan.reasons["precision"]


@pytest.mark.parametrize(
    ("cores", "why"), [(3, "one a usable core"), (8, "set outside, as by OMP_NUM_THREADS; 8 cores are usable")]
)
def test_the_reason_for_the_threads_is_true(monkeypatch: pytest.MonkeyPatch, cores: int, why: str) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    monkeypatch.setattr("sentinode.machine.plan.usable_cores", lambda: cores)
    plan = plan_of()
    assert (plan.threads, plan.reasons["threads"]) == (3, why)


def test_tiles_that_do_not_fit_stay_on_disk() -> None:
    assert plan_of(size=10**6).resident
    assert not plan_of(size=10**15).resident


@pytest.mark.parametrize(("px", "micro"), [(96, 32), (48, 32), (224, 32), (448, 8), (2000, 1)])
def test_micro_batches_hold_32_tiles_and_fewer_large_ones(px: int, micro: int) -> None:
    assert plan_of(px=px, batch=64).micro_batch == micro


@pytest.mark.parametrize(("batch", "micro", "parts"), [(64, 32, 2), (100, 32, 4), (16, 16, 1)])
def test_micro_batches_make_the_optimisers_batch(batch: int, micro: int, parts: int) -> None:
    plan = plan_of(batch=batch)
    assert (plan.micro_batch, plan.accumulation) == (micro, parts)


def test_a_short_run_looks_at_each_precision_once() -> None:
    for minutes, looks in ((1.0, 1), (60.0, 3), (None, 3)):
        seen: list[str] = []

        def step(plan: Plan, seen: list[str] = seen) -> float:
            seen.append(plan.precision)
            return 1.0

        make_plan(TrainSettings(device="cpu", minutes=minutes), px=96, resident_bytes=0, positive_share=0.5, step_seconds=step)
        assert seen == ["fp32", "bf16"] * looks


def test_a_device_that_is_not_there_is_told() -> None:
    with pytest.raises(MachineProblem, match=r"expected device .*; found .*; "):
        choose_device("cuda:99")
    assert choose_device("cpu") == ("cpu", "asked for")


@pytest.mark.parametrize(("device", "chosen"), [("cuda", "fp16"), ("cpu", "fp32")])
def test_fp16_is_tried_on_gpus_alone(device: str, chosen: str) -> None:
    """A GPU that knows fp16 but not bf16, as Pascal and Turing cards do."""
    times = {"fp32": 1.0, "bf16": 2.0, "fp16": 0.5}
    plan = Plan(device, "auto", 64, 1, True)
    assert choose_precision(plan, lambda plan: times[plan.precision]).precision == chosen


@given(
    times=st.fixed_dictionaries({p: st.floats(1e-4, 1e3) for p in ("fp32", "bf16", "fp16")}),
    device=st.sampled_from(["cpu", "cuda"]),
)
def test_what_is_chosen_never_took_longer_than_plain_fp32(times: dict[str, float], device: str) -> None:
    plan = choose_precision(Plan(device, "auto", 64, 1, True), lambda plan: times[plan.precision])
    assert times[plan.precision] <= times["fp32"]
    engines = {f"form {precision}": seconds for precision, seconds in times.items()}
    assert engines[choose(engines)] <= engines["form fp32"]
