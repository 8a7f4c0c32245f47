"""Which episode every row plays and how old it is: by a schedule of the host, or on the device.

Where nothing but the horizon ends an episode, the host knows when (schedule.py). Where an episode can terminate, only
the device knows, and counts itself.

Shape suffixes: E environments (rows).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from envs.mpe.schedule import Schedule, Span


class Episodes:
    """Number and age of the running episode of every row.

    Args:
        count: E.
        horizon: steps of a full episode.
        can_terminate: an episode may end before.
        device: where numbers are counted.
    """

    def __init__(self, count: int, horizon: int, can_terminate: bool, device: torch.device) -> None:
        self._horizon, self._by_device = horizon, can_terminate
        self.number_E = torch.zeros(count, dtype=torch.int64, device=device)
        self._age_E = torch.zeros(count, dtype=torch.int64, device=device)  # only where episodes can terminate
        self.set_ages(np.zeros(count, dtype=np.int64))

    def set_ages(self, ages: np.ndarray) -> None:
        """Let every row have taken so many steps in its episode, int64 [E]."""
        self._schedule = Schedule(self._horizon, ages)
        self._age_E.copy_(torch.as_tensor(ages))

    def set_age(self, index: int, steps: int) -> None:
        """Let one row have taken so many steps."""
        if self._by_device:
            self._age_E[index] = steps
        else:
            self._schedule.set_age(index, steps)

    def ages(self) -> np.ndarray:
        """Steps that every row has taken in its episode, int64 [E]."""
        return self._age_E.cpu().numpy() if self._by_device else self._schedule.ages()

    # --------------------------------------------------------- known to the host
    def due(self) -> tuple[Span, ...]:
        """The rows that end with the next step, as far as the host decides it."""
        return () if self._by_device else self._schedule.due()

    def replayed(self) -> None:
        """The device has replayed a recorded step: count it on the host."""
        if not self._by_device:
            self._schedule.tick()

    def end_scheduled(self) -> tuple[Span, ...]:
        """Count one step; the rows that ended with it, which now play their next episode."""
        ended = self._schedule.tick()
        for span in ended:
            self.number_E[slice(*span)].add_(1)
        return ended

    # ------------------------------------------------------- known to the device
    def end_reached(self, success_E: Tensor) -> tuple[Tensor, Tensor]:
        """Count one step on the device; bool [E] each: rows at their horizon, rows that reached their goal before."""
        self._age_E += 1
        truncated_E = self._age_E >= self._horizon
        terminated_E = success_E & ~truncated_E
        done_E = truncated_E | terminated_E
        self.number_E += done_E
        self._age_E *= ~done_E
        return truncated_E, terminated_E
