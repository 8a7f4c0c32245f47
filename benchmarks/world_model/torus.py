"""Two agents on a torus of 5 x 5 cells, on which little is linear: stepping over an edge leads to the opposite one."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

SIDE = 5
MOVES = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))


class Torus(ParallelEnv[str, np.ndarray, int]):
    """Both see their own cell and the way to the other, four numbers in [-1, 1], and are paid where they meet.

    Args:
        max_cycles: steps of an episode.
    """

    def __init__(self, max_cycles: int = 25) -> None:
        self.max_cycles, self.possible_agents = max_cycles, ["agent_0", "agent_1"]
        self.agents: list[str] = []
        self.metadata = {"name": "torus", "render_modes": [], "fixed_agents": True}
        self._random = np.random.default_rng(0)
        self._cell = np.zeros((2, 2), dtype=int)  # of both agents
        self._steps = 0

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return spaces.Box(-1.0, 1.0, (4,))

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return spaces.Discrete(len(MOVES))

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        if seed is not None:
            self._random = np.random.default_rng(seed)
        self._cell, self._steps = self._random.integers(SIDE, size=(2, 2)), 0
        self.agents = self.possible_agents[:]
        return self._observations(), {name: {} for name in self.agents}

    def step(self, actions: dict[str, int]) -> tuple[Any, ...]:
        names = self.agents
        self._cell = (self._cell + np.array([MOVES[int(actions[name])] for name in names])) % SIDE
        self._steps += 1
        over, met = self._steps >= self.max_cycles, float((self._cell[0] == self._cell[1]).all())
        self.agents = [] if over else names
        infos: dict[str, dict[str, Any]] = {name: {} for name in names}
        return (
            self._observations(),
            dict.fromkeys(names, met),
            dict.fromkeys(names, False),
            dict.fromkeys(names, over),
            infos,
        )

    def _observations(self) -> dict[str, np.ndarray]:
        half = SIDE // 2
        seen = {}
        for n, name in enumerate(self.possible_agents):
            way = (self._cell[1 - n] - self._cell[n] + half) % SIDE - half  # the shorter one around
            seen[name] = np.concatenate([self._cell[n] - half, way]).astype(np.float32) / half
        return seen


def torus(**options: Any) -> ParallelEnv:
    """`Torus`, for --env benchmarks.world_model.torus:torus."""
    return Torus(**options)
