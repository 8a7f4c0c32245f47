"""Starts of episodes as `mpe2` itself draws them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.bounds.mover import Array
from envs.mpe import catalogue


@dataclass(frozen=True)
class Resets:
    """R starts, in float64."""

    agents: Array  # [R, N, 2]
    landmarks: Array  # [R, L, 2]
    goals: Array
    """[R, N, 2] where each agent that has a goal of its own should go; nan for others."""


def resets(env_id: str, seed: int, count: int) -> Resets:
    """Starts of the episodes seed, seed + 1, ..."""
    env: Any = catalogue.parallel_env(catalogue.require_id(env_id))
    world = env.unwrapped.world
    agents, landmarks, goals = [], [], []
    for episode in range(count):
        env.reset(seed=seed + episode)
        agents.append([agent.state.p_pos.copy() for agent in world.agents])
        landmarks.append([landmark.state.p_pos.copy() for landmark in world.landmarks])
        goals.append(_goals(world))
    env.close()
    return Resets(np.array(agents), np.array(landmarks), np.array(goals))


def _goals(world: Any) -> list[Array]:
    """By agent; what an agent knows (`goal_b`) is where the other one (`_goal_a`) should go."""
    goal = [np.full(2, np.nan) for _ in world.agents]
    for knows in world.agents:
        other = getattr(knows, "_goal_a", None)
        if other is not None:
            goal[world.agents.index(other)] = knows.goal_b.state.p_pos.copy()
    return goal
