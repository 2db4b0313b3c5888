"""What long jobs say: nothing when quiet, thinned lines off a terminal, a bar on one; ten hours stay under 100 KB."""

import io
import itertools
import sys
import time

import pytest

from sentinode import progress
from sentinode.progress import Progress


class Clock:
    """A clock that the test turns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def listen(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO | None = None) -> io.StringIO:
    """Put a stream in the place of standard error; called in the test, since pytest sets its own before each."""
    stream = stream or io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return stream


def test_quiet_says_nothing(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    lines = listen(monkeypatch)
    voice = Progress(quiet=True)
    voice.say("hello", always=True)
    with voice.track("packing", 10) as tick:
        clock.now += 100
        tick(5)
    assert lines.getvalue() == ""


def test_the_first_lines_come_as_they_are_said(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    lines = listen(monkeypatch)
    voice = Progress()
    for number in range(progress.FREE_LINES):
        voice.say(f"epoch {number}")
    assert lines.getvalue().splitlines() == [f"epoch {number}" for number in range(progress.FREE_LINES)]


def test_later_lines_are_thinned_but_never_silent_for_long(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    lines = listen(monkeypatch)
    voice = Progress()
    for _ in range(progress.FREE_LINES + 50):
        voice.say("early")
    assert len(lines.getvalue().splitlines()) == progress.FREE_LINES
    clock.now += progress.SPARSE_S
    voice.say("later")
    voice.say("too soon")
    voice.say("the result", always=True)
    assert lines.getvalue().splitlines()[progress.FREE_LINES :] == ["later", "the result"]


def test_ten_hours_stay_under_100_kb(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    lines = listen(monkeypatch)
    voice = Progress()
    for _ in range(36_000):
        clock.now += 1
        voice.say("x" * 1000)
    assert 0 < len(lines.getvalue()) < 100_000


def test_a_line_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = listen(monkeypatch)
    Progress().say("y" * 1000)
    assert lines.getvalue() == "y" * progress.WIDEST + "\n"


def test_a_tracked_job_tells_rate_and_time_left(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    lines = listen(monkeypatch)
    with Progress().track("packing", 1000) as tick:
        clock.now += progress.TRACK_S / 2
        tick(100)
        assert lines.getvalue() == ""
        clock.now += progress.TRACK_S / 2
        tick(100)
    assert lines.getvalue() == "packing: 200 of 1,000 tiles, 20/s, 40 s left\n"


def test_a_tracked_job_that_has_done_nothing_yet_does_not_divide_by_it(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    lines = listen(monkeypatch)
    with Progress().track("resuming", 10) as tick:
        clock.now += 60
        tick(0)
        tick(20)
    assert lines.getvalue() == "resuming: 20 of 10 tiles, 0/s, 0 s left\n"


def test_a_fast_job_says_nothing_off_a_terminal(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    lines = listen(monkeypatch)
    with Progress().track("packing", 1000) as tick:
        for _ in itertools.repeat(None, 1000):
            tick(1)
    assert lines.getvalue() == ""


def test_on_a_terminal_there_is_a_bar_and_it_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = listen(monkeypatch, Terminal())
    voice = Progress()
    with voice.track("packing [red]x[/red]", 10, "slides") as tick:
        tick(10)
        assert voice.on_terminal
    text = terminal.getvalue()
    assert "packing [red]x[/red]" in text
    assert "slides" in text
    assert "\x1b[?25h" in text, "the cursor is shown again"


def test_a_bar_leaves_the_terminal_in_order_when_the_job_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = listen(monkeypatch, Terminal())
    with pytest.raises(KeyboardInterrupt), Progress().track("packing", 10):
        raise KeyboardInterrupt
    assert terminal.getvalue().rindex("\x1b[?25h") > terminal.getvalue().rindex("\x1b[?25l")


def test_lines_on_a_terminal_are_not_thinned(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    terminal = listen(monkeypatch, Terminal())
    voice = Progress()
    for _ in range(progress.FREE_LINES + 5):
        voice.say("line")
    assert len(terminal.getvalue().splitlines()) == progress.FREE_LINES + 5


def test_a_program_without_a_console_is_not_stopped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    voice = Progress()
    voice.say("nobody hears", always=True)
    with voice.track("packing", 2) as tick:
        tick(2)
    assert not voice.on_terminal
    assert capsys.readouterr().out == ""
