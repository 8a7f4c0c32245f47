"""Ctrl-C and SIGTERM as a request that the trainer polls, so that a run ends after a whole step and a save."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

_SAME_PRESS = 0.2  # seconds: a wrapper that passes Ctrl-C on makes two signals of one press


class StopRequest:
    """While the context is open, the first SIGINT or SIGTERM (or SIGHUP: a closed terminal) only sets `requested`.

    A second one ends the run at once with KeyboardInterrupt; inside `saving()` it waits for the end of the save, and a
    third does not wait. Signals that the parent process told us to ignore stay ignored (nohup). Outside the main
    thread, where Python allows no handlers, nothing is installed and only `request` works.
    """

    def __init__(self) -> None:
        self.requested = False
        self._first = signal.SIGINT
        self._count = 0
        self._last = float("-inf")
        self._saves = 0
        self._waiting = False
        self._at_once = False
        self._old: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """128 + the signal that came first: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + int(self._first)

    def request(self) -> None:
        """Ask the trainer to stop, as the first Ctrl-C does."""
        self.requested = True

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """While a checkpoint is written: a second signal waits for its end."""
        self._saves += 1
        try:
            yield
        finally:
            self._saves -= 1
        if self._waiting and self._saves == 0:
            self._waiting = False
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """While there is nothing to save: the first signal ends the run as else the second does."""
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                    self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._old = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._count and now - self._last < _SAME_PRESS:
            return
        self._last = now
        self._count += 1
        if self._count == 1:
            self._first = signal.Signals(number)
            self.requested = True
            if self._at_once:
                raise KeyboardInterrupt
            _announce("stopping after this step and a save; once more to stop at once")
        elif self._saves and self._count == 2:
            self._waiting = True
            _announce("stopping at the end of this save; once more to stop without it (the save before it is whole)")
        else:
            raise KeyboardInterrupt


def _announce(text: str) -> None:
    """Straight to the terminal: inside a signal handler Python's own streams may be in the middle of a write."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())
