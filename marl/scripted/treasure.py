"""Scripted policies of collect_treasure, which play all its agents.

Everybody sees everything here, but sorted by distance; the scripts read each agent's own state from its own
observation and the treasures from collector_0's. Each agent could work out the same from its own observation.
"""

from __future__ import annotations

import numpy as np

from envs.spec import EnvSpec
from marl.play.rollout import Actions, Observations
from marl.scripted.base import Script
from marl.scripted.planning import DT, GLIDE, KEEP, MOVES, length

ACCEL = 1.5
DEPOSIT_ACCEL = ACCEL / 2.25  # its mass
PICK = 0.075  # a collector of radius 0.05 touches a treasure of radius 0.025
DELIVER = 0.125  # and a deposit of radius 0.075
BUMP = 0.1  # two collectors
PACE = DT * GLIDE * ACCEL  # distance per step of a collector that keeps pushing along one axis
DEPOSIT_PACE = DT * GLIDE * DEPOSIT_ACCEL
SEARCH_GLIDE = 0.2  # collectors touch their targets at speed: no need to come to rest there


class State:
    """What `step` of the script needs, read from all observations.

    Attributes (float64 unless given): position, velocity [E, C, 2] of collectors; holding int [E, C], -1 free;
    place, drift [E, D, 2] of deposits; treasure [E, M, 2], absolute; type int [E, M]; alive bool [E, M].
    """

    def __init__(self, spec: EnvSpec, observations: Observations) -> None:
        collectors = [n for n in spec.agent_names if n.startswith("collector")]
        deposits = [n for n in spec.agent_names if n.startswith("deposit")]
        kinds, others = len(deposits), spec.num_agents - 1
        own = np.stack([observations[n] for n in collectors], 1).astype(np.float64)
        theirs = np.stack([observations[n] for n in deposits], 1).astype(np.float64)
        self.position, self.velocity = own[..., 0:2], own[..., 2:4]
        held = own[..., 4 : 4 + kinds]
        self.holding = np.where(held.any(-1), held.argmax(-1), -1)
        self.place, self.drift = theirs[..., 0:2], theirs[..., 2:4]
        start = 4 + kinds + others * (4 + 2 * kinds)
        treasure = own[:, 0, start:].reshape(len(own), -1, 2 + kinds)
        self.treasure = treasure[..., :2] + own[:, :1, 0:2]
        self.alive: np.ndarray = np.asarray(treasure[..., 2:].any(-1))
        self.type = treasure[..., 2:].argmax(-1)
        self.free: np.ndarray = np.asarray(self.holding < 0)

    def home(self) -> np.ndarray:
        """[E, C, 2]: the deposit of what each collector holds (of the free: deposit 0)."""
        return np.take_along_axis(self.place, np.maximum(self.holding, 0)[..., None], 1)


def approach(offset: np.ndarray, velocity: np.ndarray, accel: float, glide: float = GLIDE) -> np.ndarray:
    """Distances [..., 5] that each move leaves to the target after `glide` times the velocity."""
    ahead = (offset - glide * velocity)[..., None, :] - glide * DT * accel * MOVES
    return length(ahead)


class TreasureGreedy(Script):
    """Free collectors are matched to treasures with the least total distance, the others go to their deposits; deposits
    go to the nearest collector that carries their treasure, or else to the mean position of all collectors. Coasting
    rule."""

    decentralised = False

    def decide(self, observations: Observations) -> Actions:
        state = State(self.spec, observations)
        away = length(state.treasure[:, None] - state.position[:, :, None]) + 50.0 * ~state.alive[:, None]
        goal = self.goals(state, away)
        moves = approach(goal - state.position, state.velocity, ACCEL).argmin(-1)
        middle = state.position.mean(1)
        rows = np.arange(len(middle))
        for kind in range(state.place.shape[1]):
            held = state.holding == kind
            nearest = np.where(held, length(state.position - state.place[:, kind : kind + 1]), 99.0).argmin(1)
            target = np.where(held.any(1)[:, None], state.position[rows, nearest], middle)
            move = approach(target - state.place[:, kind], state.drift[:, kind], DEPOSIT_ACCEL).argmin(-1)
            moves = np.concatenate([moves, move[:, None]], axis=1)
        return {name: moves[:, n] for n, name in enumerate(self.spec.agent_names)}

    def goals(self, state: State, away: np.ndarray) -> np.ndarray:
        """Where each collector goes, [E, C, 2], with the treasures `away` from it [E, C, M]."""
        return errands(state, away)[0]


class TreasureNearest(TreasureGreedy):
    """As `greedy`, but every free collector goes to its own nearest treasure, even if others go there too."""

    def goals(self, state: State, away: np.ndarray) -> np.ndarray:
        goal = np.take_along_axis(state.treasure, away.argmin(2)[..., None], 1)
        return np.where(state.free[..., None], goal, state.home())


