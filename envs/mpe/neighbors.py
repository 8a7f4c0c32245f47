"""Partial observability: only the nearest few of others, sorted by distance, zeros where there are not so many."""

from __future__ import annotations

import torch
from torch import Tensor

from envs.mpe.core import less


def closeness(distance: Tensor) -> Tensor:
    """Rank of every candidate by distance, 0 for the nearest, int64 of the shape of `distance` [A, B, e].

    Equal distances keep their order. (Counting who is nearer is many times faster than torch's sort here.)
    """
    rank = torch.zeros_like(distance)
    for other in range(distance.shape[1]):
        rival = distance[:, other : other + 1]
        # an earlier candidate stands behind a nearer rival only, a later one behind an equally near one too
        before, behind = distance[:, :other], distance[:, other + 1 :]
        rank[:, :other] += less(rival.expand_as(before), before)
        rank[:, other + 1 :] += 1.0 - less(behind, rival)
    return rank.to(torch.int64)


def nearest(values: Tensor, distance: Tensor, count: int) -> Tensor:
    """Entries of `values` [A, B, C, e] sorted by `distance` [A, B, e], nearest first: [A, count, C, e]; missing ones
    are zero."""
    agents, candidates, width, envs = values.shape
    picked = values.new_zeros(agents, max(candidates, count), width, envs)
    if candidates:
        picked.scatter_(1, closeness(distance).unsqueeze(2).expand(-1, -1, width, -1), values)
    return picked[:, :count]
