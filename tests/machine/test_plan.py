"""The plan: precision by measurement, everything else by rule, anything by hand, and a reason for each."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinode.errors import MachineProblem
from sentinode.machine.memory import peak_gpu_bytes
from sentinode.machine.plan import (
    Plan,
    check_precision,
    choose_compile,
    choose_device,
    choose_precision,
    make_plan,
    with_reading,
)
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
    ("option", "value"),
    [
        ("precision", "fp32"),
        ("memory_format", "contiguous"),
        ("micro_batch", 5),
        ("threads", 1),
        ("resident", "no"),
        ("resident", "yes"),
    ],
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


def test_of_several_gpus_the_one_that_was_asked_for_says_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"cuda:0": 10**6, "cuda:1": 10**9}
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (free[device], 10**10))
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda device: free[device] // 10)
    plans = [plan_of(device=device, precision="bf16", size=10**7) for device in free]
    assert [plan.resident for plan in plans] == [False, True]
    assert [plan.device for plan in plans] == list(free)
    assert [peak_gpu_bytes(device) for device in (*free, "cpu")] == [10**5, 10**8, 0]


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


@pytest.mark.parametrize(("step_s", "looks"), [(0.5, 3), (2.0, 2), (30.0, 1)])
def test_long_steps_are_looked_at_less_often(monkeypatch: pytest.MonkeyPatch, step_s: float, looks: int) -> None:
    """A probe takes seconds, not minutes: of two precisions, none is begun again after 5 s."""
    clock, seen = [0.0], []
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def step(plan: Plan) -> float:
        seen.append(plan.precision)
        clock[0] += step_s
        return step_s

    choose_precision(Plan("cpu", "auto", 64, 1, True), step)
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
    times=st.fixed_dictionaries({p: st.floats(1e-4, 1e3) for p in ("fp32", "tf32", "bf16", "fp16")}),
    speedup=st.floats(0.1, 10),
    device=st.sampled_from(["cpu", "cuda"]),
    modern=st.booleans(),
    steps=st.integers(0, 10**7),
)
def test_what_is_chosen_never_took_longer_than_plain_fp32_eager(
    times: dict[str, float], speedup: float, device: str, modern: bool, steps: int
) -> None:
    """Whatever the timings: of precision, of compiling on top of it, and of a network's form."""

    def step(plan: Plan) -> float:
        return times[plan.precision] / (speedup if plan.compile else 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sentinode.machine.plan.has_tf32", lambda device: modern and device == "cuda")
        plan = choose_precision(Plan(device, "auto", 64, 1, True), step)
    assert plan.step_s == times[plan.precision] <= times["fp32"]
    plan = choose_compile(plan, TrainSettings(), steps, step)
    assert step(plan) <= times["fp32"]
    assert not (plan.compile and device == "cpu")
    engines = {f"form {precision}": seconds for precision, seconds in times.items()}
    assert engines[choose(engines)] <= engines["form fp32"]


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        ((1.0, 0.5, 0.45, 0.45), "tf32"),
        ((1.0, 0.5, 0.3, 0.29), "bf16"),
        ((1.0, 0.9, 0.8, 0.8), "bf16"),
        ((1.0, 1.0, 2.0, 0.9), "fp32"),
    ],
    ids=["bf16 gains little more", "it gains much more", "tf32 gains little", "none gains enough"],
)
def test_a_less_exact_precision_must_clearly_pay(monkeypatch: pytest.MonkeyPatch, times: tuple[float, ...], chosen: str) -> None:
    monkeypatch.setattr("sentinode.machine.plan.has_tf32", lambda _: True)
    of = dict(zip(("fp32", "tf32", "bf16", "fp16"), times, strict=True))
    assert choose_precision(Plan("cuda", "auto", 64, 1, True), lambda plan: of[plan.precision]).precision == chosen


