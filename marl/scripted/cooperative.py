"""Scripted policies of the cooperative tasks in which agents do not touch, and of simple_crypto.

Each plays all agents of its task, every agent on its own observations. `*Coast` follows the coasting rule, `*Oracle`
a plan over the whole episode, `*Silent` the best plan that uses no message.
"""

from __future__ import annotations

import numpy as np

from marl.play.rollout import Actions, Observations
from marl.scripted.base import Script
from marl.scripted.planning import (
    DT,
    MOVES,
    coast,
    distance,
    mean_distance,
    plan,
    squared_distance,
)

NUM_MOVES = 5
WIDTH = 32  # beam of a plan; four times as many gain less than 0.1 %
WIDTH_FIRST = 8  # beam of the comparison of first moves


def landmarks(observation: np.ndarray, start: int, count: int) -> np.ndarray:
    """float64 [E, count, 2] positions relative to the agent, from entry `start` on."""
    return observation[:, start : start + 2 * count].reshape(len(observation), count, 2).astype(np.float64)


def pick(points: np.ndarray, index: np.ndarray) -> np.ndarray:
    """points [E, K, 2], index [E] to [E, 2]."""
    return points[np.arange(len(points)), index]


def follow(moves: np.ndarray, t: int) -> np.ndarray:
    """Move t of a plan [R, steps]; none where the plan is over."""
    return moves[:, t] if t < moves.shape[1] else np.zeros(len(moves), dtype=np.int64)


def first_move(targets: np.ndarray, steps: int, squared: bool) -> np.ndarray:
    """The best first move of an agent at rest at the origin that will know its target one step later.

    Args:
        targets: [E, K, 2] equally likely.
        steps: positions that count, from the next on.
        squared: whether the squared distance counts, or the distance.

    Returns:
        int64 [E].
    """
    count, options = targets.shape[:2]
    goal = np.tile(targets[:, None], (1, NUM_MOVES, 1, 1)).reshape(-1, 2)  # [E * 5 * K, 2]
    velocity = np.repeat(np.tile(MOVES, (count, 1)), options, axis=0) * DT * 5.0
    cost = squared_distance(goal) if squared else distance(goal)
    _, total = plan(np.zeros_like(goal), velocity, cost, goal, steps - 1, WIDTH_FIRST)
    return total.reshape(count, NUM_MOVES, options).mean(-1).argmin(-1)


def geometric_median(points: np.ndarray, rounds: int = 50) -> np.ndarray:
    """[E, K, 2] to the points [E, 2] with the least mean distance, by Weiszfeld's iteration."""
    centre = points.mean(1)
    for _ in range(rounds):
        weight = 1 / np.maximum(np.sqrt(np.square(points - centre[:, None]).sum(-1)), 1e-9)
        centre = (points * weight[..., None]).sum(1) / weight.sum(1)[:, None]
    return centre


# ------------------------------------------------------------------ simple
class SimpleCoast(Script):
    """The coasting rule to the landmark."""

    def decide(self, observations: Observations) -> Actions:
        obs = observations["agent_0"].astype(np.float64)
        return {"agent_0": coast(obs[:, 2:4], obs[:, 0:2])}


class SimpleOracle(Script):
    """A plan over the whole episode, made at the first observation."""

    def decide(self, observations: Observations) -> Actions:
        if self.t == 0:
            goal = observations["agent_0"][:, 2:4].astype(np.float64)
            self.moves, _ = plan(np.zeros_like(goal), np.zeros_like(goal), squared_distance(goal), goal, self.horizon)
        return {"agent_0": follow(self.moves, self.t)}


# ------------------------------------------------------------------ simple_speaker_listener
class SpeakerCoast(Script):
    """The speaker sends the goal's index; the listener follows the coasting rule, first to the mean of the three
    landmarks, then to the landmark that the message names."""

    def decide(self, observations: Observations) -> Actions:
        obs = observations["listener_0"].astype(np.float64)
        points = landmarks(obs, 2, 3)
        goal = pick(points, obs[:, 8:11].argmax(1)) if self.t > 0 else points.mean(1)
        return {"speaker_0": observations["speaker_0"].argmax(1), "listener_0": coast(goal, obs[:, 0:2])}


