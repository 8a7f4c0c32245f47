"""How many episodes of an environment of unknown cost are played: as many as fit into a budget of steps or seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate


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


def even_batch(episodes: int, batch: int) -> int:
    """The largest size up to `batch` with which batches are nearly alike."""
    return math.ceil(episodes / math.ceil(episodes / batch))


class Pace:
    """Which episodes start together next.

    With a budget the batches grow to their full size (up to 1, 4, 16, ... episodes played in all), so that little is
    spent before the cost of an episode is known; without one all but the last are of full size.

    Args:
        episodes: that were asked for.
        batch: most that start together.
        budget: of all of them.
        clock: seconds, rising.
        neighbours: that no episode is played alone where there are two. Where the last one would be, sizes differ by at
            most 1, and are above `batch` where that is 1 or 2; a budget begins with two, and ends before a single one.
    """

    def __init__(
        self,
        episodes: int,
        batch: int,
        budget: Budget,
        clock: Callable[[], float] = time.monotonic,
        neighbours: bool = False,
    ) -> None:
        self.episodes, self.budget = episodes, budget
        self._ends = _ends(episodes, batch, neighbours)  # episodes played after each batch of full size
        self._least = min(2, episodes) if neighbours else 1  # that start together
        self.batch = self._ends[0]
        self.played = 0
        self._clock = clock
        self._began = self._before = clock()
        self._steps = 0
        self._seconds_each = 0.0  # of the last batch: those before were slower, being smaller

    def next(self) -> range:
        """The numbers of the next episodes; empty where all were played or the budget is used up."""
        size = left = next((end for end in self._ends if end > self.played), self.played) - self.played
        if self.budget and self.played < self.batch:
            size = min(size, max(self._least, 3 * self.played))
            if left - size < self._least:
                size = left
        if self.budget and self.played:
            size = min(size, self._fitting())
            size -= 0 < left - size < self._least
            size = size if size >= self._least else 0
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


def _ends(episodes: int, batch: int, neighbours: bool) -> list[int]:
    """How many episodes have been played after each batch of full size, rising to `episodes`."""
    count = math.ceil(episodes / batch)
    if neighbours and episodes > 1 and (batch == 1 or episodes % batch == 1):
        count = min(count, episodes // 2)
        each, more = divmod(episodes, count)
        return list(accumulate(each + (k < more) for k in range(count)))
    return [min((k + 1) * batch, episodes) for k in range(count)]
