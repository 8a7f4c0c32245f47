"""How long each part of a run takes, one after another, for its last words."""

from __future__ import annotations

import time


class Phases:
    """Wall seconds of what has ended.

    Args:
        began: `time.perf_counter` when the first phase began; None: now.
    """

    def __init__(self, began: float | None = None) -> None:
        self._last = time.perf_counter() if began is None else began
        self._seconds: dict[str, float] = {}

    def end(self, name: str) -> None:
        """The phase that goes on has ended; the next one begins."""
        now = time.perf_counter()
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._last
        self._last = now

    def words(self) -> str:
        """Every phase and its seconds."""
        return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self._seconds.items())
