"""Scripted policies of simple_spread: nearest assignment, and a search over the joint plans of all agents.

Arrays keep rows last (`[2, N, R]`: axis, agent, row), so that every operation runs over long contiguous rows.
"""

from __future__ import annotations

import itertools
from typing import ClassVar

import numpy as np

from envs.spec import EnvSpec
from marl.errors import UserError
from marl.play.rollout import Actions, Observations
from marl.scripted.base import Script
from marl.scripted.planning import ACCEL, DT, GLIDE, KEEP, MOVES, coast

TOUCH = 0.3  # two agents of radius 0.15
STIFFNESS = 100.0  # force per unit of overlap
MARGIN = 1e-3  # softness of the overlap
MAX_AGENTS = 5  # all assignments are tried

WIDTH = 8  # joint plans kept
ROUNDS = 60  # of the local search; it stops by itself after 10 or so
CHUNK = 16  # episodes searched together: their arrays fit the cache


class _Spread(Script):
    assumes: ClassVar[tuple[str, ...]] = ("num_agent_neighbors", "num_landmark_neighbors")

    def layout(self) -> list[int]:
        return [6 * self.spec.num_agents] * self.spec.num_agents


class SpreadCoast(_Spread):
    """Agents and landmarks are matched anew at each step with the least total distance (each agent sees everything and
    could compute the same matching alone); each follows the coasting rule to its landmark."""

    def __init__(self, spec: EnvSpec, seed: int = 0) -> None:
        super().__init__(spec, seed)
        self.matchings = assignments(spec.num_agents)

    def decide(self, observations: Observations) -> Actions:
        actions = {}
        for n, name in enumerate(self.spec.agent_names):
            obs = observations[name].astype(np.float64)
            agents, landmarks = world(obs, n, self.spec.num_agents)
            goal = match(agents, landmarks, self.matchings)[:, n]
            actions[name] = coast(goal - agents[:, n], obs[:, 0:2])
        return actions


class SpreadFixed(_Spread):
    """Agent i follows the coasting rule to landmark i."""

    assumes = ("num_landmark_neighbors",)

    def decide(self, observations: Observations) -> Actions:
        actions = {}
        for n, name in enumerate(self.spec.agent_names):
            obs = observations[name].astype(np.float64)
            actions[name] = coast(obs[:, 4 + 2 * n : 6 + 2 * n], obs[:, 0:2])
        return actions


class SpreadOracle(_Spread):
    """A joint plan of the whole episode, including contacts, found by beam search over all assignments and improved by
    local search. It is computed from agent_0's first observation, which shows the whole state; each other agent could
    compute the same plan from its own."""

    decentralised = False

    def __init__(self, spec: EnvSpec, seed: int = 0) -> None:
        super().__init__(spec, seed)
        assignments(spec.num_agents)

    def decide(self, observations: Observations) -> Actions:
        names = self.spec.agent_names
        if self.t == 0:
            agents, landmarks = world(observations[names[0]].astype(np.float64), 0, len(names))
            parts = [
                joint_plan(agents[i : i + CHUNK], landmarks[i : i + CHUNK], self.horizon)[0]
                for i in range(0, len(agents), CHUNK)
            ]
            self.moves = np.concatenate(parts)
        now = self.moves[:, :, self.t] if self.t < self.horizon else np.zeros(self.moves.shape[:2], np.int64)
        return {name: now[:, n] for n, name in enumerate(names)}


