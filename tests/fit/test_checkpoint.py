"""What a signal does to a run; that nothing of a checkpoint is lost is shown where runs are killed, in test_train."""

import signal

import pytest

from sentinode.fit.checkpoint import interruption


def test_a_second_signal_interrupts_at_once_but_not_one_of_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with interruption() as asked:
        signal.raise_signal(signal.SIGTERM)
        assert asked.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    for name, value in {"TORCHELASTIC_RUN_ID": "job", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with interruption() as asked:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
            signal.raise_signal(number)
        assert asked.asked
    assert signal.getsignal(signal.SIGTERM) is before
