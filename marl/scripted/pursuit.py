"""Scripted predators and prey of simple_tag and simple_world_comm. Each script plays one team.

A predator sees everybody's position and the prey's velocity; prey sees positions only and measures the others'
velocities from one step to the next. In simple_world_comm whoever is hidden by a forest shows as zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from envs.spec import EnvSpec
from marl.play.rollout import Actions, Observations
from marl.scripted.base import Script
from marl.scripted.cooperative import landmarks
from marl.scripted.planning import DT, GLIDE, KEEP, MOVES, length

PREDATOR_ACCEL, PREDATOR_SPEED = 3.0, 1.0
PREY_ACCEL, PREY_SPEED = 4.0, 1.3
RUSH = 0.2  # glide of those who need not come to rest at their target
FOOD_REACH = 0.075  # prey of radius 0.045 on food of radius 0.03


@dataclass(frozen=True)
class Arena:
    """Where things stand in the observations and what they are worth to the prey."""

    obstacles: int  # landmarks that block, first in the observation
    food: int  # landmarks after them that feed
    forests: int  # landmarks after those that hide
    reach: float  # distance at which a predator touches a prey
    touch: float  # reward of the prey for a touch
    wall: float  # weight of leaving the arena

    @property
    def landmarks(self) -> int:
        return self.obstacles + self.food + self.forests


TAG = Arena(obstacles=2, food=0, forests=0, reach=0.125, touch=-10.0, wall=1.0)
WORLD = Arena(obstacles=1, food=2, forests=2, reach=0.12, touch=-5.0, wall=2.0)


def arena_of(spec: EnvSpec) -> Arena:
    return WORLD if spec.id.startswith("simple_world_comm") else TAG


def aim(offset: np.ndarray, velocity: np.ndarray, accel: float, glide: float) -> np.ndarray:
    """The move after which `glide` times the velocity leads nearest to the target; GLIDE rests there, less overshoots.

    Args:
        offset: [..., 2] target minus position.
        velocity: [..., 2].
        accel: of the agent.
        glide: distance ahead per unit of velocity.
    """
    ahead = (offset - glide * velocity)[..., None, :] - glide * DT * accel * MOVES
    return np.square(ahead).sum(-1).argmin(-1)


def capped(velocity: np.ndarray, most: float) -> np.ndarray:
    """Velocities [..., 2] scaled down to the speed limit."""
    return velocity * np.minimum(1.0, most / np.maximum(length(velocity), 1e-9))[..., None]


class _Seen(Script):
    """Reads the observations of one team and remembers where everybody was seen last."""

    prefixes: tuple[str, ...] = ()
    assumes: ClassVar[tuple[str, ...]] = (
        "num_obstacles",
        "num_food",
        "num_forests",
        "num_agent_neighbors",
        "num_landmark_neighbors",
    )

    def __init__(self, spec: EnvSpec, seed: int = 0) -> None:
        super().__init__(spec, seed)
        self.arena = arena_of(spec)
        self.names = [name for name in spec.agent_names if name.startswith(self.prefixes)]
        self.predators = [n for n, name in enumerate(spec.agent_names) if "adversary" in name]
        self.prey = [n for n, name in enumerate(spec.agent_names) if "adversary" not in name]

    def layout(self) -> list[int]:
        arena, message = self.arena, 4 if self.arena is WORLD else 0
        seen = 4 + 2 * arena.landmarks + 2 * (self.spec.num_agents - 1) + arena.forests
        prey = len(self.prey)  # whose velocities all see; only predators hear the leader
        return [
            seen + (2 * prey + message if n in self.predators else 2 * prey - 2) for n in range(self.spec.num_agents)
        ]

    def reset(self, num_envs: int) -> None:
        super().reset(num_envs)
        self.last = {name: np.zeros((num_envs, self.spec.num_agents, 2)) for name in self.names}
        self.drift = {name: np.zeros((num_envs, self.spec.num_agents, 2)) for name in self.names}

    def look(self, name: str, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions [E, N, 2] of all agents, their velocities of the step before, and hidden bool [E, N], as agent
        `name` knows them; the hidden are thought to glide on from where they were last seen."""
        index = self.spec.agent_names.index(name)
        start = 4 + 2 * self.arena.landmarks
        relative = landmarks(obs, start, self.spec.num_agents - 1)
        position = obs[:, None, 2:4] + relative
        unseen = (relative == 0).all(-1, keepdims=True)
        others = [n for n in range(self.spec.num_agents) if n != index]
        before, drift = self.last[name][:, others], self.drift[name][:, others]
        moved = (position - before) / DT if self.t > 0 else np.zeros_like(position)
        drift = np.where(unseen, KEEP * drift, moved)
        position = np.where(unseen, before + DT * drift, position)
        everyone = np.zeros((len(obs), self.spec.num_agents, 2))
        velocity = np.zeros_like(everyone)
        everyone[:, others], velocity[:, others] = position, drift
        everyone[:, index], velocity[:, index] = obs[:, 2:4], obs[:, 0:2]
        self.last = {**self.last, name: everyone}
        self.drift = {**self.drift, name: velocity}
        hidden = np.zeros(everyone.shape[:2], dtype=bool)
        hidden[:, others] = unseen[..., 0]
        return everyone, velocity, hidden


