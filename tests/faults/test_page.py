"""The page of faults says what the matrix tests, and the matrix is as large as was promised."""

from tests.faults.jobs import FAULTS, JOBS
from tests.faults.page import PAGE, page


def test_the_page_is_that_of_the_tests() -> None:
    assert PAGE.read_text("utf-8") == page(), "run: python -m tests.faults.page"


def test_every_job_meets_every_fault() -> None:
    assert len(JOBS) * len(FAULTS) == 48
    for job in JOBS.values():
        assert set(job.moments) == set(FAULTS[:4])
        assert job.harmed