class SpeakerOracle(Script):
    """The speaker sends the goal's index; the listener starts with the push that is best on average over the three
    goals and, once it has heard the message, follows a plan for the rest of the episode."""

    def decide(self, observations: Observations) -> Actions:
        obs = observations["listener_0"].astype(np.float64)
        if self.t == 0:
            move = first_move(landmarks(obs, 2, 3), self.horizon, squared=True)
        else:
            if self.t == 1:
                goal = pick(landmarks(obs, 2, 3), obs[:, 8:11].argmax(1))
                start = np.zeros_like(goal)
                self.moves, _ = plan(start, obs[:, 0:2], squared_distance(goal), goal, self.horizon - 1, WIDTH)
            move = follow(self.moves, self.t - 1)
        return {"speaker_0": observations["speaker_0"].argmax(1), "listener_0": move}


class SpeakerSilent(Script):
    """Without messages: the listener plans to wait at the mean of the three landmarks, the point with the least
    expected squared distance to a random one of them; the speaker always sends 0."""

    def decide(self, observations: Observations) -> Actions:
        if self.t == 0:
            centre = landmarks(observations["listener_0"], 2, 3).mean(1)
            start = np.zeros_like(centre)
            self.moves, _ = plan(start, start, squared_distance(centre), centre, self.horizon, WIDTH)
        move = follow(self.moves, self.t)
        return {"speaker_0": np.zeros_like(move), "listener_0": move}


# ------------------------------------------------------------------ simple_reference
class _Reference(Script):
    """Both agents alike: says the other's target, moves by `move`."""

    def decide(self, observations: Observations) -> Actions:
        names = self.spec.agent_names
        obs = np.concatenate([observations[name] for name in names]).astype(np.float64)  # [2 * E, 21]
        ids = self.move(obs) + NUM_MOVES * self.message(obs)
        return dict(zip(names, np.split(ids, len(names)), strict=True))

    def message(self, obs: np.ndarray) -> np.ndarray:
        return obs[:, 8:11].argmax(1)

    def move(self, obs: np.ndarray) -> np.ndarray:
        raise TypeError(f"{type(self).__name__} must define move.")


class ReferenceCoast(_Reference):
    """Each agent sends the index of the other's target and follows the coasting rule, first to the mean of the three
    landmarks, then to the landmark that the message names."""

    def move(self, obs: np.ndarray) -> np.ndarray:
        points = landmarks(obs, 2, 3)
        return coast(pick(points, obs[:, 11:14].argmax(1)) if self.t > 0 else points.mean(1), obs[:, 0:2])


class ReferenceOracle(_Reference):
    """Each agent sends the index of the other's target, starts with the push that is best on average over the three
    landmarks and, once it has heard the message, follows a plan for the rest of the episode."""

    def move(self, obs: np.ndarray) -> np.ndarray:
        points = landmarks(obs, 2, 3)
        if self.t == 0:
            return first_move(points, self.horizon, squared=False)
        if self.t == 1:
            goal = pick(points, obs[:, 11:14].argmax(1))
            self.moves, _ = plan(np.zeros_like(goal), obs[:, 0:2], distance(goal), goal, self.horizon - 1, 2 * WIDTH)
        return follow(self.moves, self.t - 1)


class ReferenceSilent(_Reference):
    """Without messages: each agent plans for the mean distance to the three landmarks; both always send 0."""

    def message(self, obs: np.ndarray) -> np.ndarray:
        return np.zeros(len(obs), dtype=np.int64)

    def move(self, obs: np.ndarray) -> np.ndarray:
        if self.t == 0:
            points = landmarks(obs, 2, 3)
            centre = geometric_median(points)
            start = np.zeros_like(centre)
            self.moves, _ = plan(start, start, mean_distance(points), centre, self.horizon, WIDTH)
        return follow(self.moves, self.t)