# ------------------------------------------------------------------ predators
class Chase(_Seen):
    """Every predator runs to a point a little ahead of the nearest prey that it sees, or to where it last saw one if it
    sees none."""

    prefixes = ("adversary", "leadadversary")
    lead = 0.2  # seconds of the prey's motion
    spread = 0.0  # radius of the ring around the prey from which the predators close in
    doubt = 1.0  # distance added to a prey that is hidden

    def decide(self, observations: Observations) -> Actions:
        actions = {}
        for k, name in enumerate(self.names):
            obs = observations[name].astype(np.float64)
            position, velocity, hidden = self.known(name, observations)
            prey = position[:, self.prey] + self.lead * velocity[:, self.prey]
            offset = prey - obs[:, None, 2:4]
            nearest = (length(offset) + self.doubt * hidden[:, self.prey]).argmin(1)
            target = offset[np.arange(len(obs)), nearest]
            angle = 2 * np.pi * k / len(self.names)
            ring = self.spread * np.minimum(1.0, length(target))[:, None]
            target = target + ring * np.array([np.cos(angle), np.sin(angle)])
            actions[name] = aim(target, obs[:, 0:2], PREDATOR_ACCEL, RUSH)
        return actions

    def known(self, name: str, observations: Observations) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.look(name, observations[name].astype(np.float64))


class Surround(Chase):
    """The predators close in on the nearest prey from different sides."""

    spread = 0.5


class Hunt(Chase):
    """Every predator runs to a point ahead of the nearest prey; all know what the leader sees, whose view no forest
    blocks (its four symbols could not convey it)."""

    decentralised = False
    lead = 0.5

    def known(self, name: str, observations: Observations) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if name == self.names[0]:
            self.shared = self.look(name, observations[name].astype(np.float64))
        return self.shared


# ------------------------------------------------------------------ prey
class Flee(_Seen):
    """Each prey simulates a few steps of repeating each move and of running to each food, with all predators running at
    it, and takes the first move of the best of these."""

    prefixes = ("agent",)
    depth = 8

    def decide(self, observations: Observations) -> Actions:
        return {name: self._choose(name, observations[name].astype(np.float64)) for name in self.names}

    def _choose(self, name: str, obs: np.ndarray) -> np.ndarray:
        position, velocity, _ = self.look(name, obs)
        arena = self.arena
        food = obs[:, None, 2:4] + landmarks(obs, 4 + 2 * arena.obstacles, arena.food)
        blocks = obs[:, None, 2:4] + landmarks(obs, 4, arena.obstacles)
        wishes = arena.food
        plans = len(MOVES) + wishes
        own = np.repeat(obs[:, None, 2:4], plans, 1)  # [E, plans, 2]
        speed = np.repeat(obs[:, None, 0:2], plans, 1)
        hunters = np.repeat(position[:, None, self.predators], plans, 1)  # [E, plans, P, 2]
        pace = capped(np.repeat(velocity[:, None, self.predators], plans, 1) * KEEP, PREDATOR_SPEED)
        value = np.zeros(own.shape[:2])
        first = np.zeros(own.shape[:2], dtype=np.int64)
        for k in range(self.depth):
            moves = np.broadcast_to(np.arange(len(MOVES)), (len(obs), len(MOVES)))
            if wishes:
                eager = aim(food - own[:, len(MOVES) :], speed[:, len(MOVES) :], PREY_ACCEL, GLIDE)
                moves = np.concatenate([moves, eager], axis=1)
            first = moves if k == 0 else first
            toward = own[:, :, None] - hunters
            chase = aim(toward, pace, PREDATOR_ACCEL, RUSH)
            own = own + DT * speed
            speed = capped(KEEP * speed + DT * PREY_ACCEL * MOVES[moves], PREY_SPEED)
            hunters = hunters + DT * pace
            pace = capped(KEEP * pace + DT * PREDATOR_ACCEL * MOVES[chase], PREDATOR_SPEED)
            value += self._worth(own, hunters, blocks, food)
        return first[np.arange(len(obs)), value.argmax(1)]

    def _worth(self, own: np.ndarray, hunters: np.ndarray, blocks: np.ndarray, food: np.ndarray) -> np.ndarray:
        """What the imagined positions [E, plans, 2] are worth: touches, walls, obstacles, food."""
        arena = self.arena
        apart = length(own[:, :, None] - hunters)
        worth = arena.touch / (1 + np.exp((apart - arena.reach - 0.05) / 0.03)).clip(max=1e9)
        value = worth.sum(-1)
        value -= 0.5 * np.exp(-2.0 * apart.min(-1))
        out = np.abs(own)
        wall = np.where(out < 0.9, 0.0, np.where(out < 1.0, 10 * (out - 0.9), np.exp(2 * out - 2).clip(max=10)))
        value -= arena.wall * wall.sum(-1)
        inside = np.maximum(0.0, 0.25 - length(own[:, :, None] - blocks[:, None]))
        value -= 10 * inside.sum(-1)
        if arena.food:
            away = length(own[:, :, None] - food[:, None])
            value += 2.0 * (away < FOOD_REACH).sum(-1) - 0.5 * away.min(-1)
        return value


class Feed(_Seen):
    """Each prey runs to the nearest food and stays there, even when predators come."""

    prefixes = ("agent",)
    assumes = ("num_obstacles", "num_food")

    def decide(self, observations: Observations) -> Actions:
        actions = {}
        for name in self.names:
            obs = observations[name].astype(np.float64)
            food = landmarks(obs, 4 + 2 * self.arena.obstacles, self.arena.food)
            nearest = food[np.arange(len(obs)), length(food).argmin(1)]
            actions[name] = aim(nearest, obs[:, 0:2], PREY_ACCEL, GLIDE)
        return actions
