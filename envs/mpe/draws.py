"""Random numbers of rows as a pure function of (seed, global row, counter, index of the draw).

Shape suffixes: E environments (rows), D draws.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from envs.streams import mix, name_key, uniform_from

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # odd increment between the words of one draw (SplitMix64)
_ALL = slice(None)


class Draws:
    """What episodes and steps of E rows draw; a row's numbers do not depend on the rows beside it.

    Args:
        name: of the environment; different names give unrelated numbers.
        rows: global index of every row, int64 [E].
        most: the most numbers that one draw takes.
        device, dtype: of the numbers.
    """

    def __init__(self, name: str, rows: np.ndarray, most: int, device: torch.device, dtype: torch.dtype) -> None:
        self._name, self._dtype = name, dtype
        self._index_D1 = _GOLDEN * torch.arange(1, most + 1, device=device).unsqueeze(1)
        self.steps = torch.zeros((), dtype=torch.int64, device=device)  # counter of draws of steps, written in place
        self.restart(0, rows)

    def restart(self, seed: int, rows: np.ndarray, steps: int = 0) -> None:
        """Be the draws of `rows` under `seed`, after so many steps."""
        self.seed, self.rows = seed, rows
        row_E = torch.as_tensor(rows, device=self.steps.device)
        self._reset_key_E, self._step_key_E = (
            mix(name_key(seed, f"{self._name} {what}") + _GOLDEN * (row_E + 1)) for what in ("reset", "step")
        )
        self.steps.fill_(steps)

    def episode(self, number_E: Tensor, count: int, part: slice = _ALL) -> Tensor:
        """Numbers in (0, 1), [count, e], for the start of episode `number_E` [e] of the rows of `part`."""
        return self._uniform(self._reset_key_E[part], number_E, count)

    def step(self, count: int) -> Tensor:
        """Numbers in (0, 1), [count, E], for the next step; the same until `steps` moves on."""
        return self._uniform(self._step_key_E, self.steps, count)

    def _uniform(self, key_E: Tensor, counter: Tensor, count: int) -> Tensor:
        start_E = mix(key_E + _GOLDEN * (counter + 1))
        return uniform_from(mix(start_E + self._index_D1[:count]), self._dtype)
