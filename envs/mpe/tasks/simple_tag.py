"""simple_tag_v3: slow predators (adversaries) catch fast prey (good agents) among obstacles."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from envs.mpe.core import World, length, less, relative
from envs.mpe.neighbors import nearest
from envs.mpe.scenario import (
    Scenario,
    agents_named,
    check_count,
    check_neighbors,
    landmarks_named,
    others,
    place,
)

PREDATOR: dict[str, Any] = {"size": 0.075, "accel": 3.0, "max_speed": 1.0, "collide": True}
PREY: dict[str, Any] = {"accel": 4.0, "max_speed": 1.3, "collide": True}
_PREY_SIZE = 0.05
_PAY = 10.0  # of one contact
_STAGES = (0.5, 0.75, 1.0)  # the prey's speed and acceleration in the stages of the curriculum


def outside(position: Tensor) -> Tensor:
    """Penalty [..., e] for leaving the field, from positions [..., 2, e]: per axis 0 up to .9, a ramp to 1 at 1, then
    exp(2 x - 2) up to 10."""
    x = position.abs()
    # the ramp is exactly 1 where the exponential takes over, and the exponential exactly 1 before that
    ramp = (x - 0.9).mul_(10.0).clamp_(0.0, 1.0)
    return ramp.mul_((x - 1.0).clamp_(min=0.0).mul_(2.0).exp_()).clamp_(max=10.0).sum(-2)


class Seen(NamedTuple):
    to_landmarks: Tensor  # [A, L, 2, e]
    to_others: Tensor  # [A, A - 1, 2, e]
    contacts: Tensor  # [predators, prey, e] 1 or 0


class SimpleTag(Scenario):
    """Every predator is paid 10 for each contact of any predator with any prey; a prey loses 10 for each of its own,
    and a penalty for leaving the field.

    Curriculum stages: the prey's acceleration and speed limit are 0.5, 0.75 or 1 of the full ones, from a row's next
    reset on.
    """

    id = "simple_tag_v3"
    num_stages = len(_STAGES)

    def __init__(
        self,
        num_good: int = 1,
        num_adversaries: int = 3,
        num_obstacles: int = 2,
        max_cycles: int = 25,
        curriculum: bool = False,
        terminate_on_success: bool = False,
        num_agent_neighbors: int | None = None,
        num_landmark_neighbors: int | None = None,
    ) -> None:
        super().__init__(max_cycles)
        check_count("num_good", num_good)
        check_count("num_adversaries", num_adversaries)
        check_count("num_obstacles", num_obstacles, at_least=0)
        check_neighbors("num_agent_neighbors", num_agent_neighbors)
        check_neighbors("num_landmark_neighbors", num_landmark_neighbors)
        self.curriculum = bool(curriculum)
        self.can_terminate = bool(terminate_on_success)
        self.num_agent_neighbors = num_agent_neighbors
        self.num_landmark_neighbors = num_landmark_neighbors
        self.num_predators, self.num_prey = num_adversaries, num_good
        self.agents = agents_named("adversary", num_adversaries, **PREDATOR) + agents_named(
            "agent", num_good, size=_PREY_SIZE, **PREY
        )
        self.landmarks = landmarks_named("landmark", num_obstacles, size=0.2, collide=True)
        self.seen_agents = len(self.agents) - 1 if num_agent_neighbors is None else num_agent_neighbors
        self.seen_landmarks = num_obstacles if num_landmark_neighbors is None else num_landmark_neighbors
        if self.curriculum:
            self.facts = {"pace": ((len(self.agents),), None)}

    @property
    def obs_sizes(self) -> list[int]:
        if self.num_agent_neighbors is None:
            velocities = [self.num_prey] * self.num_predators + [self.num_prey - 1] * self.num_prey
        else:
            velocities = [self.seen_agents] * len(self.agents)
        return [4 + 2 * (self.seen_landmarks + self.seen_agents + count) for count in velocities]

    def prepare(self, device: torch.device, dtype: torch.dtype) -> None:
        super().prepare(device, dtype)
        predators = self.num_predators
        other_prey = [predators + other for row in others(self.num_prey) for other in row]
        self.other_prey = torch.tensor(other_prey, dtype=torch.int64, device=device)
        is_prey = torch.arange(len(self.agents), device=device) >= predators
        self.is_prey = is_prey.to(dtype).view(-1, 1, 1)

    def reset(self, world: World, u: Tensor) -> None:
        split = 2 * len(self.agents)
        place(world.agents, u[:split])
        place(world.landmarks, u[split:], 0.9)
        if self.curriculum:
            world.facts["pace"].fill_(1.0)
            world.facts["pace"][self.num_predators :] = _STAGES[self.curriculum_stage]

    def pace(self, world: World) -> Tensor | None:
        return world.facts["pace"] if self.curriculum else None

    def relate(self, world: World) -> Seen:
        agents = world.agents
        predators, prey = agents[: self.num_predators], agents[self.num_predators :]
        contacts = less(length(relative(prey, predators)), PREDATOR["size"] + _PREY_SIZE)
        return Seen(relative(world.landmarks, agents), self.to_others(agents), contacts)

    def reward(self, world: World, seen: Seen) -> Tensor:
        per_prey = seen.contacts.sum(0).mul_(_PAY)
        shared = per_prey.sum(0, keepdim=True).expand(self.num_predators, -1)
        return torch.cat((shared, -per_prey - outside(world.agents[self.num_predators :])))

    def terminal(self, world: World, seen: Seen) -> Tensor:
        return (seen.contacts.amax(0) > 0).all(0)

    def observe(self, world: World, seen: Seen) -> list[tuple[Tensor, ...]]:
        """Velocity, position, vectors to the obstacles, vectors to the others, velocities of the (other) prey."""
        agents, vel = world.agents, world.vel
        to_landmarks, to_others = seen.to_landmarks, seen.to_others
        if self.num_landmark_neighbors is not None:
            to_landmarks = nearest(to_landmarks, length(to_landmarks), self.seen_landmarks)
        predators, prey, envs = self.num_predators, self.num_prey, vel.shape[-1]
        if self.num_agent_neighbors is not None:
            both = torch.cat((to_others, self.of_others(vel * self.is_prey)), 2)
            to_others, prey_vel = nearest(both, length(to_others), self.seen_agents).split(2, 2)
            return [(vel, agents, to_landmarks.flatten(1, 2), to_others.flatten(1, 2), prey_vel.flatten(1, 2))]
        parts = (vel, agents, to_landmarks.flatten(1, 2), to_others.flatten(1, 2))
        all_prey = vel[predators:].reshape(1, 2 * prey, envs).expand(predators, -1, -1)
        other_prey = vel.index_select(0, self.other_prey).view(prey, 2 * (prey - 1), envs)
        return [
            (*(part[:predators] for part in parts), all_prey),
            (*(part[predators:] for part in parts), other_prey),
        ]

    def load(self, raw: Any, world: World) -> None:
        if self.curriculum:
            full = PREY["max_speed"]
            paces = [1.0] * self.num_predators + [a.max_speed / full for a in raw.world.agents[self.num_predators :]]
            world.facts["pace"].copy_(torch.tensor(paces, dtype=torch.float64).unsqueeze(1))

    def store(self, raw: Any, world: World) -> None:
        if self.curriculum:
            for agent, pace in zip(raw.world.agents, world.facts["pace"][:, 0].tolist(), strict=True):
                if not agent.adversary:
                    agent.max_speed, agent.accel = PREY["max_speed"] * pace, PREY["accel"] * pace
