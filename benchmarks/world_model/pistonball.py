"""A small pistonball as a task of benchmarks/sample_efficiency.py: five pistons that see pictures, 50 steps at most.

What is earned is the ball's way to the left wall, of which the whole is 100, less .1 for every step: a return of 100
cannot be reached, and a ball that stays where it is pays -5.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from envs.pettingzoo.env import PettingZooEnv
from envs.pictures import Small
from marl.learner import relaxation
from marl.learner.maddpg import MADDPG

ENV = "examples.pictures:pistonball"
ENV_ARGS: dict[str, Any] = {"n_pistons": 5, "max_cycles": 50}
EPISODES = 16  # of an evaluation
EVERY = 500  # environment steps of a replica between two


def make(num_envs: int) -> PettingZooEnv:
    """So many environments."""
    return PettingZooEnv(ENV, num_envs, pictures=Small(), env_args=ENV_ARGS)


@cache
def _evaluated_in(num_envs: int) -> PettingZooEnv:
    return make(num_envs)


def share(_env_id: str, value: float) -> float:
    """A return as a share of the whole way."""
    return value / 100.0


@torch.no_grad()
def greedy_returns(learner: MADDPG, replicas: int, seed: int) -> Tensor:
    """Mean return per agent of every replica's greedy policy [S]; all play the same episodes.

    Args:
        learner: of all replicas.
        replicas: S.
        seed: episode i is reset with `seed + i`.
    """
    env = _evaluated_in(replicas * EPISODES)
    obs, total = env.reset_to([seed + i for i in range(EPISODES)] * replicas), torch.zeros(replicas * EPISODES)
    running = torch.ones_like(total, dtype=torch.bool)
    while running.any():
        logits = learner.actor(obs.unflatten(1, (replicas, -1)).transpose(0, 1))
        choice = relaxation.greedy_onehot(logits, learner.head_mask).argmax(-1)
        step = env.step(choice.transpose(0, 1).flatten(1, 2))
        total, obs = total + step.reward.mean(0) * running, step.obs
        running &= ~step.ended
    return total.unflatten(0, (replicas, -1)).mean(1)