# ------------------------------------------------------------------ who goes where
def world(obs: np.ndarray, index: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Agents and landmarks [E, N, 2], absolute, from the observation [E, 6 N] of agent `index`."""
    own = obs[:, None, 2:4]
    landmarks = own + obs[:, 4 : 4 + 2 * count].reshape(-1, count, 2)
    others = own + obs[:, 4 + 2 * count : 2 + 4 * count].reshape(-1, count - 1, 2)
    return np.concatenate([others[:, :index], own, others[:, index:]], axis=1), landmarks


def assignments(count: int) -> np.ndarray:
    """int [N!, N]: the landmark of each agent."""
    if count > MAX_AGENTS:
        raise UserError(f"scripted policies of simple_spread play up to {MAX_AGENTS} agents, got {count}.")
    return np.array(list(itertools.permutations(range(count))))


def match(agents: np.ndarray, landmarks: np.ndarray, matchings: np.ndarray) -> np.ndarray:
    """[E, N, 2]: each agent's landmark in the matching with the least total distance."""
    apart = np.sqrt(np.square(agents[:, :, None] - landmarks[:, None]).sum(-1))  # [E, agent, landmark]
    totals = apart[:, np.arange(agents.shape[1]), matchings].sum(-1)
    return np.take_along_axis(landmarks, matchings[totals.argmin(1)][..., None], 1)


# ------------------------------------------------------------------ the model
class Model:
    """mpe2's dynamics and team reward for N touching agents and N landmarks, many rows at a time."""

    def __init__(self, count: int) -> None:
        pairs = list(itertools.combinations(range(count), 2))
        self.count = count
        self.pairs = pairs
        self.first = [a for a, _ in pairs]
        self.second = [b for _, b in pairs]

    def step(self, position: np.ndarray, velocity: np.ndarray, push: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One step of [2, N, R] with pushes of length 1 or 0; contact acts from the old positions."""
        between = position[:, self.first] - position[:, self.second]
        apart = np.sqrt(between[0] ** 2 + between[1] ** 2)
        overlap = np.logaddexp(0, (TOUCH - apart) / MARGIN) * MARGIN
        force = between * (DT * STIFFNESS * overlap / apart)
        moved = position + DT * velocity
        velocity = KEEP * velocity + DT * ACCEL * push
        for k, (a, b) in enumerate(self.pairs):
            velocity[:, a] += force[:, k]
            velocity[:, b] -= force[:, k]
        return moved, velocity

    def reward(self, position: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """Mean over agents of the reward at [2, N, R], landmarks [2, N, R]: [R]."""
        between = position[:, self.first] - position[:, self.second]
        touching = (between[0] ** 2 + between[1] ** 2 < TOUCH**2).sum(0)
        offset = position[:, :, None] - landmarks[:, None]
        nearest = np.sqrt(offset[0] ** 2 + offset[1] ** 2).min(0).sum(0)
        return -0.5 * nearest - touching / self.count

    def finish(
        self, position: np.ndarray, velocity: np.ndarray, goal: np.ndarray, landmarks: np.ndarray, steps: int
    ) -> np.ndarray:
        """Team return [R] of `steps` further steps by the coasting rule to `goal` [2, N, R]."""
        total = np.zeros(position.shape[-1])
        for _ in range(steps):
            position, velocity = self.step(position, velocity, coasting_push(goal, position, velocity))
            total += self.reward(position, landmarks)
        return total

    def play(self, position: np.ndarray, moves: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """Team return [R] of plans `moves` int [N, T, R] from rest."""
        velocity = np.zeros_like(position)
        total = np.zeros(position.shape[-1])
        for t in range(moves.shape[1]):
            position, velocity = self.step(position, velocity, MOVES.T[:, moves[:, t]])
            total += self.reward(position, landmarks)
        return total


def coasting_push(goal: np.ndarray, position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    """The coasting rule's pushes [2, ...]: along the axis with the larger distance to rest, where a push pays."""
    rest = goal - position - GLIDE * velocity
    size = np.abs(rest)
    push = np.sign(rest) * (size > GLIDE * DT * ACCEL / 2)
    along_x = size[0] >= size[1]
    push[0] *= along_x
    push[1] *= ~along_x
    return push


# ------------------------------------------------------------------ the search
def joint_plan(
    agents: np.ndarray, landmarks: np.ndarray, steps: int, width: int = WIDTH, rounds: int = ROUNDS
) -> tuple[np.ndarray, np.ndarray]:
    """A joint plan from rest.

    Args:
        agents: [E, N, 2].
        landmarks: [E, N, 2].
        steps: length of the episode.
        width: joint plans kept by the beam search.
        rounds: most improvements by the local search.

    Returns:
        (moves int64 [E, N, steps], return float64 [E] per agent as the model foresees it).
    """
    start, places = agents.transpose(2, 1, 0), landmarks.transpose(2, 1, 0)  # [2, N, E]
    moves = _beam(start, places, steps, width)
    moves, value = _climb(start, places, moves, rounds)
    return moves.transpose(2, 0, 1).astype(np.int64), value


def _beam(start: np.ndarray, landmarks: np.ndarray, steps: int, width: int) -> np.ndarray:
    """The best plans int8 [N, steps, E] found by keeping `width` of them, each with an assignment of its own.

    Within a step the agents choose one after another; those that have not chosen yet, and everybody later, follow the
    coasting rule to the landmark that the plan assigns.
    """
    count, rows = start.shape[1:]
    model, matchings = Model(count), assignments(count)
    plans = len(matchings)
    position = np.repeat(start[..., None], plans, -1)  # [2, N, E, plans]
    velocity = np.zeros_like(position)
    goal = np.stack([landmarks[:, matching] for matching in matchings], -1)
    spent = np.zeros((rows, plans))
    moves = np.zeros((count, steps, rows, plans), dtype=np.int8)
    for t in range(steps - 1):
        push = coasting_push(goal, position, velocity)
        for n in range(count):
            options = np.repeat(push, 5, -1)
            options[:, n] = np.tile(MOVES.T, push.shape[-1])[:, None]
            value = np.repeat(spent, 5, -1) + _outlook(
                model,
                np.repeat(position, 5, -1),
                np.repeat(velocity, 5, -1),
                np.repeat(goal, 5, -1),
                options,
                np.broadcast_to(landmarks[..., None], options.shape),
                steps - 1 - t,
            )
            keep = min(width, value.shape[1])
            best = np.argpartition(-value, keep - 1, axis=1)[:, :keep]
            position, velocity, goal, moves = (_take(a, best // 5) for a in (position, velocity, goal, moves))
            push, spent = _take(options, best), _take(spent, best // 5)
            moves[n, t] = best % 5
        shape = position.shape
        places = np.broadcast_to(landmarks[..., None], shape)
        flat_position, flat_velocity = model.step(_flat(position), _flat(velocity), _flat(push))
        spent = spent + model.reward(flat_position, _flat(places)).reshape(rows, -1)
        position, velocity = flat_position.reshape(shape), flat_velocity.reshape(shape)
    final, _ = model.step(_flat(position), _flat(velocity), np.zeros_like(_flat(velocity)))
    places = np.broadcast_to(landmarks[..., None], position.shape)
    spent = spent + model.reward(final, _flat(places)).reshape(rows, -1)
    return _take(moves, spent.argmax(1)[:, None])[..., 0]


def _outlook(
    model: Model,
    position: np.ndarray,
    velocity: np.ndarray,
    goal: np.ndarray,
    push: np.ndarray,
    landmarks: np.ndarray,
    steps: int,
) -> np.ndarray:
    """Return [E, plans] of one step with `push` and `steps` more by the coasting rule."""
    shape = position.shape[-2:]
    position, velocity, goal, push, landmarks = (_flat(a) for a in (position, velocity, goal, push, landmarks))
    position, velocity = model.step(position, velocity, push)
    value = model.reward(position, landmarks) + model.finish(position, velocity, goal, landmarks, steps)
    return value.reshape(shape)


def _flat(array: np.ndarray) -> np.ndarray:
    """[..., E, plans] to [..., E * plans]."""
    return array.reshape(*array.shape[:-2], -1)


def _take(array: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Plans `index` [E, K] of [..., E, plans]."""
    return np.take_along_axis(array, np.broadcast_to(index, (*array.shape[:-1], index.shape[-1])), -1)


def _climb(start: np.ndarray, landmarks: np.ndarray, moves: np.ndarray, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Plans [N, T, E] after steepest ascent over single changes and swaps of neighbouring moves, and returns [E]."""
    count, steps, rows = moves.shape
    model = Model(count)
    moves = moves.copy()
    value = model.play(start, moves, landmarks)
    active = np.arange(rows)
    for _ in range(rounds):
        current = moves[:, :, active]
        tried = _neighbours(current)  # [N, T, active, K]
        options = tried.shape[-1]
        returns = model.play(
            np.repeat(start[..., active], options, -1),
            tried.reshape(count, steps, -1),
            np.repeat(landmarks[..., active], options, -1),
        ).reshape(len(active), options)
        better = returns.max(1) > value[active] + 1e-9
        moves[:, :, active] = np.where(better, _take(tried, returns.argmax(1)[:, None])[..., 0], current)
        value[active] = np.maximum(value[active], returns.max(1))
        active = active[better]
        if not len(active):
            break
    return moves, value


def _neighbours(moves: np.ndarray) -> np.ndarray:
    """Plans [N, T, E] to all plans one change or one swap away, [N, T, E, K]. The last move changes nothing."""
    count, steps, _ = moves.shape
    changes = [(n, t, shift) for n in range(count) for t in range(steps - 1) for shift in range(1, 5)]
    swaps = [(n, t) for n in range(count) for t in range(steps - 2)]
    tried = np.repeat(moves[..., None], len(changes) + len(swaps), -1)
    for k, (n, t, shift) in enumerate(changes):
        tried[n, t, :, k] = (moves[n, t] + shift) % 5
    for k, (n, t) in enumerate(swaps, start=len(changes)):
        tried[n, t, :, k], tried[n, t + 1, :, k] = moves[n, t + 1], moves[n, t]
    return tried
