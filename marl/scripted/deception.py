"""Scripted policies of simple_adversary and simple_push: a team that knows the goal and one that does not.

Each plays one team. `*Omniscient` and `*Blocker` look at what only the other side is told: they bound what an
adversary can do and are no decentralised policies.
"""

from __future__ import annotations

import itertools
from typing import ClassVar

import numpy as np

from envs.spec import EnvSpec
from marl.play.rollout import Actions, Observations
from marl.scripted.base import Script
from marl.scripted.cooperative import follow, landmarks, pick
from marl.scripted.planning import ACCEL, DT, GLIDE, KEEP, MOVES, coast, distance, length, plan

REACH = 0.3  # of a push, to an agent that knows no velocity; .05 to .4 earn the same within .4


class _Blind(Script):
    """simple_adversary shows nobody its velocity: each agent keeps account of its own pushes."""

    prefix = ""

    def __init__(self, spec: EnvSpec, seed: int = 0) -> None:
        super().__init__(spec, seed)
        self.names = self.team(self.prefix)

    def reset(self, num_envs: int) -> None:
        super().reset(num_envs)
        self.velocity = np.zeros((len(self.names), num_envs, 2))

    def decide(self, observations: Observations) -> Actions:
        offsets = self.offsets(observations)
        moves = np.stack([coast(o, v) for o, v in zip(offsets, self.velocity, strict=True)])
        self.velocity = KEEP * self.velocity + DT * ACCEL * MOVES[moves]
        return dict(zip(self.names, moves, strict=True))

    def offsets(self, observations: Observations) -> list[np.ndarray]:
        """For each agent of the team, target minus position [E, 2]."""
        raise TypeError(f"{type(self).__name__} must define offsets.")


class _Forgetful(_Blind):
    """Each agent pushes towards its target as it sees it now and remembers nothing."""

    def decide(self, observations: Observations) -> Actions:
        rest = np.stack(self.offsets(observations))[..., None, :] - REACH * MOVES
        return dict(zip(self.names, np.square(rest).sum(-1).argmin(-1), strict=True))


# ------------------------------------------------------------------ simple_adversary: those who know the goal
class AdversaryDirect(_Blind):
    """Every good agent goes straight to the goal by the coasting rule."""

    prefix = "agent"

    def offsets(self, observations: Observations) -> list[np.ndarray]:
        return [observations[name][:, 0:2].astype(np.float64) for name in self.names]


class AdversaryPlanned(Script):
    """Every good agent plans its way straight to the goal: the best play for the good agents' own distance."""

    def decide(self, observations: Observations) -> Actions:
        names = self.team("agent")
        if self.t == 0:
            goal = np.concatenate([observations[name][:, 0:2] for name in names]).astype(np.float64)
            start = np.zeros_like(goal)
            self.moves, _ = plan(start, start, distance(goal), goal, self.horizon)
        return dict(zip(names, np.split(follow(self.moves, self.t), len(names)), strict=True))


class _Everything(_Blind):
    """Reads where all landmarks and all others are."""

    assumes: ClassVar[tuple[str, ...]] = ("num_agent_neighbors", "num_landmark_neighbors")

    def layout(self) -> list[int]:
        count = self.spec.num_agents - 1  # of good agents, and of landmarks
        return [4 * count if name.startswith("adversary") else 4 * count + 2 for name in self.spec.agent_names]


class AdversaryCover(_Everything):
    """The good agents divide the landmarks among themselves with the least total distance, so that an observer learns
    nothing from their moves; each computes the same assignment from its own observation."""

    prefix = "agent"

    def offsets(self, observations: Observations) -> list[np.ndarray]:
        count = len(self.names)
        orders = np.array(list(itertools.permutations(range(count))))
        offsets = []
        for n, name in enumerate(self.names):
            obs = observations[name].astype(np.float64)
            places = landmarks(obs, 2, count)
            others = landmarks(obs, 4 + 2 * count, count - 1)  # after the adversary
            agents = np.concatenate([others[:, :n], np.zeros_like(places[:, :1]), others[:, n:]], axis=1)
            apart = length(agents[:, :, None] - places[:, None])
            total = apart[:, np.arange(count), orders].sum(-1)
            offsets.append(pick(places, orders[total.argmin(1), n]))
        return offsets