class TreasureBest(Script):
    """The best script known. Free collectors are matched to treasures by the value of picking up and delivering in the
    time left; all rush to their targets and avoid each other; deposits go to meet collectors that carry, or soon will
    carry, their treasure."""

    decentralised = False

    def decide(self, observations: Observations) -> Actions:
        state = State(self.spec, observations)
        left = self.horizon - 1 - self.t
        goal, chosen = errands(state, -worth(state, left))
        moves = np.concatenate([give_way(state, goal), meet(state, chosen, left)], axis=1)
        return {name: moves[:, n] for n, name in enumerate(self.spec.agent_names)}


# ------------------------------------------------------------------ who goes where
def errands(state: State, cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Targets [E, C, 2] and the treasure index int [E, C] matched to each free collector at the least total cost.

    A free collector whose treasure is gone drifts to the middle of the arena.
    """
    cost = np.where(state.free[..., None], cost, 0.0)
    from scipy.optimize import linear_sum_assignment  # half a second, which other tasks need not wait for

    chosen = np.zeros(state.holding.shape, dtype=np.int64)
    for e, table in enumerate(cost):
        # more collectors than treasures: the unmatched keep index 0
        rows, columns = linear_sum_assignment(table)
        chosen[e, rows] = columns
    goal = np.take_along_axis(state.treasure, chosen[..., None], 1)
    there = np.take_along_axis(state.alive, chosen, 1)[..., None]
    goal = np.where(there, goal, 0.9 * state.position)
    return np.where(state.free[..., None], goal, state.home()), chosen


def worth(state: State, left: int) -> np.ndarray:
    """[E, C, M]: the chance to pick up in the steps left, twice the chance to deliver as well, less the time."""
    rest = state.treasure[:, None] - state.position[:, :, None] - GLIDE * state.velocity[:, :, None]
    way = (np.abs(rest).sum(-1) + length(rest)) / 2  # one axis at a time: between the two metrics
    pick = np.maximum(way - PICK, 0) / PACE + 2
    apart = length(state.treasure[:, :, None] - state.place[:, None])
    home = np.take_along_axis(apart, state.type[..., None], 2)[..., 0]
    deliver = (np.maximum(home - DELIVER, 0) / (PACE + DEPOSIT_PACE / 2) + 2)[:, None]
    value = in_time(left - pick) + 2 * in_time(left - pick - deliver) - (pick + 0.3 * deliver) / 10
    return np.where(state.alive[:, None], value, -9.0)


def in_time(spare: np.ndarray) -> np.ndarray:
    """A chance that rises from 0 to 1 around no spare step."""
    return 1 / (1 + np.exp(-np.clip(spare / 2, -30, 30)))


def give_way(state: State, goal: np.ndarray, ahead: int = 3, sweeps: int = 2, weight: float = 8.0) -> np.ndarray:
    """Moves int64 [E, C] towards the goals; each collector in turn avoids where the others will be in a few steps."""
    count = state.position.shape[1]
    position = np.repeat((state.position + DT * state.velocity)[:, :, None], 5, 2)  # [E, C, 5, 2]
    velocity = KEEP * state.velocity[:, :, None] + DT * ACCEL * MOVES
    value = -length(goal[:, :, None] - position - SEARCH_GLIDE * velocity)
    future = []
    for _ in range(ahead):
        position = position + DT * velocity
        velocity = KEEP * velocity
        future.append(position)
    paths = np.stack(future, 3)  # [E, C, 5, ahead, 2]
    moves = value.argmax(-1)
    taken = np.take_along_axis(paths, moves[:, :, None, None, None], 2)[:, :, 0]  # [E, C, ahead, 2]
    rows = np.arange(len(moves))
    for _ in range(sweeps):
        for c in range(count):
            apart = length(paths[:, c, None] - taken[:, :, None])  # [E, C, 5, ahead]
            apart[:, c] = 9.0
            bumps = np.maximum(0, BUMP - apart).sum((1, 3))
            moves[:, c] = (value[:, c] - weight * bumps).argmax(-1)
            taken[:, c] = paths[rows, c, moves[:, c]]
    return moves


def meet(state: State, chosen: np.ndarray, left: int) -> np.ndarray:
    """Moves int64 [E, D] of the deposits: to the mean of their carriers now and soon, the near ones counting more."""
    target = np.take_along_axis(state.treasure, chosen[..., None], 1)
    kind_of = np.where(state.free, np.take_along_axis(state.type, chosen, 1), -1)
    middle = state.position.mean(1)
    moves = []
    for kind in range(state.place.shape[1]):
        place = state.place[:, kind, None]
        carriers = (state.holding == kind) / np.maximum(length(state.position - place), 0.1)
        time = length(target - state.position) / PACE + length(target - place) / (PACE + DEPOSIT_PACE) + 2
        soon = 2 * (kind_of == kind) * in_time(left - time) / np.maximum(length(target - place), 0.1)
        weight = np.concatenate([carriers, soon], axis=1)[..., None]
        points = np.concatenate([state.position, target], axis=1)
        centre = (weight * points).sum(1) / np.maximum(weight.sum(1), 1e-9)
        goal = np.where(weight.sum(1) > 1e-9, centre, middle)
        moves.append(approach(goal - place[:, 0], state.drift[:, kind], DEPOSIT_ACCEL).argmin(-1))
    return np.stack(moves, 1)
