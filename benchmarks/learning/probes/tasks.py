"""The two tasks of the probes, as they are or with one thing changed. Everything is played in the batched port.

A changed task pays the sum of its terms, each times its weight: 1 in the task as it is (0 of those in `ADDED`, which it
has not), 0 takes a term out of the reward, 10 makes it count ten times. What agents see is never changed by a weight.

Shape suffixes: A agents, C collectors, D deposits, T treasures, P predators, Q prey, e environments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from envs.mpe.assignment import Assignment
from envs.mpe.core import World, length, less, relative
from envs.mpe.env import MPE
from envs.mpe.registry import make_scenario
from envs.mpe.scenario import Scenario
from envs.mpe.tasks.collect_treasure import CollectTreasure
from envs.mpe.tasks.simple_tag import outside
from envs.mpe.tasks.simple_world_comm import SimpleWorldComm
from envs.spec import EnvSpec

ADDED = ("errands",)  # terms that the tasks do not have
FARTHEST = 10.0  # in place of the distance of a treasure that is gone; more than there is in the arena
PAY = 5.0  # of a pickup, a delivery, an overlap of collectors, a touch of a prey


@dataclass(frozen=True)
class Change:
    """What of a task is changed beyond its arguments."""

    weights: dict[str, float] = field(default_factory=dict)
    """{term of the reward: its weight}, where it is not that of the task as it is."""
    intangible: bool = False
    """simple_world_comm: agents pass through each other and through the obstacle; touches are paid all the same."""
    all_seen: bool = False
    """simple_world_comm: forests hide nobody."""


class Treasure(CollectTreasure):
    """collect_treasure with weights of its terms.

    - `collisions`: -5 for every overlapping other collector.
    - `distance`: a tenth of the distance from where an agent should head, of a free collector the nearest treasure.
    - `others' pay`: of pickups and deliveries in which the agent had no part (of a collector, those of the others; of a
      deposit, pickups and deliveries to others); `own pay` is the rest.
    - `errands`, which the task has not: with the weight of `distance`, free collectors head for the treasures that they
      are matched to, and not each for the nearest. The matching has the least total distance; whoever is matched to a
      treasure that is gone heads nowhere. There are as many treasures as collectors.
    """

    def __init__(self, change: Change, **env_args: Any) -> None:
        super().__init__(**env_args)
        self.change = change
        self.facts["own_pay"] = ((len(self.agents),), None)
        self._match: Assignment | None = None
        self.paid: dict[str, Tensor] = {}

    def prepare(self, device: torch.device, dtype: torch.dtype) -> None:
        super().prepare(device, dtype)
        if self.num_collectors == self.num_treasures:
            self._match = Assignment(self.num_collectors, device)

    def reset(self, world: World, u: Tensor) -> None:
        super().reset(world, u)
        world.facts["own_pay"].zero_()

    def after_move(self, world: World, u: Tensor) -> None:
        facts, holding = world.facts, world.facts["holding"]
        collectors = world.agents[: self.num_collectors]
        reach = self.agents[0].size + self.landmarks[0].size
        near = less(length(relative(collectors, world.landmarks)), reach) * facts["alive"].unsqueeze(1)  # [T, C, e]
        carried, free = holding.clone(), 1.0 - holding.sum(1)
        picked = torch.zeros_like(free)
        for treasure, near_Ce in enumerate(near):
            able = near_Ce * free
            by = able * less(able.cumsum(0), 1.5)  # the first collector that can, as in the task itself
            free, picked = free - by, picked + by
            carried += by.unsqueeze(1) * facts["type"][treasure]
        super().after_move(world, u)
        brought = carried - holding  # [C, D, e]
        facts["own_pay"].copy_(torch.cat((picked + brought.sum(1), brought.sum(0))).mul_(PAY))

    def reward(self, world: World, seen: Any) -> Tensor:
        plain = super().reward(world, seen)
        collectors, bonus, own = world.agents[: self.num_collectors], world.facts["bonus"], world.facts["own_pay"]
        apart = length(relative(collectors, collectors))
        collisions = torch.zeros_like(plain)
        collisions[: self.num_collectors] = (1.0 - less(apart, 2 * self.agents[0].size).sum(1)) * PAY
        self.paid = {
            "collisions": collisions,
            "distance": plain - bonus - collisions,
            "own pay": own.clone(),
            "others' pay": bonus - own,
        }
        if self._match is not None:
            self.paid["errands"] = self._errands(world, seen, self._match)
        return weighted(plain, self.paid, self.change)

    def _errands(self, world: World, seen: Any, match: Assignment) -> Tensor:
        """What the way to the matched treasure costs more than that to the nearest, [A, e]."""
        alive = world.facts["alive"]
        free_Ce = 1.0 - world.facts["holding"].sum(1)
        away = seen.treasure_distance[: self.num_collectors]  # [C, T, e], far where a treasure is gone
        cost = torch.where(alive > 0, away, FARTHEST) * free_Ce.unsqueeze(1)  # the others leave the free their choice
        matched_Ce = match(cost)
        matched_Ce = matched_Ce * (matched_Ce < FARTHEST)
        nearest_Ce = away.amin(1) * alive.amax(0) * free_Ce
        nothing = torch.zeros_like(world.agents[self.num_collectors :, 0])
        return torch.cat(((nearest_Ce - matched_Ce) * 0.1, nothing))


class WorldComm(SimpleWorldComm):
    """simple_world_comm with weights of the terms `distance` (of predators from the nearest prey, of prey from the
    nearest food), `others' pay` (what a predator is paid for the touches of the other predators) and `walls` (what
    a prey loses outside the field)."""

    def __init__(self, change: Change, **env_args: Any) -> None:
        super().__init__(**env_args)
        self.change = change
        if change.intangible:
            self.agents = tuple(replace(agent, collide=False) for agent in self.agents)
        self.paid: dict[str, Tensor] = {}

    def _visible(self, inside: Tensor) -> Tensor:
        visible = super()._visible(inside)
        return torch.ones_like(visible) if self.change.all_seen else visible

    def reward(self, world: World, seen: Any) -> Tensor:
        plain = super().reward(world, seen)
        count, prey = self.num_predators, world.agents[self.num_predators :]
        apart = length(relative(prey, world.agents[:count]))  # [P, Q, e]
        touches = less(apart, self.agents[0].size + self.agents[-1].size).mul_(PAY)
        own, nothing = touches.sum(1), torch.zeros_like(prey[:, 0])
        food = seen.landmark_distance[count:, self.num_obstacles :][:, : self.num_food]
        terms = {
            "distance": torch.cat((apart.amin(1).mul_(-0.1), food.amin(1).mul(-0.05))),
            "own touches": torch.cat((own, -touches.sum(0))),
            "others' pay": torch.cat((own.sum(0) - own, nothing)),
            "walls": torch.cat((torch.zeros_like(own), outside(prey).mul(-2.0))),
        }
        self.paid = terms | {"food": plain - torch.stack(list(terms.values())).sum(0)}
        return weighted(plain, self.paid, self.change)


def usual(term: str) -> float:
    """A term's weight in the task as it is."""
    return 0.0 if term in ADDED else 1.0


