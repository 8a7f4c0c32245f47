"""simple_adversary_v3: N good agents reach the goal landmark and keep an adversary in the dark about which it is."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from envs.mpe.core import World, length, relative
from envs.mpe.neighbors import nearest
from envs.mpe.scenario import (
    Scenario,
    agents_named,
    check_count,
    check_neighbors,
    choose,
    landmarks_named,
    place,
)

_SIZE = 0.15


class Seen(NamedTuple):
    to_goal: Tensor  # [A, 2, e]
    to_landmarks: Tensor  # [A, L, 2, e]
    to_others: Tensor  # [A, A - 1, 2, e]


class SimpleAdversary(Scenario):
    """The good agents are paid the adversary's distance from the goal minus that of the nearest of them; the
    adversary minus its own distance. Only the good agents see which landmark is the goal. Nobody sees velocities."""

    id = "simple_adversary_v3"

    def __init__(
        self,
        N: int = 2,
        max_cycles: int = 25,
        num_agent_neighbors: int | None = None,
        num_landmark_neighbors: int | None = None,
    ) -> None:
        super().__init__(max_cycles)
        check_count("N", N)
        check_neighbors("num_agent_neighbors", num_agent_neighbors)
        check_neighbors("num_landmark_neighbors", num_landmark_neighbors)
        self.num_agent_neighbors = num_agent_neighbors
        self.num_landmark_neighbors = num_landmark_neighbors
        self.agents = agents_named("adversary", 1, size=_SIZE) + agents_named("agent", N, size=_SIZE)
        self.landmarks = landmarks_named("landmark", N, size=0.08)
        self.seen_agents = N if num_agent_neighbors is None else num_agent_neighbors
        self.seen_landmarks = N if num_landmark_neighbors is None else num_landmark_neighbors
        self.facts = {"goal": ((1,), torch.int64), "target": ((2,), None)}

    @property
    def obs_sizes(self) -> list[int]:
        shared = 2 * (self.seen_landmarks + self.seen_agents)
        return [shared] + [2 + shared] * (len(self.agents) - 1)

    @property
    def reset_draws(self) -> int:
        return super().reset_draws + 1

    def reset(self, world: World, u: Tensor) -> None:
        place(world.pos, u[:-1])
        world.facts["goal"].copy_(choose(u[-1:], len(self.landmarks)))
        self._aim(world)

    def _aim(self, world: World) -> None:
        """The goal's place."""
        world.facts["target"].copy_(world.landmarks.gather(0, world.facts["goal"].expand(1, 2, -1))[0])

    def relate(self, world: World) -> Seen:
        agents = world.agents
        return Seen(world.facts["target"] - agents, relative(world.landmarks, agents), self.to_others(agents))

    def reward(self, world: World, seen: Seen) -> Tensor:
        distance = length(seen.to_goal)
        adversary, good = distance[:1], distance[1:].amin(0, keepdim=True)
        return torch.cat((-adversary, (adversary - good).expand(len(self.agents) - 1, -1)))

    def observe(self, world: World, seen: Seen) -> list[tuple[Tensor, ...]]:
        """Good agents: vector to the goal; all: vectors to the landmarks, vectors to the others."""
        to_landmarks, to_others = seen.to_landmarks, seen.to_others
        if self.num_landmark_neighbors is not None:
            to_landmarks = nearest(to_landmarks, length(to_landmarks), self.seen_landmarks)
        if self.num_agent_neighbors is not None:
            to_others = nearest(to_others, length(to_others), self.seen_agents)
        to_landmarks, to_others = to_landmarks.flatten(1, 2), to_others.flatten(1, 2)
        return [(to_landmarks[:1], to_others[:1]), (seen.to_goal[1:], to_landmarks[1:], to_others[1:])]

    def load(self, raw: Any, world: World) -> None:
        world.facts["goal"].fill_(raw.world.landmarks.index(raw.world.agents[0].goal_a))
        self._aim(world)

    def store(self, raw: Any, world: World) -> None:
        goal = raw.world.landmarks[int(world.facts["goal"])]
        for landmark in raw.world.landmarks:
            landmark.color = np.array([0.15, 0.65, 0.15]) if landmark is goal else np.full(3, 0.15)
        for agent in raw.world.agents:
            agent.goal_a = goal
