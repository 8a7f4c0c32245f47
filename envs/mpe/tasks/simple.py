"""simple_v3: one agent, one landmark, go there."""

from __future__ import annotations

from torch import Tensor

from envs.mpe.core import World, squared_length
from envs.mpe.scenario import Scenario, agents_named, landmarks_named, place


class Simple(Scenario):
    """The agent is paid minus its squared distance from the landmark."""

    id = "simple_v3"

    def __init__(self, max_cycles: int = 25) -> None:
        super().__init__(max_cycles)
        self.agents = agents_named("agent", 1)
        self.landmarks = landmarks_named("landmark", 1)

    @property
    def obs_sizes(self) -> list[int]:
        return [4]

    def reset(self, world: World, u: Tensor) -> None:
        place(world.pos, u)

    def relate(self, world: World) -> Tensor:
        """Vector to the landmark, [1, 2, e]."""
        return world.landmarks - world.agents

    def reward(self, world: World, seen: Tensor) -> Tensor:
        return -squared_length(seen)

    def observe(self, world: World, seen: Tensor) -> list[tuple[Tensor, ...]]:
        """Velocity, vector to the landmark."""
        return [(world.vel, seen)]
