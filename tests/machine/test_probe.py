"""The probe says what the system says, and the peak is a rate of real work."""

import os
import platform
from pathlib import Path

import pytest
import torch

from sentinode.errors import MachineProblem, UsageProblem
from sentinode.machine.memory import limit_bytes
from sentinode.machine.probe import FEATURES, convolution_peak, cpu_features, cpu_name, keep_to_usable_cores, probe


def test_the_machine_is_this_one() -> None:
    machine = probe()
    assert machine.torch == torch.__version__
    assert machine.python == platform.python_version()
    assert machine.memory == limit_bytes()
    assert 1 <= machine.cores <= (os.cpu_count() or 1)
    assert len(machine.gpus) == (torch.cuda.device_count() if torch.cuda.is_available() else 0)
    assert set(machine.features) <= set(FEATURES)
    assert machine.cpu


@pytest.mark.parametrize(("said", "threads"), [(None, 1), ("2", 2)])
def test_a_quota_is_kept_to_where_nobody_said_otherwise(monkeypatch: pytest.MonkeyPatch, said: str | None, threads: int) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr("sentinode.machine.probe.usable_cores", lambda: 1)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    torch.set_num_threads(2)
    try:
        keep_to_usable_cores()
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_features_agree_with_what_torch_found() -> None:
    found = {"AVX512": "avx512f", "AVX2": "avx2", "NEON": "neon", "SVE256": "sve"}.get(torch.backends.cpu.get_cpu_capability())
    assert found is None or found in cpu_features()


def test_arm_names_are_understood(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nFeatures\t: fp asimd sve bf16 i8mm\n", encoding="utf-8")
    assert cpu_features(tmp_path) == ("neon", "sve", "bf16")


def test_the_processor_is_named(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz: fast\n", encoding="utf-8")
    assert cpu_name(tmp_path) == "Some CPU @ 2 GHz: fast"


def test_without_the_file_torch_and_the_platform_answer(tmp_path: Path) -> None:
    assert set(cpu_features(tmp_path)) <= set(cpu_features()) | {"neon"}
    assert cpu_name(tmp_path) == (platform.processor() or platform.machine())


def test_the_peak_is_a_rate_that_a_computer_can_have() -> None:
    """More than a tenth of a GFLOP/s for any machine that runs this, less than the fastest core times the cores."""
    assert 1e8 < convolution_peak("cpu", "fp32", seconds=0.05) < 1e13


def test_an_unknown_precision_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageProblem) as caught:
        convolution_peak("cpu", "bf61")
    assert caught.value.expected == "a precision"
    assert caught.value.found == "'bf61'"
    assert caught.value.do.startswith("did you mean bf16")


def test_a_device_that_is_not_there_is_said_so() -> None:
    with pytest.raises(MachineProblem) as caught:
        convolution_peak("cuda:99", "fp32", seconds=0.01)
    assert "'cuda:99'" in caught.value.expected
    assert caught.value.found
    assert "sentinode doctor" in caught.value.do
