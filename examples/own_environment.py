"""An environment of your own: messages, action masks, and agents that leave before the others.

    python -m envs.check examples.own_environment:make
    python run.py --env examples.own_environment:make --total-steps 20000
    python -m marl.communication runs/...

A caller sees which of three doors is the right one and says one of three symbols at every step. Two walkers stand in a
corridor of five cells, see their own cell and hear what the caller said one step before. The doors are at cells 0, 2
and 4. A walker that stands at the right door leaves the game; the caller stays until both have left or time is up.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

CELLS, SYMBOLS, LENGTH = 5, 3, 12
DOORS = (0, 2, 4)
LEFT, STAY, RIGHT = range(3)
CALLER, WALKERS = "caller", ("walker_0", "walker_1")


class Corridor(ParallelEnv[str, np.ndarray, int]):
    """One caller, two walkers.

    Observations: the caller's is the right door as a one-hot [3]; a walker's is its cell as a one-hot [5] and, from
    entry 5 on, the symbol that it hears as a one-hot [3] (zeros right after a reset).

    Rewards: a walker gets 1 when it leaves and -0.1 for every other step, the caller the mean over both walkers
    (0 for one that has left before).
    """

    # What PettingZoo has no words for stands in the metadata. `heads`: this action is a message. `routes`: who hears
    # it, and from which entry of the observation on; the first three entries of the caller's observation are what
    # there is to tell. Training tries whether this is true before it starts.
    metadata: ClassVar[dict[str, Any]] = {
        "name": "corridor_v0",
        "render_modes": [],
        "heads": {CALLER: [["message", SYMBOLS]]},
        "routes": [
            {"sender": CALLER, "head": "message", "receiver": walker, "start": CELLS, "meaning": [0, len(DOORS)]}
            for walker in WALKERS
        ],
    }

    def __init__(self) -> None:
        self.possible_agents = [CALLER, *WALKERS]
        self.agents: list[str] = []
        self._views = {  # made once: PettingZoo promises the same objects at every call
            agent: spaces.Box(0.0, 1.0, (len(DOORS) if agent == CALLER else CELLS + SYMBOLS,), np.float32)
            for agent in self.possible_agents
        }
        self._choices = {agent: spaces.Discrete(SYMBOLS if agent == CALLER else 3) for agent in self.possible_agents}
        self._random = np.random.default_rng()

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return self._views[agent]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return self._choices[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        """Everything that an episode holds is drawn from `seed`, so that a run can be repeated and resumed."""
        if seed is not None:
            self._random = np.random.default_rng(seed)
        self.agents = list(self.possible_agents)
        self._time = 0
        self._door = int(self._random.integers(len(DOORS)))
        self._cell = {walker: int(self._random.integers(CELLS)) for walker in WALKERS}
        self._heard = np.zeros(SYMBOLS, np.float32)
        return self._observations(), self._infos()

    def step(self, actions: dict[str, int]) -> tuple[dict, dict, dict, dict, dict]:
        acting = list(self.agents)
        self._time += 1
        rewards, arrived = dict.fromkeys(acting, 0.0), dict.fromkeys(acting, False)
        for walker in acting[1:]:
            self._cell[walker] += (-1, 0, 1)[int(actions[walker])]
            arrived[walker] = self._cell[walker] == DOORS[self._door]
            rewards[walker] = 1.0 if arrived[walker] else -0.1
        rewards[CALLER] = sum(rewards[walker] for walker in acting[1:]) / len(WALKERS)
        self._heard = np.eye(SYMBOLS, dtype=np.float32)[int(actions[CALLER])]

        arrived[CALLER] = all(arrived[walker] for walker in acting[1:])  # nobody is left to be told
        late = self._time >= LENGTH
        truncated = {agent: late and not arrived[agent] for agent in acting}
        observations, infos = self._observations(), self._infos()  # of all that acted, those that leave included
        self.agents = [agent for agent in acting if not arrived[agent] and not truncated[agent]]
        return observations, rewards, arrived, truncated, infos

    def _observations(self) -> dict[str, np.ndarray]:
        cells = np.eye(CELLS, dtype=np.float32)
        seen = {walker: np.concatenate([cells[self._cell[walker]], self._heard]) for walker in self.agents[1:]}
        return {CALLER: np.eye(len(DOORS), dtype=np.float32)[self._door], **seen}

    def _infos(self) -> dict[str, dict[str, Any]]:
        """Action masks: one entry a choice, 1 where it is allowed. Nobody walks through the ends of the corridor."""
        infos: dict[str, dict[str, Any]] = {CALLER: {"action_mask": np.ones(SYMBOLS, np.int8)}}
        for walker in self.agents[1:]:
            mask = np.ones(3, np.int8)
            mask[LEFT] = self._cell[walker] > 0
            mask[RIGHT] = self._cell[walker] < CELLS - 1
            infos[walker] = {"action_mask": mask}
        return infos


def make() -> Corridor:
    """What `--env examples.own_environment:make` calls."""
    return Corridor()
