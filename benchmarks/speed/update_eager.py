"""MADDPG as public PyTorch code writes it: networks, optimisers and losses of one agent after another.

Written for timing, from descriptions of such loops: layers as modules, batch normalisation of the input, the other
agents' current choices in the actor loss, targets by argmax, a penalty on logits, parameters followed one by one, a
replay of one tensor an agent and field.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STORED = 2048  # transitions


def network(inputs: int, outputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm1d(inputs),
        nn.Linear(inputs, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, outputs),
    )


class Learner:
    """One agent: actor, critic, their targets and two optimisers."""

    def __init__(self, obs: int, actions: int, joint: int, width: int) -> None:
        self.actor, self.target_actor = network(obs, actions, width), network(obs, actions, width)
        self.critic, self.target_critic = network(joint, 1, width), network(joint, 1, width)
        self.actor_optimiser = torch.optim.Adam(self.actor.parameters(), lr=1e-2)
        self.critic_optimiser = torch.optim.Adam(self.critic.parameters(), lr=1e-2)


def onehot(logits: Tensor) -> Tensor:
    return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)


def gumbel_onehot(logits: Tensor) -> Tensor:
    return F.gumbel_softmax(logits, hard=True)


class EagerMADDPG:
    """`update` on samples of random transitions of agents with these widths of observations and numbers of actions."""

    def __init__(self, obs: Sequence[int], actions: Sequence[int], batch: int, width: int) -> None:
        joint, self.batch = sum(obs) + sum(actions), batch
        self.learners = [Learner(o, a, joint, width) for o, a in zip(obs, actions, strict=True)]
        self.stored = {
            "obs": [torch.randn(STORED, o) for o in obs],
            "next_obs": [torch.randn(STORED, o) for o in obs],
            "actions": [onehot(torch.randn(STORED, a)) for a in actions],
            "rewards": [torch.randn(STORED, 1) for _ in obs],
        }

    def update(self) -> None:
        index = torch.randint(STORED, (self.batch,))
        self.obs, self.next_obs, self.actions, self.rewards = (
            [x[index] for x in every] for every in self.stored.values()
        )
        for n in range(len(self.learners)):
            self._critic(n)
            self._actor(n)
        for learner in self.learners:
            self._follow(learner.target_actor, learner.actor)
            self._follow(learner.target_critic, learner.critic)

    def _critic(self, n: int) -> None:
        learner = self.learners[n]
        with torch.no_grad():
            chosen = [onehot(other.target_actor(o)) for other, o in zip(self.learners, self.next_obs, strict=True)]
            target = self.rewards[n] + 0.95 * learner.target_critic(torch.cat((*self.next_obs, *chosen), 1))
        loss = F.mse_loss(learner.critic(torch.cat((*self.obs, *self.actions), 1)), target)
        learner.critic_optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learner.critic.parameters(), 0.5)
        learner.critic_optimiser.step()

    def _actor(self, n: int) -> None:
        learner = self.learners[n]
        logits = learner.actor(self.obs[n])
        chosen = []
        for k, (other, obs) in enumerate(zip(self.learners, self.obs, strict=True)):
            chosen.append(gumbel_onehot(logits) if k == n else onehot(other.actor(obs).detach()))
        value = learner.critic(torch.cat((*self.obs, *chosen), 1)).mean()
        loss = 1e-3 * logits.square().mean() - value
        learner.actor_optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learner.actor.parameters(), 0.5)
        learner.actor_optimiser.step()

    @staticmethod
    @torch.no_grad()
    def _follow(target: nn.Module, online: nn.Module) -> None:
        for mine, theirs in zip(target.parameters(), online.parameters(), strict=True):
            mine.copy_(0.99 * mine + 0.01 * theirs)
