"""Shows how far an evaluation is, and how long it may take yet: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm

from marl.runs.logs.logger import print_above

_QUIET_SECONDS = 10.0  # between lines where there is no terminal


class Counter:
    """Counts episodes; called with those played and those asked for, as often as one likes.

    Args:
        seconds: that the episodes may take; 0: no limit.
        shown: False: stays silent.
    """

    def __init__(self, seconds: float = 0.0, shown: bool = True) -> None:
        self._limit, self._shown = seconds, shown
        self._began = self._reported = time.monotonic()
        self._bar: Any = None

    def __call__(self, played: int, asked: int) -> None:
        """`played` of `asked` episodes have ended."""
        now = time.monotonic()
        if not self._shown or now - self._reported < (0.3 if sys.stderr.isatty() else _QUIET_SECONDS):
            return
        self._reported = now
        if sys.stderr.isatty():
            self._bar = self._bar or tqdm(total=asked, unit=" episodes", dynamic_ncols=True, leave=False)
            self._bar.total, self._bar.n = asked, played
            self._bar.set_postfix_str(self.left(played, asked, now - self._began))
        else:
            left = self.left(played, asked, now - self._began)
            print_above(f"evaluation: {played:,} of {asked:,} episodes{', ' if left else ''}{left}", sys.stderr)

    def left(self, played: int, asked: int, spent: float) -> str:
        """The time left after `spent` seconds, in words; "" where nothing is known of it."""
        whole = spent / played * (asked - played) if played else None
        if self._limit and (whole is None or whole > self._limit - spent):
            return f"at most {max(self._limit - spent, 0):.0f} s left (and the end of an episode)"
        return "" if whole is None else f"{whole:.0f} s left"

    def close(self) -> None:
        """The end; calling it twice is harmless."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> Counter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
