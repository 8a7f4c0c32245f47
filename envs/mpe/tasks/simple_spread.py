"""simple_spread_v3: N agents cover N landmarks without running into each other."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from envs.mpe.core import World, length, less, relative
from envs.mpe.neighbors import nearest
from envs.mpe.scenario import (
    Scenario,
    agents_named,
    check_count,
    check_neighbors,
    check_ratio,
    landmarks_named,
    place,
)

_SIZE = 0.15
_CAPTURE_RADIUS = 0.1  # a landmark counts as covered when an agent is nearer than this
_CHANNEL = 2  # every agent sees the (always silent) messages of the others


class Seen(NamedTuple):
    to_landmarks: Tensor  # [A, L, 2, e]
    to_others: Tensor  # [A, A - 1, 2, e]
    landmark_distance: Tensor  # [A, L, e]


class SimpleSpread(Scenario):
    """The team is paid minus the sum over landmarks of the distance of the nearest agent; every agent on its own
    minus one for each other agent that it overlaps. `local_ratio` weighs the two.

    Curriculum stages: 0 no penalty for collisions, 1 the full task. A stage takes effect at once.
    """

    id = "simple_spread_v3"
    num_stages = 2

    def __init__(
        self,
        N: int = 3,
        local_ratio: float = 0.5,
        max_cycles: int = 25,
        curriculum: bool = False,
        terminate_on_success: bool = False,
        num_agent_neighbors: int | None = None,
        num_landmark_neighbors: int | None = None,
    ) -> None:
        super().__init__(max_cycles)
        check_count("N", N)
        check_ratio("local_ratio", local_ratio)
        check_neighbors("num_agent_neighbors", num_agent_neighbors)
        check_neighbors("num_landmark_neighbors", num_landmark_neighbors)
        self.local_ratio = local_ratio
        self.curriculum = bool(curriculum)
        self.can_terminate = bool(terminate_on_success)
        self.num_agent_neighbors = num_agent_neighbors
        self.num_landmark_neighbors = num_landmark_neighbors
        self.agents = agents_named("agent", N, size=_SIZE, collide=True)
        self.landmarks = landmarks_named("landmark", N)
        self.seen_agents = N - 1 if num_agent_neighbors is None else num_agent_neighbors
        self.seen_landmarks = N if num_landmark_neighbors is None else num_landmark_neighbors

    @property
    def obs_sizes(self) -> list[int]:
        return [4 + 2 * self.seen_landmarks + (2 + _CHANNEL) * self.seen_agents] * len(self.agents)

    def prepare(self, device: torch.device, dtype: torch.dtype) -> None:
        super().prepare(device, dtype)
        self.silence = torch.zeros(len(self.agents), _CHANNEL * self.seen_agents, 1, device=device, dtype=dtype)

    def reset(self, world: World, u: Tensor) -> None:
        place(world.pos, u)

    def relate(self, world: World) -> Seen:
        to_landmarks = relative(world.landmarks, world.agents)
        return Seen(to_landmarks, self.to_others(world.agents), length(to_landmarks))

    def reward(self, world: World, seen: Seen) -> Tensor:
        team = seen.landmark_distance.amin(0).sum(0, keepdim=True).mul_(self.local_ratio - 1)
        if self.curriculum and self.curriculum_stage == 0:
            return team
        collisions = less(length(seen.to_others), 2 * _SIZE).sum(1)
        return torch.sub(team, collisions, alpha=self.local_ratio)

    def terminal(self, world: World, seen: Seen) -> Tensor:
        return (seen.landmark_distance.amin(0) < _CAPTURE_RADIUS).all(0)

    def observe(self, world: World, seen: Seen) -> list[tuple[Tensor, ...]]:
        """Velocity, position, vectors to the landmarks, vectors to the others, the others' (silent) messages."""
        to_landmarks, to_others = seen.to_landmarks, seen.to_others
        if self.num_landmark_neighbors is not None:
            to_landmarks = nearest(to_landmarks, seen.landmark_distance, self.seen_landmarks)
        if self.num_agent_neighbors is not None:
            to_others = nearest(to_others, length(to_others), self.seen_agents)
        silence = self.silence.expand(-1, -1, world.pos.shape[-1])
        return [(world.vel, world.agents, to_landmarks.flatten(1, 2), to_others.flatten(1, 2), silence)]
