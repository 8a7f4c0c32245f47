"""MADDPG among partners that are drawn from a population in every episode (marl/data/partners.py).

A transition says which member played each agent. Whatever an update computes of *other* agents comes from the actors
of the members that played them: their next actions in the targets, and what the senders of the heard messages would say
now. An agent learns only from transitions in which its own replica played it (`Batch.learns`); its critic, which is
the replica's, does not see who the partners are and so learns their mean over the population.

Every member is asked at all rows of its population, and the answer of the one who played is picked: an update
asks P times as many rows of actors, without gradients, and is one batched product all the same.

Shape suffixes: S replicas, N agents, n some agents, B rows, E environments, O observation, A = H * K action, H
heads, K choices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from marl.data.batch import Batch
from marl.learner.maddpg import MADDPG
from marl.learner.networks.actor_critic import Actor
from marl.learner.population.members import picked, pooled


class PopulationMADDPG(MADDPG):
    """Its batches say who played.

    Args:
        arguments: of `MADDPG`; the replicas are whole populations, one after another.
        population: P, members of each.
    """

    def __init__(self, *arguments: Any, population: int) -> None:
        super().__init__(*arguments)
        assert len(self.replicas) % population == 0, "a population is trained in one process"
        self.population = population

    @torch.no_grad()
    def act_as(self, member_SNE: Tensor, obs_SNEO: Tensor, mask: Tensor | None = None) -> Tensor:
        """Sampled one-hot actions [S, N, E, H, K] of the members int64 [S, N, E] that play each agent."""
        return self.sampled(self._played(self.actor, obs_SNEO, member_SNE), "act", mask)

    def _ahead(self, batch: Batch) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        return self._played(self.target_actor, batch.next_obs, _members(batch)), self.target_critic

    def _speaking(self, batch: Batch) -> Tensor:
        senders = self.spec.senders
        return self._played(self.actor, batch.prev_obs, _members(batch)[:, list(senders)], senders)

    def _played(
        self, actor: Actor, obs_SnBO: Tensor, member_SnB: Tensor, agents: Sequence[int] | None = None
    ) -> Tensor:
        """Logits [S, n, B, H, K] at observations, each of the member that played."""
        every = actor(pooled(obs_SnBO.transpose(2, 3), self.population).transpose(2, 3), agents)
        logits_SnAB: Tensor = picked(every.flatten(3).transpose(2, 3), member_SnB, self.population)
        logits: Tensor = logits_SnAB.transpose(2, 3).unflatten(3, every.shape[3:])
        return logits


def _members(batch: Batch) -> Tensor:
    assert batch.member is not None, "a batch of a population says who played"
    return batch.member
