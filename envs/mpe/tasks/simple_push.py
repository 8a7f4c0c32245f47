"""simple_push_v3: one agent goes to the goal landmark, an adversary pushes it away."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from envs.mpe.core import World, length, relative
from envs.mpe.scenario import Scenario, agents_named, choose, landmarks_named, place


class Seen(NamedTuple):
    to_goal: Tensor  # [A, 2, e]
    to_landmarks: Tensor  # [A, L * 2, e]


class SimplePush(Scenario):
    """The agent is paid minus its distance from the goal; the adversary that distance minus its own. Only the agent
    sees which of the two landmarks is the goal, by place, by its own colour and by the landmarks' colours."""

    id = "simple_push_v3"

    def __init__(self, max_cycles: int = 25) -> None:
        super().__init__(max_cycles)
        self.agents = agents_named("adversary", 1, collide=True) + agents_named("agent", 1, collide=True)
        self.landmarks = landmarks_named("landmark", 2)
        self.facts = {"goal": ((1,), torch.int64), "colour": ((3,), None), "target": ((2,), None)}

    @property
    def obs_sizes(self) -> list[int]:
        return [2 + 2 * 2 + 2, 2 + 2 + 3 + 2 * 2 + 2 * 3 + 2]

    @property
    def reset_draws(self) -> int:
        return super().reset_draws + 1

    def prepare(self, device: torch.device, dtype: torch.dtype) -> None:
        super().prepare(device, dtype)
        mark = torch.eye(3, device=device, dtype=dtype)[:, 1:]  # [component, landmark]: component l + 1 marks it
        self.agent_colours = 0.25 + 0.5 * mark
        self.landmark_colours = (0.1 + 0.8 * mark).t().reshape(-1, 1)  # of landmark 0, then of landmark 1

    def reset(self, world: World, u: Tensor) -> None:
        place(world.pos, u[:-1])
        world.facts["goal"].copy_(choose(u[-1:], 2))
        self._aim(world)

    def _aim(self, world: World) -> None:
        """What follows from the goal: the agent's colour and the goal's place."""
        goal = world.facts["goal"]
        world.facts["colour"].copy_(self.agent_colours.index_select(1, goal[0]))
        world.facts["target"].copy_(world.landmarks.gather(0, goal.expand(1, 2, -1))[0])

    def relate(self, world: World) -> Seen:
        agents = world.agents
        return Seen(world.facts["target"] - agents, relative(world.landmarks, agents).flatten(1, 2))

    def reward(self, world: World, seen: Seen) -> Tensor:
        adversary, agent = length(seen.to_goal).split(1)
        return torch.cat((agent - adversary, -agent))

    def observe(self, world: World, seen: Seen) -> list[tuple[Tensor, ...]]:
        """Adversary: velocity, vectors to the landmarks and to the agent. Agent: velocity, vector to the goal, own
        colour, vectors to the landmarks, their colours, vector to the adversary."""
        vel, colour, to_agent = world.vel, world.facts["colour"].unsqueeze(0), world.pos[1:2] - world.pos[:1]
        colours = self.landmark_colours.expand(1, -1, vel.shape[-1])
        return [
            (vel[:1], seen.to_landmarks[:1], to_agent),
            (vel[1:], seen.to_goal[1:], colour, seen.to_landmarks[1:], colours, -to_agent),
        ]

    def load(self, raw: Any, world: World) -> None:
        world.facts["goal"].fill_(raw.world.landmarks.index(raw.world.agents[0].goal_a))
        self._aim(world)

    def store(self, raw: Any, world: World) -> None:
        goal = raw.world.landmarks[int(world.facts["goal"])]
        for agent in raw.world.agents:
            agent.goal_a = goal
        raw.world.agents[1].color = np.array([0.25, 0.25, 0.25])
        raw.world.agents[1].color[goal.index + 1] += 0.5
