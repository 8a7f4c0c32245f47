"""simple_formation_v1: N agents form a circle around a landmark."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from envs.mpe.assignment import MOST_AGENTS, Assignment
from envs.mpe.core import World, length, less, relative
from envs.mpe.scenario import Scenario, agents_named, check_count, landmarks_named, place
from envs.mpe.tasks.simple_line import FAR, NEAR

RADIUS = 0.5


class SimpleFormation(Scenario):
    """All are paid minus the mean distance of the agents from their slots, each at most 2. The slots lie evenly on a
    circle, the first at the smallest angle of any agent, and are dealt out so that the sum of the distances is least.
    Agents do not see each other."""

    id = "simple_formation_v1"

    def __init__(self, N: int = 4, max_cycles: int = 25, terminate_on_success: bool = False) -> None:
        super().__init__(max_cycles)
        check_count("N", N, at_most=MOST_AGENTS)
        self.can_terminate = bool(terminate_on_success)
        self.agents = agents_named("agent", N, collide=True)
        self.landmarks = landmarks_named("landmark", 1, size=0.03)

    @property
    def obs_sizes(self) -> list[int]:
        return [2 + 2 + 2] * len(self.agents)

    def prepare(self, device: torch.device, dtype: torch.dtype) -> None:
        super().prepare(device, dtype)
        count = len(self.agents)
        self.steps = torch.arange(count, device=device, dtype=dtype).unsqueeze(1) * (2 * math.pi / count)
        self.assignment = Assignment(count, device)

    def reset(self, world: World, u: Tensor) -> None:
        place(world.agents, u[:-2])
        place(world.landmarks, u[-2:], 0.5)

    def relate(self, world: World) -> Tensor:
        """Distances of the agents from their slots, [A, e]."""
        centre = world.landmarks[0]
        x, y = (world.agents - centre).unbind(1)
        angle = torch.atan2(y, x)
        smallest = torch.add(angle, less(angle, 0.0), alpha=2 * math.pi).amin(0)  # in [0, 2 pi)
        angles = smallest + self.steps
        slots = centre + RADIUS * torch.stack((angles.cos(), angles.sin()), 1)
        return self.assignment(length(relative(slots, world.agents)))

    def reward(self, world: World, seen: Tensor) -> Tensor:
        return seen.clamp(max=FAR).mean(0, keepdim=True).neg_()

    def terminal(self, world: World, seen: Tensor) -> Tensor:
        return (seen < NEAR).all(0)

    def observe(self, world: World, seen: Tensor) -> list[tuple[Tensor, ...]]:
        """Velocity, position, vector to the landmark."""
        return [(world.vel, world.agents, world.landmarks - world.agents)]