# ------------------------------------------------------------------ simple_line, simple_formation
class _Slots(Script):
    """Agent i goes to slot i, whatever the others do: it cannot see them."""

    def slots(self, obs: np.ndarray, index: int, count: int) -> np.ndarray:
        """[E, 2] relative to the agent."""
        raise TypeError(f"{type(self).__name__} must define slots.")

    def _offsets(self, observations: Observations) -> tuple[np.ndarray, np.ndarray]:
        """Slot minus position, and velocity, of all agents one after another [N * E, 2]."""
        obs = [observations[name].astype(np.float64) for name in self.spec.agent_names]
        offset = np.concatenate([self.slots(own, i, len(obs)) for i, own in enumerate(obs)])
        return offset, np.concatenate([own[:, 0:2] for own in obs])

    def _split(self, moves: np.ndarray) -> Actions:
        return dict(zip(self.spec.agent_names, np.split(moves, self.spec.num_agents), strict=True))


class _SlotsCoast(_Slots):
    def decide(self, observations: Observations) -> Actions:
        return self._split(coast(*self._offsets(observations)))


class _SlotsOracle(_Slots):
    def decide(self, observations: Observations) -> Actions:
        if self.t == 0:
            goal, velocity = self._offsets(observations)
            self.moves, _ = plan(np.zeros_like(goal), velocity, distance(goal), goal, self.horizon, 2 * WIDTH)
        return self._split(follow(self.moves, self.t))


class _LineSlots(_Slots):
    def slots(self, obs: np.ndarray, index: int, count: int) -> np.ndarray:
        first, last = obs[:, 4:6], obs[:, 6:8]
        return first + (last - first) * index / max(count - 1, 1)


class _CircleSlots(_Slots):
    """The first slot stands at the smallest agent angle: with agents at odd eighths of the circle slots and agents
    meet, and no agent is near the angle where 2 pi turns to 0."""

    def slots(self, obs: np.ndarray, index: int, count: int) -> np.ndarray:
        angle = 2 * np.pi * (index + 0.5) / count
        return obs[:, 4:6] + 0.5 * np.array([np.cos(angle), np.sin(angle)])


class LineCoast(_LineSlots, _SlotsCoast):
    """Agent i follows the coasting rule to slot i of the line."""


class LineOracle(_LineSlots, _SlotsOracle):
    """Agent i plans its way to slot i of the line."""


class FormationCoast(_CircleSlots, _SlotsCoast):
    """Agent i follows the coasting rule to the i-th odd eighth of the circle."""


class FormationOracle(_CircleSlots, _SlotsOracle):
    """Agent i plans its way to the i-th odd eighth of the circle."""


# ------------------------------------------------------------------ simple_crypto
class _Crypto(Script):
    """Bob and Eve can answer what Alice said one step before; at the first step they guess 0."""

    def decide(self, observations: Observations) -> Actions:
        alice, bob, eve = (observations[name] for name in ("alice_0", "bob_0", "eve_0"))
        secret = self.cipher(alice[:, 0:4].argmax(1), alice[:, 4:8].argmax(1))
        plain = self.cipher(bob[:, 4:8].argmax(1), bob[:, 0:4].argmax(1))
        return {"eve_0": eve.argmax(1), "bob_0": plain * (self.t > 0), "alice_0": secret}

    def cipher(self, text: np.ndarray, key: np.ndarray) -> np.ndarray:
        raise TypeError(f"{type(self).__name__} must define cipher.")


class CryptoXor(_Crypto):
    """Alice sends goal xor key, Bob decodes it with the key, Eve repeats what Alice sent, half of which is wrong."""

    def cipher(self, text: np.ndarray, key: np.ndarray) -> np.ndarray:
        return text ^ key


class CryptoPlain(_Crypto):
    """Alice sends the goal in plain text, Bob and Eve repeat it."""

    def cipher(self, text: np.ndarray, key: np.ndarray) -> np.ndarray:
        return text