# ------------------------------------------------------------------ simple_adversary: the one who does not
class AdversaryMidpoint(_Everything):
    """The adversary goes to the mean of the landmarks: the best play that ignores the others."""

    prefix = "adversary"

    def offsets(self, observations: Observations) -> list[np.ndarray]:
        obs = observations[self.names[0]].astype(np.float64)
        return [landmarks(obs, 0, obs.shape[1] // 4).mean(1)]


class AdversaryFollow(_Everything):
    """The adversary goes to the landmark with the least summed distance to the good agents."""

    prefix = "adversary"

    def offsets(self, observations: Observations) -> list[np.ndarray]:
        obs = observations[self.names[0]].astype(np.float64)
        count = obs.shape[1] // 4
        places, others = landmarks(obs, 0, count), landmarks(obs, 2 * count, count)
        return [pick(places, length(places[:, :, None] - others[:, None]).sum(-1).argmin(1))]


class AdversaryOmniscient(_Everything):
    """The adversary goes to the goal, which the script reads from the good agents' observations (the adversary cannot
    see it)."""

    decentralised = False
    prefix = "adversary"

    def offsets(self, observations: Observations) -> list[np.ndarray]:
        good = self.team("agent")[0]
        obs = observations[good].astype(np.float64)
        count = (obs.shape[1] - 2) // 4  # goal, landmarks, adversary, other good agents
        adversary = obs[:, 2 + 2 * count : 4 + 2 * count]
        return [obs[:, 0:2] - adversary]


# ------------------------------------------------------------------ simple_adversary without memory
class ReflexDirect(_Forgetful, AdversaryDirect):
    """`direct` for agents without memory, such as actors with one observation: they do not know their velocity."""


class ReflexCover(_Forgetful, AdversaryCover):
    """`cover` for agents without memory."""


class ReflexMidpoint(_Forgetful, AdversaryMidpoint):
    """`midpoint` for an adversary without memory."""


class ReflexFollow(_Forgetful, AdversaryFollow):
    """`follow` for an adversary without memory."""


# ------------------------------------------------------------------ simple_push
class PushDirect(Script):
    """The agent goes to the goal by the coasting rule, whatever the adversary does."""

    def decide(self, observations: Observations) -> Actions:
        obs = observations["agent_0"].astype(np.float64)
        return {"agent_0": coast(obs[:, 2:4], obs[:, 0:2])}


class PushPlanned(Script):
    """The agent plans its way to the goal as if alone, and replans when it is pushed off course."""

    def reset(self, num_envs: int) -> None:
        super().reset(num_envs)
        self.moves = np.zeros((num_envs, self.horizon), dtype=np.int64)
        self.expected = np.full((num_envs, 2), np.inf)

    def decide(self, observations: Observations) -> Actions:
        obs = observations["agent_0"].astype(np.float64)
        velocity, goal = obs[:, 0:2], obs[:, 2:4]
        if self.t >= self.horizon:
            return {"agent_0": coast(goal, velocity)}
        off = np.flatnonzero(length(velocity - self.expected) > 1e-3)
        moves = self.moves.copy()
        if len(off):
            start = np.zeros_like(goal[off])
            steps = self.horizon - self.t
            moves[off, self.t :], _ = plan(start, velocity[off], distance(goal[off]), goal[off], steps)
        self.moves = moves
        self.expected = KEEP * velocity + DT * ACCEL * MOVES[moves[:, self.t]]
        return {"agent_0": moves[:, self.t]}


class _PushAdversary(Script):
    """Goes by the coasting rule to `target` [E, 2], relative."""

    def decide(self, observations: Observations) -> Actions:
        obs = observations["adversary_0"].astype(np.float64)
        return {"adversary_0": coast(self.target(obs, observations), obs[:, 0:2])}

    def target(self, obs: np.ndarray, observations: Observations) -> np.ndarray:
        raise TypeError(f"{type(self).__name__} must define target.")


class PushBlocker(_PushAdversary):
    """The adversary occupies the goal, which the script reads from the agent's observation (the adversary cannot see
    it)."""

    decentralised = False

    def target(self, obs: np.ndarray, observations: Observations) -> np.ndarray:
        return observations["agent_0"][:, 2:4] + obs[:, 6:8]


class PushMidpoint(_PushAdversary):
    """The adversary goes to the midpoint between the landmarks."""

    def target(self, obs: np.ndarray, observations: Observations) -> np.ndarray:
        return landmarks(obs, 2, 2).mean(1)


class PushFollow(_PushAdversary):
    """The adversary goes to the agent's position."""

    def target(self, obs: np.ndarray, observations: Observations) -> np.ndarray:
        return obs[:, 6:8]


class PushGuess(_PushAdversary):
    """The adversary goes to the landmark nearest to the point where the agent would come to rest if it stopped
    pushing."""

    def reset(self, num_envs: int) -> None:
        super().reset(num_envs)
        self.seen = np.zeros((num_envs, 2))

    def target(self, obs: np.ndarray, observations: Observations) -> np.ndarray:
        places = landmarks(obs, 2, 2)
        absolute = obs[:, 6:8] - places[:, 0]  # the agent as seen from a landmark
        velocity = (absolute - self.seen) / DT if self.t > 0 else np.zeros_like(absolute)
        self.seen = absolute
        rest = obs[:, 6:8] + GLIDE * KEEP * velocity
        return pick(places, length(places - rest[:, None]).argmin(1))
