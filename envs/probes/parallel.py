"""A probe as a PettingZoo ParallelEnv, and an example of one that declares its message slots."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from pettingzoo import ParallelEnv

from envs.probes.env import Probe, make
from envs.spec import AgentSpec


class ProbeParallelEnv(ParallelEnv[str, np.ndarray, Any]):
    """One copy of a probe.

    Its metadata declares heads and routes as `envs.pettingzoo.PettingZooEnv` takes them, so that whoever runs it need
    not.

    Args:
        probe: with num_envs=1; the copy takes it over.
    """

    def __init__(self, probe: Probe) -> None:
        spec = probe.spec
        self._probe = probe
        self.max_cycles = probe.rules.length
        self.possible_agents = list(spec.agent_names)
        self.agents: list[str] = []
        self._spaces = {
            agent.name: (spaces.Box(-1.0, 1.0, (agent.obs_size,)), _action_space(agent)) for agent in spec.agents
        }
        self.metadata = {"name": spec.id.partition(":")[2], "render_modes": [], **spec.declaration()}
        self._boxes = spec.agents[0].box
        self._next = probe.reset(0)  # [N, 1, O] what the next unseeded reset returns

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return self._spaces[agent][0]

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return self._spaces[agent][1]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        if seed is not None:
            self._next = self._probe.reset(seed)
        elif self.agents:  # in the middle of an episode: finish it
            while self.agents:
                self.step({name: np.zeros(1) if self._boxes else 0 for name in self.agents})
        self.agents = self.possible_agents[:]
        return self._observations(self._next), {name: {} for name in self.agents}

    def step(self, actions: dict[str, Any]) -> tuple[Any, ...]:
        joint = {name: np.asarray(actions[name])[None] for name in self.possible_agents}
        step = self._probe.step(self._probe.encode_actions(joint))
        names = self.agents
        self._next = step.obs
        if bool(step.done is not None and step.done[0]):
            self.agents = []
        return (
            self._observations(step.final_obs),
            {name: float(step.reward[n, 0]) for n, name in enumerate(names)},
            {name: bool(step.terminated[n, 0]) for n, name in enumerate(names)},
            {name: bool(step.truncated[n, 0]) for n, name in enumerate(names)},
            {name: {} for name in names},
        )

    def _observations(self, obs: torch.Tensor) -> dict[str, np.ndarray]:
        return {name: own[0].numpy().copy() for name, own in self._probe.split_obs(obs).items()}


def _action_space(agent: AgentSpec) -> spaces.Space[Any]:
    return spaces.Box(-1.0, 1.0, (agent.choices,)) if agent.box else spaces.Discrete(agent.num_actions)


# ------------------------------------------------------------ as PettingZoo environments
def _parallel(name: str, **options: Any) -> ParallelEnv:
    return ProbeParallelEnv(make(name, **options))


def constant_value(**options: Any) -> ParallelEnv:
    """`constant_value_rules` as a ParallelEnv."""
    return _parallel("constant_value", **options)


def value_from_observation(**options: Any) -> ParallelEnv:
    """`value_from_observation_rules` as a ParallelEnv."""
    return _parallel("value_from_observation", **options)


def discounted_value() -> ParallelEnv:
    """`discounted_value_rules` as a ParallelEnv."""
    return _parallel("discounted_value")


def truncated_value() -> ParallelEnv:
    """`truncated_value_rules` as a ParallelEnv."""
    return _parallel("truncated_value")


def choose_action(**options: Any) -> ParallelEnv:
    """`choose_action_rules` as a ParallelEnv."""
    return _parallel("choose_action", **options)


def answer_observation(**options: Any) -> ParallelEnv:
    """`answer_observation_rules` as a ParallelEnv."""
    return _parallel("answer_observation", **options)


def track_observation(**options: Any) -> ParallelEnv:
    """`track_observation_rules` as a ParallelEnv, whose actions are a Box."""
    return _parallel("track_observation", **options)


def matching_game(goals: int = 3, symbols: int = 3) -> ParallelEnv:
    """`matching_game_rules` as a ParallelEnv; it declares its message slot in its metadata."""
    return _parallel("matching_game", goals=goals, symbols=symbols)


def witness_game(bait: float = 0.25) -> ParallelEnv:
    """`witness_game_rules` as a ParallelEnv."""
    return _parallel("witness_game", bait=bait)


def recall(agents: int = 1, length: int = 4) -> ParallelEnv:
    """`recall_rules` as a ParallelEnv."""
    return _parallel("recall", agents=agents, length=length)
