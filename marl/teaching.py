"""Ease of teaching: how soon fresh agents learn beside frozen ones. A language that is easy to learn is short.

The frozen agents become part of the environment, which is a PettingZoo ParallelEnv of the learners alone: anything that
trains on PettingZoo can learn beside them, this package's command line too.

    python run.py --env marl.teaching:beside --env-args run=RUN learners=listener_0 --total-steps 50000
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pettingzoo import ParallelEnv

from envs.describe import parallel_env
from envs.spec import EnvSpec
from marl.errors import UserError, did_you_mean
from marl.policy import Policy
from marl.rollout import Player


class Beside(ParallelEnv):
    """An environment in which some agents are played by a frozen player; the others learn.

    Args:
        env: the whole environment; its observations are vectors.
        spec: of the whole environment.
        frozen: plays every agent that does not learn.
        learners: the agents of this environment, at least one, not all.

    Raises:
        UserError: an unknown learner, none, or nobody left to be frozen.
    """

    def __init__(self, env: ParallelEnv, spec: EnvSpec, frozen: Player, learners: list[str]) -> None:
        names = list(spec.agent_names)
        for name in learners:
            if name not in names:
                close = did_you_mean(name, names)
                raise UserError(f"learners: {spec.id} has no agent {name!r}.{close} It has {names}.")
        if not learners or len(set(learners)) == len(names):
            raise UserError(f"learners must be some, but not all, of {names}; got {learners}.")
        self.env, self.frozen = env, frozen
        self.possible_agents = [name for name in names if name in learners]
        self.agents: list[str] = []
        self.max_cycles = spec.horizon
        self.metadata = {
            "name": f"beside_{spec.id}",
            "is_parallelizable": True,
            "fixed_agents": spec.fixed_agents,
            "heads": {
                agent.name: [[head.name, head.size] for head in agent.heads]
                for agent in spec.agents
                if agent.name in learners
            },
            "routes": _routes_among(spec, learners),
        }
        self._seen: dict[str, Any] = {}

    @property
    def unwrapped(self) -> ParallelEnv:
        return self

    def observation_space(self, agent: str) -> Any:
        return self.env.observation_space(agent)

    def action_space(self, agent: str) -> Any:
        return self.env.action_space(agent)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        self._seen, infos = self.env.reset(seed=seed, options=options)
        self.frozen.reset(1)
        return self._mine(self._seen), self._mine(infos)

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        batch = {name: np.asarray(obs, dtype=np.float32)[None] for name, obs in self._seen.items()}
        played = self.frozen.act(batch)
        joint = {name: played[name][0].item() for name in self._seen if name not in self.possible_agents}
        self._seen, *results = self.env.step({**joint, **actions})
        observations, rewards, terminated, truncated, infos = (self._mine(part) for part in (self._seen, *results))
        return observations, rewards, terminated, truncated, infos

    def close(self) -> None:
        self.env.close()

    def _mine(self, part: dict[str, Any]) -> dict[str, Any]:
        self.agents = [name for name in self.possible_agents if name in self.env.agents]
        return {name: part[name] for name in self.possible_agents if name in part}


def beside(run: str, learners: str, replica: int = 0) -> Beside:
    """The environment of a run in which all but `learners` are played by the run's trained policy, greedily.

    Args:
        run: run directory.
        learners: names of the agents to train from scratch, separated by commas.
        replica: whose policy is frozen.
    """
    frozen = Policy.load(run, replica=replica, greedy=True)
    env = parallel_env(frozen.env_id, **frozen.env_args)
    return Beside(env, frozen.spec, frozen, [name.strip() for name in str(learners).split(",") if name.strip()])


def _routes_among(spec: EnvSpec, learners: list[str]) -> list[dict[str, Any]]:
    """Message slots between learners; what a frozen agent says is part of the environment."""
    names = spec.agent_names
    return [
        {
            "sender": names[route.sender],
            "head": spec.agents[route.sender].heads[route.head].name,
            "receiver": names[route.receiver],
            "start": route.start,
            "meaning": None if route.meaning is None else list(route.meaning),
            "exact": route.exact,
        }
        for route in spec.routes
        if names[route.sender] in learners and names[route.receiver] in learners
    ]
