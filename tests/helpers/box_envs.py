"""Environments whose actions are a Box: numbers alone, and numbers with a message beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv


class Talkers(ParallelEnv):
    """Two agents see a place in [-1, 1] each; a Box(4) holds how far one goes, in [-2, 3], and one of three symbols.

    Everybody is paid minus the squared distance between how far it went and twice what it sees, and hears the other.
    """

    metadata = {  # noqa: RUF012
        "name": "talkers_v0",
        "render_modes": [],
        "fixed_agents": True,
        "heads": {name: [["go", 1], ["message", 3]] for name in ("a", "b")},
        "routes": [
            {"sender": "a", "head": "message", "receiver": "b", "start": 1},
            {"sender": "b", "head": "message", "receiver": "a", "start": 1},
        ],
    }
    render_mode = None
    length = 4

    def __init__(self) -> None:
        self.possible_agents = ["a", "b"]
        self.agents: list[str] = []
        low, high = np.float32([-2, 0, 0, 0]), np.float32([3, 1, 1, 1])
        self.spaces = {name: spaces.Box(low, high) for name in self.possible_agents}
        self.seen = {name: spaces.Box(-1, 1, (4,)) for name in self.possible_agents}

    def observation_space(self, agent: str) -> spaces.Space:
        return self.seen[agent]

    def action_space(self, agent: str) -> spaces.Space:
        return self.spaces[agent]

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.agents, self.t, self.said = list(self.possible_agents), 0, np.zeros((2, 3))
        self.place = self.rng.uniform(-1, 1, 2)
        return self._seen(), {name: {} for name in self.agents}

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        for name, action in actions.items():
            assert self.spaces[name].contains(action), action
        joint = np.stack([actions[name] for name in self.possible_agents])
        paid = -((joint[:, 0] - 2 * self.place) ** 2)
        self.t, self.said, self.place = self.t + 1, joint[:, 1:], self.rng.uniform(-1, 1, 2)
        acting, over = self.agents, self.t >= self.length
        self.agents = [] if over else acting
        return (
            self._seen(),
            dict(zip(acting, paid.tolist(), strict=True)),
            dict.fromkeys(acting, False),
            dict.fromkeys(acting, over),
            {name: {} for name in acting},
        )

    def _seen(self) -> dict[str, np.ndarray]:
        return {
            name: np.concatenate([self.place[n : n + 1], self.said[1 - n]]).astype(np.float32)
            for n, name in enumerate(self.possible_agents)
        }