def weighted(plain: Tensor, terms: dict[str, Tensor], change: Change) -> Tensor:
    """The reward [A, e] with the weights of a change."""
    for name, weight in change.weights.items():
        plain = plain + (weight - usual(name)) * terms[name]
    return plain


CHANGED: dict[str, type[Treasure] | type[WorldComm]] = {"collect_treasure": Treasure, "simple_world_comm": WorldComm}


@dataclass(frozen=True)
class Task:
    """A task with its arguments and its change."""

    env: str
    """Of `CHANGED`."""
    env_args: dict[str, Any] = field(default_factory=dict)
    change: Change = field(default_factory=Change)

    def scenario(self, watched: bool = False) -> Scenario:
        """What is played; `watched`: it keeps what every term paid in the last step, `paid` {term: [A, e]}."""
        plain = make_scenario(self.env, **self.env_args)  # refuses arguments that there are not
        if self.change == Change() and not watched:
            return plain
        return CHANGED[self.env](self.change, **self.env_args)

    def environments(self, count: int, rows: Sequence[int] | None = None, watched: bool = False) -> MPE:
        return MPE(self.scenario(watched), count, rows=rows)

    @property
    def spec(self) -> EnvSpec:
        return self.scenario().spec()

    def unweighted(self) -> Task:
        """The same, paid as the task itself pays."""
        return replace(self, change=replace(self.change, weights={}))
