"""Targets where agents may come and leave while others go on: who stands in a critic's row at the next observation.

An agent that is gone, by a termination or by a truncation of its own, is zeros to the critics of the others, as in
every row that follows; one that comes acts at once. An agent that was truncated alone goes on in its own value, from
its last observation, as after a time limit. A critic that is the sum of a team's terms (`FactoredCritic`) has one value
of the team, which ends with the last of its agents: it takes the target of one that goes on.

Shape suffixes: S replicas, C critics, N agents, B batch, O observation, A action.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from marl.data.batch import Batch
from marl.learner.networks.actor_critic import Critic, joint_rows
from marl.learner.networks.factored_critic import FactoredCritic


def next_values(batch: Batch, action_SNBA: Tensor, value: Callable[[Tensor], Tensor]) -> Tensor:
    """Values [S, C, N, B] of the next observations and actions; `value` takes joint rows [S, B, D]."""
    if batch.next_active is None:
        return value(joint_rows(batch.next_obs, action_SNBA))

    def shown(there_SNB: Tensor) -> Tensor:
        return value(joint_rows(batch.next_obs * there_SNB[..., None], action_SNBA * there_SNB[..., None]))

    leaving = batch.leaving
    own = shown(torch.maximum(batch.next_active, leaving.to(batch.next_active.dtype)))
    return torch.where(leaving[:, None], own, shown(batch.next_active))


def goes_on(batch: Batch, sum_NN: Tensor) -> Tensor:
    """Int64 [S, N, B]: of every agent's team one that goes on after the transition, else one that was there in it.

    Args:
        batch: of an environment whose agents may leave.
        sum_NN: 1 where two agents are of one team, else 0.
    """
    assert batch.active is not None, "everybody goes on where all agents stay"
    rank_SNB = (batch.discount > 0) + 0.5 * batch.active
    return torch.where(sum_NN[..., None] > 0, rank_SNB[:, None], -1.0).argmax(2)


def team_targets(target_SNB: Tensor, batch: Batch, critic: Critic) -> Tensor:
    """Targets [S, N, B] as `critic` takes them: of a sum over a team those of one that goes on."""
    if batch.active is None or not isinstance(critic, FactoredCritic):
        return target_SNB
    return target_SNB.gather(1, goes_on(batch, critic.sum_NN))
