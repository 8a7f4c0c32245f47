"""A sample of the transitions seen, spread evenly over all of them, of bounded size.

Shape suffixes: S replicas, E environments, C kept rows, J observation entries, U joint action, N agents,
X all columns of a row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

_GOLDEN = 0.6180339887498949  # multiples of it, less their whole part, are spread evenly over [0, 1)


class Rows(NamedTuple):
    """The kept rows."""

    inputs: Tensor  # [S, C, J + U + 1] observation, action, one
    obs: Tensor  # [S, C, J]
    after: Tensor  # [S, C, J]
    reward: Tensor  # [S, C, N]
    weight: Tensor  # [S, C] 1 for rows in the mask, else 0


class Sample:
    """Rows are numbered as they come; row i is kept where the fractional part of i times the golden ratio is small.

    Whatever the length of episodes and the number of environments, that is an even share of every phase. Where the
    kept rows would be more than `capacity`, the share is halved. It depends on nothing but the number of rows.

    Args:
        capacity: the most rows that are kept.
        widths: (J, U, N).
        replicas: S.
        device: where they are kept.
    """

    def __init__(self, capacity: int, widths: tuple[int, int, int], replicas: int, device: torch.device | str) -> None:
        self._capacity = capacity
        self._widths = [widths[0], widths[1], widths[0], widths[2], 1]
        self._data_SCX = torch.zeros(replicas, 0, sum(self._widths), device=device)
        self._place_C = torch.zeros(0, dtype=torch.float64)  # on the host, where it is decided
        self._share, self._seen = 1.0, 0

    def add(self, obs_SEJ: Tensor, action_SEU: Tensor, after_SEJ: Tensor, reward_SEN: Tensor, mask_SE: Tensor) -> None:
        """Take rows into account; of those that are not in `mask_SE` nothing is kept."""
        count = obs_SEJ.shape[1]
        place_E = (torch.arange(self._seen, self._seen + count, dtype=torch.float64) * _GOLDEN) % 1.0
        self._seen += count
        while int((self._place_C < self._share).sum() + (place_E < self._share).sum()) > self._capacity:
            self._share *= 0.5
        stay, come = self._place_C < self._share, place_E < self._share
        kept = mask_SE[..., None].to(obs_SEJ.dtype)
        ones = torch.ones_like(obs_SEJ[..., :1])
        rows = torch.cat([obs_SEJ, action_SEU, after_SEJ, reward_SEN, ones], dim=2)
        rows = torch.where(kept > 0, rows, 0.0)
        device = rows.device
        old = self._data_SCX if bool(stay.all()) else self._data_SCX[:, stay.nonzero()[:, 0].to(device)]
        new = rows if bool(come.all()) else rows[:, come.nonzero()[:, 0].to(device)]
        self._data_SCX = torch.cat([old, new], dim=1)
        self._place_C = torch.cat([self._place_C[stay], place_E[come]])

    def rows(self) -> Rows:
        """What is kept."""
        obs, action, after, reward, weight = self._data_SCX.split(self._widths, dim=2)
        return Rows(torch.cat([obs, action, torch.ones_like(weight)], 2), obs, after, reward, weight[..., 0])

    def state_dict(self) -> dict[str, Any]:
        return {"data": self._data_SCX, "place": self._place_C, "share": self._share, "seen": self._seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._data_SCX, self._place_C = state["data"].to(self._data_SCX.device), state["place"].cpu()
        self._share, self._seen = state["share"], state["seen"]
