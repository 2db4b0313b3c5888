"""The suites that set the plan beside plain fp32, and that measure a GPU, run: here on a CPU, with few tiles."""

import pytest

from benchmarks import gpu, plan


@pytest.mark.parametrize("job", list(plan.JOBS))
def test_both_sides_do_the_job_on_all_tiles(job: str) -> None:
    ours, first = plan.planned(job, "simple-cnn", 24)
    theirs = plan.plain(job, "simple-cnn", 24, allocator=False)
    assert ours()["n"] == theirs()["n"] == 24
    assert first["plan"]
    assert first["reasons"]


def test_the_jobs_of_a_gpu_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "PEAK_S", 0.01)
    work, first = gpu.trained("cnn", 24, "cpu")
    found = work()
    assert found["n"] == 24
    assert 0 < found["share_of_peak"] < 1
    assert first["host_waits_an_epoch"] is None
