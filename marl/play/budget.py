"""How many episodes of an environment of unknown cost are played: as many as fit into a budget of steps or seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """What whole episodes may cost together; at least one is played. 0: no limit.

    A budget of steps is a function of what is played, one of seconds of the clock too. Whatever the budget, the
    episodes that are played are the first ones of those that were asked for.
    """

    steps: int = 0
    """Steps of all environments."""
    seconds: float = 0.0
    """Wall time, making the environments included. Only whole episodes are played, so that it may take longer."""

    def __bool__(self) -> bool:
        return self.steps > 0 or self.seconds > 0


class Pace:
    """Which episodes start together next.

    With a budget the batches grow to their full size (up to 1, 4, 16, ... episodes played in all), so that little is
    spent before the cost of an episode is known; without one all but the last are of full size.

    Args:
        episodes: that were asked for.
        batch: most that start together.
        budget: of all of them.
        clock: seconds, rising.
    """

    def __init__(self, episodes: int, batch: int, budget: Budget, clock: Callable[[], float] = time.monotonic) -> None:
        self.episodes, self.batch, self.budget = episodes, batch, budget
        self.played = 0
        self._clock = clock
        self._began = self._before = clock()
        self._steps = 0
        self._seconds_each = 0.0  # of the last batch: those before were slower, being smaller

    def next(self) -> range:
        """The numbers of the next episodes; empty where all were played or the budget is used up."""
        size = min(self.batch - self.played % self.batch, self.episodes - self.played)
        if self.budget and self.played < self.batch:
            size = min(size, max(1, 3 * self.played))
        if self.budget and self.played:
            size = min(size, self._fitting())
        return range(self.played, self.played + size)

    def add(self, episodes: int, steps: int) -> None:
        """So many have been played, in so many steps together."""
        now = self._clock()
        self._seconds_each, self._before = (now - self._before) / episodes, now
        self.played += episodes
        self._steps += steps

    def _fitting(self) -> int:
        """Episodes that the rest of the budget holds."""
        room = self.episodes
        if self.budget.steps:
            room = min(room, (self.budget.steps - self._steps) * self.played // max(self._steps, 1))
        if self.budget.seconds:
            left = self.budget.seconds - (self._before - self._began)
            room = min(room, int(left / max(self._seconds_each, 1e-9)))
        return max(room, 0)
