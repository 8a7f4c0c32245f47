"""simple_reference_v3: two agents that move and speak, each knows the other's target."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from envs.mpe.core import World, length, relative
from envs.mpe.scenario import Scenario, agents_named, check_ratio, choose, landmarks_named, place


class SimpleReference(Scenario):
    """Agent i sees the colour of the landmark that the *other* agent is to reach and hears one of ten symbols.

    Its own pay is minus the other agent's distance from that landmark; the team's pay is the mean of both.
    """

    id = "simple_reference_v3"
    num_symbols = 10

    def __init__(self, local_ratio: float = 0.5, max_cycles: int = 25) -> None:
        super().__init__(max_cycles)
        check_ratio("local_ratio", local_ratio)
        self.local_ratio = local_ratio
        self.agents = agents_named("agent", 2, silent=False)
        self.landmarks = landmarks_named("landmark", 3)
        # known[i]: the landmark that agent i knows of; colour[i]: what it sees of it; target[i]: where agent i is to go
        self.facts = {"known": ((2,), torch.int64), "colour": ((2, 3), None), "target": ((2, 2), None)}

    @property
    def obs_sizes(self) -> list[int]:
        return [2 + 2 * 3 + 3 + 10] * 2

    @property
    def reset_draws(self) -> int:
        return super().reset_draws + 2

    def prepare(self, device: torch.device, dtype: torch.dtype) -> None:
        super().prepare(device, dtype)
        self.colours = torch.eye(3, device=device, dtype=dtype) * 0.5 + 0.25  # [component, landmark]

    def reset(self, world: World, u: Tensor) -> None:
        place(world.pos, u[:-2])
        world.facts["known"].copy_(choose(u[-2:], 3))
        self._aim(world)

    def _aim(self, world: World) -> None:
        """What follows from the goals: their colours and their places."""
        known = world.facts["known"]
        colours = self.colours.index_select(1, known.reshape(-1)).view(3, 2, -1)
        world.facts["colour"].copy_(colours.transpose(0, 1))
        world.facts["target"].copy_(world.landmarks.gather(0, known.flip(0).unsqueeze(1).expand(-1, 2, -1)))

    def reward(self, world: World, seen: None) -> Tensor:
        distance = length(world.facts["target"] - world.agents)  # of every agent from its own target
        team = distance.mean(0, keepdim=True).mul_(self.local_ratio - 1)
        return torch.sub(team, distance.flip(0), alpha=self.local_ratio)

    def observe(self, world: World, seen: None) -> list[tuple[Tensor, ...]]:
        """Velocity, vectors to the landmarks, the colour of the other's target, the other's message."""
        to_landmarks = relative(world.landmarks, world.agents).flatten(1, 2)
        return [(world.vel, to_landmarks, world.facts["colour"], world.said.flip(0))]

    def load(self, raw: Any, world: World) -> None:
        for agent in range(2):
            known = raw.world.landmarks.index(raw.world.agents[agent].goal_b)
            world.facts["known"][agent].fill_(known)
        self._aim(world)

    def store(self, raw: Any, world: World) -> None:
        for agent, other in zip(raw.world.agents, reversed(raw.world.agents), strict=True):
            agent.goal_a = other
            agent.goal_b = raw.world.landmarks[int(world.facts["known"][raw.world.agents.index(agent)])]
            other.color = agent.goal_b.color
