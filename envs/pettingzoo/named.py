"""Agents whose ids are numbers: strings inside, as PettingZoo says, and the environment's own ids outside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv


def named(env: ParallelEnv) -> ParallelEnv:
    """The environment itself where its agents' ids are strings, else one whose ids are "0", "1", ... for 0, 1, ..."""
    ids = getattr(env, "possible_agents", None)
    if not isinstance(ids, list | tuple) or all(isinstance(one, str) for one in ids):
        return env
    whole = all(isinstance(one, int | np.integer) and not isinstance(one, bool) for one in ids)
    return Named(env) if whole and len(set(ids)) == len(ids) else env  # others are refused by whoever reads them


class Named(ParallelEnv):
    """A ParallelEnv whose agents are called by the strings of their ids.

    Attributes:
        agent_ids: {name: the environment's own id}.
    """

    def __init__(self, env: ParallelEnv) -> None:
        self.env = env
        self.agent_ids: dict[str, Any] = {str(one): one for one in env.possible_agents}
        self._names = {one: name for name, one in self.agent_ids.items()}
        self.possible_agents = list(self.agent_ids)
        self.metadata = _declared(getattr(env, "metadata", None) or {}, self._names)

    @property
    def agents(self) -> Any:
        given = getattr(self.env, "agents", None)
        return [self._name(one) for one in given] if isinstance(given, list | tuple) else given

    @property
    def render_mode(self) -> Any:
        return getattr(self.env, "render_mode", None)

    @property
    def unwrapped(self) -> ParallelEnv:
        return self.env.unwrapped

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        space: spaces.Space[Any] = self.env.observation_space(self.agent_ids[agent])
        return space

    def action_space(self, agent: str) -> spaces.Space[Any]:
        space: spaces.Space[Any] = self.env.action_space(self.agent_ids[agent])
        return space

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return self._named(self.env.reset(seed=seed) if options is None else self.env.reset(seed=seed, options=options))

    def step(self, actions: dict[str, Any]) -> Any:
        return self._named(self.env.step({self.agent_ids[name]: action for name, action in actions.items()}))

    def render(self) -> Any:
        return self.env.render()

    def close(self) -> None:
        self.env.close()

    def _name(self, given: Any) -> Any:
        return self._names.get(given, given)

    def _named(self, result: Any) -> Any:
        """A tuple of dictionaries over agents; anything else is left to those who check it."""
        if isinstance(result, tuple):
            return tuple(renamed(one, self._names) for one in result)
        return renamed(result, self._names)


def renamed(values: Any, names: Mapping[Any, Any]) -> Any:
    """A dictionary with its keys called by `names`, where these know them; anything else as it is."""
    if not names or type(values) is not dict:
        return values
    return {names.get(key, key): value for key, value in values.items()}


def _declared(metadata: Mapping[str, Any], names: Mapping[Any, str]) -> dict[str, Any]:
    """What the metadata says of heads, routes and teams, by name."""
    changed = dict(metadata)
    if "heads" in changed:
        changed["heads"] = renamed(changed["heads"], names)
    if isinstance(changed.get("teams"), list | tuple):
        changed["teams"] = [
            [names.get(one, one) for one in team] if isinstance(team, list | tuple) else team
            for team in changed["teams"]
        ]
    if isinstance(changed.get("routes"), list | tuple):
        changed["routes"] = [
            {key: names.get(value, value) if key in ("sender", "receiver") else value for key, value in route.items()}
            if isinstance(route, Mapping)
            else route
            for route in changed["routes"]
        ]
    return changed
