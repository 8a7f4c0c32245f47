"""What every scripted policy is, and the two that play any environment: random and no-op."""

from __future__ import annotations

import copy
from typing import ClassVar

import numpy as np
import torch

from envs.batched import decode_actions
from envs.continuous import rows_of
from envs.spec import EnvSpec
from envs.streams import Stream
from marl.play.rollout import Actions, Masks, Observations


class Script:
    """A policy written by hand: a deterministic function of the observations since `reset`.

    A subclass defines `decide`, and assigns new arrays to its attributes rather than changing old ones.

    Args:
        spec: the environment's spec.
        seed: of scripts that draw; the others ignore it.
    """

    decentralised: ClassVar[bool] = True  # each agent acts on its own observations only
    assumes: ClassVar[tuple[str, ...]] = ()  # arguments of the task that must have their defaults: what agents see

    def __init__(self, spec: EnvSpec, seed: int = 0) -> None:
        self.spec = spec
        self.t = 0
        self.horizon = spec.horizon or 25

    def reset(self, num_envs: int) -> None:
        """Start of episodes: forget everything."""
        self.t = 0

    def act(self, observations: Observations, masks: Masks | None = None) -> Actions:
        """{agent: int64 [E]} for the agents that the script plays."""
        actions = self.decide(observations)
        self.t += 1
        return actions

    def probabilities(self, observations: Observations, masks: Masks | None = None) -> dict[str, np.ndarray]:
        """{agent: float64 [E, H, K]} one-hots of what `act` would choose now; the script's memory stays."""
        result = {}
        for name, ids in copy.deepcopy(self).act(observations, masks).items():
            agent = self.spec.agents[self.spec.agent_names.index(name)]
            chances = np.zeros((len(ids), self.spec.num_heads, self.spec.head_size))
            for h, head in enumerate(agent.heads):
                chances[np.arange(len(ids)), h, ids % head.size] = 1.0
                ids = ids // head.size
            result[name] = chances
        return result

    def decide(self, observations: Observations) -> Actions:
        raise TypeError(f"{type(self).__name__} must define decide.")

    def layout(self) -> list[int]:
        """Widths of all agents' observations, in order, where what the script `assumes` holds."""
        return [agent.obs_size for agent in self.spec.agents]

    def team(self, prefix: str) -> list[str]:
        """Names of the agents that start with `prefix`, in order."""
        return [name for name in self.spec.agent_names if name.startswith(prefix)]


class Random(Script):
    """Every choice of every head equally likely, forbidden ones never; numbers uniform between their bounds."""

    def __init__(self, spec: EnvSpec, seed: int = 0) -> None:
        super().__init__(spec, seed)
        self._stream = Stream(seed, "scripted/random", [0])

    def act(self, observations: Observations, masks: Masks | None = None) -> Actions:
        allowed = self._allowed(observations, masks)
        draws = self._stream.uniform(*allowed.shape)[0].numpy()
        played = torch.from_numpy(np.where(allowed, draws, -1.0).argmax(-1))
        if self.spec.continuous:
            numbers_NEHK = torch.from_numpy(2 * draws - 1) * self.spec.number_mask[:, None]
            onehots = torch.stack([rows_of(self.spec, n, own) for n, own in enumerate(played)])
            played = onehots + numbers_NEHK.flatten(2)
        decoded = decode_actions(self.spec, played)
        return {name: ids.numpy() for name, ids in decoded.items()}

    def probabilities(self, observations: Observations, masks: Masks | None = None) -> dict[str, np.ndarray]:
        allowed = self._allowed(observations, masks)
        chances = allowed / np.maximum(allowed.sum(-1, keepdims=True), 1)
        return dict(zip(self.spec.agent_names, chances, strict=True))

    def _allowed(self, observations: Observations, masks: Masks | None) -> np.ndarray:
        count = len(next(iter(observations.values())))
        shape = (self.spec.num_agents, count, self.spec.num_heads, self.spec.head_size)
        allowed = np.broadcast_to(self.spec.head_mask.numpy()[:, None], shape)
        return allowed if masks is None else allowed & np.stack([masks[name] for name in self.spec.agent_names])


class NoOp(Script):
    """The first allowed choice of every head and the middle of every number's range, always: in MPE no push, and the
    message 0."""

    def act(self, observations: Observations, masks: Masks | None = None) -> Actions:
        if masks is None:
            count = len(next(iter(observations.values())))
            first_NEH = torch.zeros(self.spec.num_agents, count, self.spec.num_heads, dtype=torch.int64)
        else:
            first_NEH = torch.from_numpy(np.stack([masks[name].argmax(-1) for name in self.spec.agent_names]))
        return {name: ids.numpy() for name, ids in decode_actions(self.spec, first_NEH).items()}
