"""Try whether declared message slots are what the environment does."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from envs.errors import UserError
from envs.pettingzoo.reader import Reader
from envs.pettingzoo.values import COMMON
from envs.spec import AgentSpec, EnvSpec, Route

_STEPS = 8


def random_action(space: spaces.Space[Any], mask: Any, rng: np.random.Generator) -> Any:
    """A uniform action of a Discrete, MultiDiscrete or Box space that the action mask (None: all) allows."""
    if isinstance(space, spaces.Box) and space.is_bounded():
        return rng.uniform(space.low, space.high).astype(space.dtype)
    if isinstance(space, spaces.Discrete):
        allowed = np.arange(int(space.n)) if mask is None else np.flatnonzero(mask)
        return int(space.start) + int(rng.choice(allowed if len(allowed) else [0]))
    if isinstance(space, spaces.MultiDiscrete):
        action, start = np.zeros(space.shape, space.dtype), 0
        for h, size in enumerate(space.nvec):
            allowed = np.arange(size) if mask is None else np.flatnonzero(np.asarray(mask)[start : start + size])
            action[h] = space.start[h] + rng.choice(allowed if len(allowed) else [0])
            start += int(size)
        return action
    return space.sample()


def check_routes(spec: EnvSpec, env: ParallelEnv) -> None:
    """Play some random steps and compare every exact route's slot with what its sender chose.

    Raises:
        UserError: a slot does not hold the sender's last message, or not zeros after the reset.
    """
    routes = [route for route in spec.routes if route.exact]
    if not routes:
        return
    rng = np.random.default_rng(0)
    names = spec.agent_names
    reader = Reader.of(spec, env)

    def read(observations: dict[str, Any], infos: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        rows, masks = {}, {}
        for name, observation in observations.items():
            if name not in COMMON:
                n = reader.index[name]
                rows[name] = np.zeros(spec.agents[n].obs_size)
                masks[name] = reader.write(n, observation, infos, rows[name])
        return rows, masks

    observations, masks = read(*env.reset(seed=0))
    for route in routes:
        if names[route.receiver] in observations:
            _compare(spec, route, observations, None)
    for _ in range(_STEPS):
        actions = {
            name: valid(spec.agents[reader.index[name]], random_action(env.action_space(name), masks.get(name), rng))
            for name in env.agents
        }
        if not actions:
            return
        played = {name: np.array(action) for name, action in actions.items()}  # the environment may change its own
        told, _, _, _, infos = env.step(actions)
        observations, masks = read(told, infos)
        for route in routes:
            if names[route.sender] in played and names[route.receiver] in observations:
                _compare(spec, route, observations, played[names[route.sender]])


def valid(agent: AgentSpec, action: Any) -> Any:
    """An action with a one-hot, that of its largest entry, in the place of every message of a Box."""
    if not agent.box:
        return action
    action, start = action.copy(), 0
    for head in agent.heads:
        part = action[start : start + head.size]
        start += head.size
        if not head.continuous:
            part[:] = np.arange(head.size) == part.argmax()
    return action


def _compare(spec: EnvSpec, route: Route, observations: dict[str, np.ndarray], action: np.ndarray | None) -> None:
    agent = spec.agents[route.sender]
    expected = np.zeros(route.size)
    if action is not None and agent.box:
        start = sum(head.size for head in agent.heads[: route.head])
        expected = np.asarray(action[start : start + route.size], expected.dtype)
    elif action is not None and agent.multi_discrete:
        expected[int(action[route.head])] = 1
    elif action is not None:
        stride = int(np.prod([head.size for head in agent.heads[: route.head]], dtype=np.int64))
        expected[(int(action) - agent.start) // stride % route.size] = 1
    receiver = spec.agent_names[route.receiver]
    slot = observations[receiver][route.slot]
    if not np.array_equal(slot, expected):
        when = "after the reset" if action is None else f"after {agent.name!r} played {action.tolist()}"
        raise UserError(
            f"environment {spec.id!r}: the route from {agent.name!r} to {receiver!r} is declared at entries "
            f"{route.start} to {route.start + route.size - 1}, but {when} these hold {slot.tolist()}, expected "
            f"{expected.tolist()}. Correct its start, or declare exact: false where the channel is noisy or delayed, "
            f"or holds a message in view while later ones are ignored."
        )
