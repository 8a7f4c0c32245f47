"""simple_world_comm_v3: predators with a leader that sees all and speaks; prey that eat and hide in forests."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from envs.mpe.core import Body, World, length, less, relative
from envs.mpe.scenario import Scenario, agents_named, check_count, landmarks_named, others, place
from envs.mpe.tasks.simple_tag import PREDATOR, PREY, outside

_PREY_SIZE, _FOOD_SIZE, _FOREST_SIZE = 0.045, 0.03, 0.3


class Seen(NamedTuple):
    to_landmarks: Tensor  # [A, L, 2, e]
    landmark_distance: Tensor  # [A, L, e]


class SimpleWorldComm(Scenario):
    """Every predator is paid 5 for each contact of any predator with any prey, minus a tenth of its distance from the
    nearest prey. A prey loses 5 for each contact and twice the penalty for leaving the field, gains 2 for each food
    that it touches, and loses a twentieth of its distance from the nearest food.

    Agents see each other if both stand in the same forest or neither stands in any; the leader sees everyone. Of who
    is hidden, vector and velocity are zero.
    """

    id = "simple_world_comm_v3"
    num_symbols = 4

    def __init__(
        self,
        num_good: int = 2,
        num_adversaries: int = 4,
        num_obstacles: int = 1,
        num_food: int = 2,
        max_cycles: int = 25,
        num_forests: int = 2,
    ) -> None:
        super().__init__(max_cycles)
        check_count("num_good", num_good)
        check_count("num_adversaries", num_adversaries)
        check_count("num_obstacles", num_obstacles, at_least=0)
        check_count("num_food", num_food)
        check_count("num_forests", num_forests, at_least=0)
        self.num_predators, self.num_prey = num_adversaries, num_good
        self.num_obstacles, self.num_food, self.num_forests = num_obstacles, num_food, num_forests
        leader = Body("leadadversary_0", movable=True, silent=False, **PREDATOR)
        followers = agents_named("adversary", num_adversaries - 1, **PREDATOR)
        self.agents = (leader, *followers, *agents_named("agent", num_good, size=_PREY_SIZE, **PREY))
        self.landmarks = (
            *landmarks_named("landmark", num_obstacles, size=0.2, collide=True),
            *landmarks_named("food", num_food, size=_FOOD_SIZE),
            *landmarks_named("forest", num_forests, size=_FOREST_SIZE),
        )

    @property
    def obs_sizes(self) -> list[int]:
        shared = 4 + 2 * len(self.landmarks) + 2 * (len(self.agents) - 1) + self.num_forests
        predator, prey = shared + 2 * self.num_prey + self.num_symbols, shared + 2 * (self.num_prey - 1)
        return [predator] * self.num_predators + [prey] * self.num_prey

    def prepare(self, device: torch.device, dtype: torch.dtype) -> None:
        super().prepare(device, dtype)
        other_prey = [self.num_predators + other for row in others(self.num_prey) for other in row]
        self.other_prey = torch.tensor(other_prey, dtype=torch.int64, device=device)
        forest_reach = [agent.size + _FOREST_SIZE for agent in self.agents]
        self.forest_reach = torch.tensor(forest_reach, device=device, dtype=dtype).view(-1, 1, 1)
        self.leader = torch.zeros(len(self.agents), 1, 1, device=device, dtype=dtype)
        self.leader[0] = 1.0

    def reset(self, world: World, u: Tensor) -> None:
        split = 2 * len(self.agents)
        place(world.agents, u[:split])
        place(world.landmarks, u[split:], 0.9)

    def relate(self, world: World) -> Seen:
        to_landmarks = relative(world.landmarks, world.agents)
        return Seen(to_landmarks, length(to_landmarks))

    def reward(self, world: World, seen: Seen) -> Tensor:
        predators, prey = world.agents[: self.num_predators], world.agents[self.num_predators :]
        to_prey = length(relative(prey, predators))  # [predators, prey, e]
        contacts = less(to_prey, PREDATOR["size"] + _PREY_SIZE).sum(0).mul_(5.0)
        hunt = contacts.sum(0) - to_prey.amin(1).mul_(0.1)
        food = seen.landmark_distance[self.num_predators :, self.num_obstacles :][:, : self.num_food]
        eaten = less(food, _PREY_SIZE + _FOOD_SIZE).sum(1).mul_(2.0)
        graze = eaten - contacts - outside(prey).mul_(2.0) - food.amin(1).mul_(0.05)
        return torch.cat((hunt, graze))

    def _visible(self, inside: Tensor) -> Tensor:
        """1 where an agent sees another, else 0, [A, A - 1, e]; `inside` [A, forests, e] is 1 in a forest, else 0."""
        if not self.num_forests:
            return inside.new_ones(len(self.agents), len(self.agents) - 1, inside.shape[-1])
        of_others = self.of_others(inside)
        same_forest = (of_others * inside.unsqueeze(1)).amax(2)
        in_open = 1.0 - inside.amax(1, keepdim=True)
        both_in_open = in_open * (1.0 - of_others.amax(2))
        return torch.maximum(same_forest, both_in_open).clamp_(min=self.leader)

    def observe(self, world: World, seen: Seen) -> list[tuple[Tensor, ...]]:
        """Velocity, position, vectors to the landmarks, vectors to the others; predators: velocities of the prey, in
        which forests (1 or -1), the leader's message; prey: in which forests, velocities of the other prey."""
        agents, vel, predators, prey = world.agents, world.vel, self.num_predators, self.num_prey
        count, envs = len(self.agents), vel.shape[-1]
        first_forest = self.num_obstacles + self.num_food
        inside = less(seen.landmark_distance[:, first_forest:], self.forest_reach)
        visible = self._visible(inside).unsqueeze(2)
        to_others = self.to_others(agents).mul_(visible)
        parts = (vel, agents, seen.to_landmarks.flatten(1, 2), to_others.flatten(1, 2))
        where = inside.mul_(2.0).sub_(1.0)
        # prey are the last of the others of every predator, and of every prey
        prey_vel = vel[predators:].unsqueeze(0) * visible[:predators, count - 1 - prey :]
        mates = vel.index_select(0, self.other_prey).view(prey, prey - 1, 2, envs)
        mates = mates * visible[predators:, count - prey :]
        message = world.said.expand(predators, -1, -1)
        return [
            (*(part[:predators] for part in parts), prey_vel.flatten(1, 2), where[:predators], message),
            (*(part[predators:] for part in parts), where[predators:], mates.flatten(1, 2)),
        ]
