"""Targets where agents may come and leave while others go on: who stands in a critic's row at the next observation.

An agent that is gone, by a termination or by a truncation of its own, is zeros to the critics of the others, as in
every row that follows; one that comes acts at once. An agent that was truncated alone goes on in its own value, from
its last observation, as after a time limit.

Shape suffixes: S replicas, C critics, N agents, B batch, O observation, A action.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from marl.data.batch import Batch
from marl.learner.networks.actor_critic import joint_rows


def next_values(batch: Batch, action_SNBA: Tensor, value: Callable[[Tensor], Tensor]) -> Tensor:
    """Values [S, C, N, B] of the next observations and actions; `value` takes joint rows [S, B, D]."""
    if batch.next_active is None:
        return value(joint_rows(batch.next_obs, action_SNBA))

    def shown(there_SNB: Tensor) -> Tensor:
        return value(joint_rows(batch.next_obs * there_SNB[..., None], action_SNBA * there_SNB[..., None]))

    leaving = batch.leaving
    own = shown(torch.maximum(batch.next_active, leaving.to(batch.next_active.dtype)))
    return torch.where(leaving[:, None], own, shown(batch.next_active))
