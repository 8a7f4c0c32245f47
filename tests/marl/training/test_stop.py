"""marl/training/stop.py: one signal asks, two end; a save is not cut short by the second."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from marl.training import stop as signals
from marl.training.stop import StopRequest


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_SAME_PRESS", 0.0)


def send(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.usefixtures("fast")
def test_the_first_only_asks(number: int, code: int, capfd: pytest.CaptureFixture[str]) -> None:
    started_with = signal.signal(number, signal.default_int_handler)  # nohup starts us with an ignored SIGHUP
    try:
        with StopRequest() as stop:
            assert not stop.requested
            send(number)
            assert stop.requested and stop.exit_code == code
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, started_with)
    assert "once more to stop at once" in capfd.readouterr().err


@pytest.mark.usefixtures("fast")
def test_the_second_ends_at_once_with_the_code_of_the_first() -> None:
    with StopRequest() as stop:
        send(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        assert stop.exit_code == 143


@pytest.mark.usefixtures("fast")
def test_the_second_waits_for_the_end_of_a_save_and_the_third_does_not() -> None:
    """Guard: seen failing with `saving` not counted: the save is cut short by the second."""
    with StopRequest() as stop:
        saved = []
        with pytest.raises(KeyboardInterrupt), stop.saving():
            with stop.saving():
                send()
                send()
            saved.append(True)
        assert saved and stop.requested
    with StopRequest() as stop, pytest.raises(KeyboardInterrupt), stop.saving():
        send()
        send()
        send()
        pytest.fail("a third signal ends at once")


def test_one_press_that_arrives_twice_counts_once() -> None:
    with StopRequest() as stop:
        send()
        send()
        assert stop.requested


def test_request_and_threads() -> None:
    stop = StopRequest()
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def run() -> None:
        with stop:
            stop.request()
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert stop.requested and stop.exit_code == 130 and seen == [before]


def test_what_the_parent_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            send(signal.SIGHUP)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)
