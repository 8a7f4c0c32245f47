"""Partial observability: only the nearest few of others, sorted by distance, zeros where there are not so many."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def nearest(distance: Tensor, count: int) -> Tensor:
    """Indices [A, min(count, B), e] of the nearest of B candidates, nearest first, from distances [A, B, e]."""
    return torch.sort(distance, dim=1, stable=True).indices[:, :count]


def pick(values: Tensor, order: Tensor, count: int) -> Tensor:
    """Entries [A, count, C, e] of `values` [A, B, C, e] in the given `order` [A, B', e]; missing ones are zero."""
    chosen = values.gather(1, order.unsqueeze(2).expand(-1, -1, values.shape[2], -1))
    return F.pad(chosen, (0, 0, 0, 0, 0, count - chosen.shape[1]))
