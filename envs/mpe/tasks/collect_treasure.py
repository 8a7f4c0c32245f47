"""collect_treasure_v1: collectors pick up treasures and bring each to the deposit of its type."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from envs.mpe.core import World, length, less, relative
from envs.mpe.neighbors import nearest
from envs.mpe.scenario import Scenario, agents_named, check_count, choose, landmarks_named, place

_COLLECTOR_SIZE, _DEPOSIT_SIZE, _TREASURE_SIZE = 0.05, 0.075, 0.025
_HALF_WIDTH = 0.95  # of the square in which treasures appear
_PAY = 5.0  # to everyone for a pickup or a delivery; loss of a collector for each other that it overlaps
_AWAY = -999.0  # where mpe2 keeps a treasure that was picked up
_FAR = 1e6  # added to a distance that does not count
_MOST_TYPES = 6


class Seen(NamedTuple):
    to_others: Tensor  # [A, A - 1, 2, e]
    to_treasures: Tensor  # [A, T, 2, e]
    treasure_distance: Tensor  # [A, T, e] of treasures that are there; the others are far away


class CollectTreasure(Scenario):
    """All are paid 5 for every pickup and every delivery. A collector loses 5 for every other collector that it
    overlaps and a tenth of its distance from the nearest treasure, or, carrying, from its treasure's deposit. A
    deposit loses a tenth of its distance from the nearest collector that carries its type, or, if none does, from the
    collectors' centre. A treasure picked up is gone for one observation, then appears elsewhere with a new type.

    Differs from source: mpe2 draws the places of new treasures from a copy of the generator taken before the reset, so
    that the first ones repeat numbers of the reset that agents can see; here they are independent.
    """

    id = "collect_treasure_v1"

    def __init__(
        self, num_collectors: int = 6, num_deposits: int = 2, num_treasures: int = 6, max_cycles: int = 25
    ) -> None:
        super().__init__(max_cycles)
        check_count("num_collectors", num_collectors)
        check_count("num_deposits", num_deposits, at_most=_MOST_TYPES)
        check_count("num_treasures", num_treasures)
        self.num_collectors, self.num_types, self.num_treasures = num_collectors, num_deposits, num_treasures
        self.agents = agents_named(
            "collector", num_collectors, size=_COLLECTOR_SIZE, accel=1.5, max_speed=1.0
        ) + agents_named("deposit", num_deposits, size=_DEPOSIT_SIZE, accel=1.5, max_speed=1.0, mass=2.25)
        self.landmarks = landmarks_named("treasure", num_treasures, size=_TREASURE_SIZE)
        self.facts = {
            "holding": ((num_collectors, num_deposits), None),  # one-hot of the type carried, zeros if none
            "type": ((num_treasures, num_deposits), None),  # one-hot
            "alive": ((num_treasures,), None),  # 1 or 0
            "bonus": ((1,), None),  # pay for the pickups and deliveries of the last step
        }
        self.step_draws = 3 * num_treasures

    @property
    def obs_sizes(self) -> list[int]:
        count, types = len(self.agents), self.num_types
        shared = 4 + (count - 1) * (4 + 2 * types) + self.num_treasures * (2 + types)
        return [shared + types] * self.num_collectors + [shared] * types

    @property
    def reset_draws(self) -> int:
        return 2 * len(self.agents) + 3 * self.num_treasures

    def prepare(self, device: torch.device, dtype: torch.dtype) -> None:
        super().prepare(device, dtype)
        self.types = torch.eye(self.num_types, device=device, dtype=dtype)
        self.deposit_code = torch.cat((self.types, torch.zeros_like(self.types)), 1).unsqueeze(2)

    # -------------------------------------------------------------- episode
    def reset(self, world: World, u: Tensor) -> None:
        split = 2 * len(self.agents)
        place(world.agents, u[:split])
        self._draw_treasures(u[split:], world.landmarks, world.facts["type"])
        world.facts["alive"].fill_(1.0)
        world.facts["holding"].zero_()
        world.facts["bonus"].zero_()

    def _draw_treasures(self, u: Tensor, places: Tensor, types: Tensor) -> None:
        """New treasures from `u` [3 T, e]: places [T, 2, e] and types [T, types, e], written in place."""
        count, envs = self.num_treasures, u.shape[-1]
        place(places, u[: 2 * count], _HALF_WIDTH)
        chosen = choose(u[2 * count :], self.num_types)
        types.copy_(self.types.index_select(1, chosen.view(-1)).view(self.num_types, count, envs).transpose(0, 1))

    def after_move(self, world: World, u: Tensor) -> None:
        """Pickups in the order of treasures, then of collectors; new treasures; deliveries."""
        facts, places = world.facts, world.landmarks
        collectors, deposits = world.agents[: self.num_collectors], world.agents[self.num_collectors :]
        holding, types, alive = facts["holding"], facts["type"], facts["alive"]
        near = less(length(relative(collectors, places)), _TREASURE_SIZE + _COLLECTOR_SIZE)  # [T, C, e]
        near *= alive.unsqueeze(1)
        free = 1.0 - holding.sum(1)
        taken = torch.zeros_like(alive)
        for treasure in range(self.num_treasures):
            able = near[treasure] * free
            by = able * less(able.cumsum(0), 1.5)  # the first collector that can
            free -= by
            holding.addcmul_(by.unsqueeze(1), types[treasure])
            taken[treasure] = by.sum(0)
        new_places, new_types = torch.empty_like(places), torch.empty_like(types)
        self._draw_treasures(u, new_places, new_types)
        born, gone = (1.0 - alive).unsqueeze(1), taken.unsqueeze(1)
        places.mul_(1.0 - born - gone).addcmul_(new_places, born).add_(gone, alpha=_AWAY)
        types.mul_(1.0 - born).addcmul_(new_types, born)
        alive.copy_(1.0 - taken)
        at_deposit = less(length(relative(deposits, collectors)), _COLLECTOR_SIZE + _DEPOSIT_SIZE)
        delivered = (holding * at_deposit).sum(1)  # [C, e]
        holding.mul_((1.0 - delivered).unsqueeze(1))
        facts["bonus"].copy_((taken.sum(0) + delivered.sum(0)).mul_(_PAY))

    def relate(self, world: World) -> Seen:
        to_treasures = relative(world.landmarks, world.agents)
        away = (1.0 - world.facts["alive"]).mul_(_FAR)
        return Seen(self.to_others(world.agents), to_treasures, length(to_treasures).add_(away))

    def reward(self, world: World, seen: Seen) -> Tensor:
        facts, first = world.facts, self.num_collectors
        collectors, deposits = world.agents[:first], world.agents[first:]
        holding = facts["holding"]
        to_deposit = length(relative(deposits, collectors))  # [C, D, e]
        overlaps = less(length(relative(collectors, collectors)), 2 * _COLLECTOR_SIZE).sum(1) - 1.0
        # a free collector heads for the nearest treasure, if there is one
        some = facts["alive"].amax(0)
        treasure = seen.treasure_distance[:first].amin(1).mul_(some).mul_(1.0 - holding.sum(1))
        carry = (holding * to_deposit).sum(1)
        collector_pay = facts["bonus"] - (treasure + carry).mul_(0.1) - overlaps.mul_(_PAY)
        # a deposit heads for the nearest collector with its type, else for the centre of all
        carrier = torch.add(to_deposit, 1.0 - holding, alpha=_FAR).amin(0)
        carried = holding.amax(0)
        centre = length(collectors.mean(0) - deposits)
        deposit_pay = facts["bonus"] - (carrier * carried + centre * (1.0 - carried)).mul_(0.1)
        return torch.cat((collector_pay, deposit_pay))

    def observe(self, world: World, seen: Seen) -> list[tuple[Tensor, ...]]:
        """Position, velocity; collectors: the type carried; the others, nearest first: vector, velocity, own type if a
        deposit, type carried; the treasures, nearest first: vector, type, zeros for those that are gone."""
        agents, vel, facts = world.agents, world.vel, world.facts
        count, first, envs = len(self.agents), self.num_collectors, vel.shape[-1]
        holding = facts["holding"]
        no_deposit = torch.zeros_like(holding)
        codes = torch.cat((torch.cat((no_deposit, holding), 1), self.deposit_code.expand(-1, -1, envs)))
        features = torch.cat((seen.to_others, self.of_others(torch.cat((vel, codes), 1))), 2)
        features = nearest(features, length(seen.to_others), count - 1).flatten(1, 2)
        treasures = torch.cat((seen.to_treasures, facts["type"].expand(count, -1, -1, -1)), 2)
        treasures = treasures * facts["alive"].unsqueeze(1)
        treasures = nearest(treasures, seen.treasure_distance, self.num_treasures).flatten(1, 2)
        return [
            (agents[:first], vel[:first], holding, features[:first], treasures[:first]),
            (agents[first:], vel[first:], features[first:], treasures[first:]),
        ]

    # ------------------------------------------------- exchange with mpe2
    def load(self, raw: Any, world: World) -> None:
        facts = world.facts
        facts["holding"].zero_()
        facts["type"].zero_()
        facts["bonus"].zero_()
        for index, agent in enumerate(raw.world.agents[: self.num_collectors]):
            if agent.holding is not None:
                facts["holding"][index, agent.holding] = 1.0
        for index, treasure in enumerate(raw.world.landmarks):
            facts["type"][index, treasure.type] = 1.0
            facts["alive"][index] = float(treasure.alive)

    def store(self, raw: Any, world: World) -> None:
        facts, colours = world.facts, raw.world.treasure_colors
        for agent, held in zip(raw.world.agents, facts["holding"][..., 0].tolist(), strict=False):
            agent.holding = held.index(1.0) if 1.0 in held else None
            agent.color = np.full(3, 0.85) if agent.holding is None else 0.85 * colours[agent.holding]
        treasures = zip(raw.world.landmarks, facts["type"][..., 0].tolist(), facts["alive"][:, 0].tolist(), strict=True)
        for treasure, kind, alive in treasures:
            treasure.type, treasure.alive = kind.index(1.0), bool(alive)
            treasure.color = colours[treasure.type].copy()
