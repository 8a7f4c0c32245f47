"""Which rows end at which step, known to the host without asking the device.

With a fixed horizon the end of an episode depends on nothing but the number of steps, so the rows to restart are a few
slices and no mask is needed on the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Span = tuple[int, int, int]  # start, stop, step of a slice


def as_spans(rows: np.ndarray) -> tuple[Span, ...]:
    """Sorted, distinct row numbers as few arithmetic progressions, taken greedily from the front."""
    spans: list[Span] = []
    first = 0
    while first < len(rows):
        if first + 1 == len(rows):
            step, last = 1, first
        else:
            step, last = int(rows[first + 1] - rows[first]), first + 1
            breaks = np.nonzero(np.diff(rows[first:]) != step)[0]
            last = first + int(breaks[0]) if len(breaks) else len(rows) - 1
        spans.append((int(rows[first]), int(rows[last]) + 1, step))
        first = last + 1
    return tuple(spans)


class Schedule:
    """The step at which every row's episode ends.

    Args:
        horizon: steps of a full episode.
        ages: steps that every row has taken in its episode already, in [0, horizon).
    """

    def __init__(self, horizon: int, ages: Sequence[int] | np.ndarray) -> None:
        self.horizon = horizon
        self._clock = 0
        self._set(np.asarray(ages, dtype=np.int64))

    def _set(self, ages: np.ndarray) -> None:
        ends = self._clock + self.horizon - ages
        self._due = {int(end): as_spans(np.nonzero(ends == end)[0]) for end in np.unique(ends)}
        self._num_rows = len(ages)

    def due(self) -> tuple[Span, ...]:
        """The spans of rows whose episode ends with the next step."""
        return self._due.get(self._clock + 1, ())

    def tick(self) -> tuple[Span, ...]:
        """Count one step; the spans of rows whose episode ends with it (they start anew at age 0)."""
        self._clock += 1
        ended = self._due.pop(self._clock, ())
        if ended:
            self._due[self._clock + self.horizon] = ended
        return ended

    def ages(self) -> np.ndarray:
        """Steps that every row has taken in its episode, int64 [E]."""
        ages = np.zeros(self._num_rows, dtype=np.int64)
        for end, spans in self._due.items():
            for span in spans:
                ages[slice(*span)] = self._clock + self.horizon - end
        return ages

    def set_age(self, row: int, age: int) -> None:
        """Let one row have taken `age` steps."""
        ages = self.ages()
        ages[row] = age
        self._set(ages)