@pytest.mark.parametrize(
    ("device", "capability", "found"), [("cpu", (8, 0), "a CPU"), ("cuda", (7, 5), "a GPU without it"), ("cuda", (8, 0), "")]
)
def test_tf32_is_asked_of_a_device_that_has_it(
    monkeypatch: pytest.MonkeyPatch, device: str, capability: tuple[int, int], found: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: capability)
    if not found:
        check_precision("tf32", device)
        return
    check_precision("fp32", device)
    with pytest.raises(MachineProblem) as caught:
        check_precision("tf32", device)
    assert ("TF32" in caught.value.expected, caught.value.found) == (True, found)
    assert "leave --precision out" in caught.value.do


GPU = Plan("cuda", "bf16", 64, 1, True, step_s=0.1)


def halves(plan: Plan) -> float:
    return plan.step_s / 2 if plan.compile else plan.step_s


@pytest.mark.parametrize(
    ("plan", "options", "steps", "compiles", "why"),
    [
        (Plan("cpu", "fp32", 32, 1, True, step_s=9.0), {}, 10**6, False, "on a CPU"),
        (Plan("cpu", "fp32", 32, 1, True), {"compile": "yes"}, 1, True, "asked for"),
        (GPU, {"compile": "no"}, 10**6, False, "asked for"),
        (GPU, {}, 600, False, "not tried: 1 minutes"),
        (GPU, {"minutes": 20.0}, 10**6, False, "not tried: 20 minutes"),
        (GPU, {"minutes": 60.0}, 0, True, "100 ms, compiled 50 ms: 1800 s saved for 0 s"),
        (GPU, {}, 36_000, True, "100 ms, compiled 50 ms: 1800 s saved for 0 s"),
        (dataclasses.replace(GPU, processes=4), {}, 36_000, False, "not tried: 15 minutes"),
        (dataclasses.replace(GPU, processes=4), {}, 144_000, True, "1800 s saved for 0 s"),
    ],
    ids=["cpu", "yes", "no", "short", "short clock", "long clock", "long", "short for four", "long for four"],
)
def test_compiling_is_for_long_runs_on_a_gpu_or_asked_for(
    plan: Plan, options: dict[str, Any], steps: int, compiles: bool, why: str
) -> None:
    chosen = choose_compile(plan, TrainSettings(**options), steps, halves)
    assert chosen.compile is compiles
    assert why in chosen.reasons["compile"]


def test_a_short_clock_is_not_spent_on_a_look() -> None:
    def step(_: Plan) -> float:
        raise AssertionError("a step was timed")

    chosen = choose_compile(dataclasses.replace(GPU, step_s=0.0), TrainSettings(minutes=20.0), 10**6, step)
    assert not chosen.compile


def test_a_warm_up_that_takes_more_than_it_saves_is_not_paid(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1000.0])
    monkeypatch.setattr("sentinode.machine.plan.time.perf_counter", lambda: next(clock))
    chosen = choose_compile(GPU, TrainSettings(), 36_000, halves)
    assert not chosen.compile
    assert "1800 s saved for 2000 s of warm-up" in chosen.reasons["compile"]


def test_a_gpu_that_cannot_compile_goes_on_as_it_is() -> None:
    def step(plan: Plan) -> float:
        if plan.compile:
            raise ImportError("no triton")
        return 1.0

    chosen = choose_compile(GPU, TrainSettings(), 36_000, step)
    assert not chosen.compile
    assert chosen.reasons["compile"] == "torch.compile fails here: ImportError"


@pytest.mark.parametrize(("rate", "step_s", "warned"), [(500.0, 0.1, True), (700.0, 0.1, False), (500.0, 0.0, False)])
def test_a_disk_that_is_slower_than_training_is_told(rate: float, step_s: float, warned: bool) -> None:
    plan = Plan("cpu", "fp32", 32, 1, False, step_s=step_s, reasons={"resident": "asked for"})
    why = with_reading(plan, 64, rate, "the disk").reasons["resident"]
    assert why.startswith(f"asked for; the disk gives {rate:.0f} tiles/s")
    assert ("fewer than the 640 that could be trained: put the store on a faster disk" in why) is warned
    assert "1,280" in with_reading(plan, 64, rate, "the disk", 2).reasons["resident"] or not step_s
