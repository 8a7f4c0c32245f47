"""Describe a PettingZoo ParallelEnv as an EnvSpec, from its spaces and what it declares."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from envs.errors import UserError, did_you_mean
from envs.pettingzoo.construct import in_words
from envs.pettingzoo.flatten import ObservationReader
from envs.pictures import Small
from envs.spec import AgentSpec, EnvSpec, Head, Route

Heads = Mapping[str, Sequence[Sequence[Any]]]  # {agent: (("move", 5), ("message", 10))}
DECLARED: dict[str, Any] = {
    "heads": Mapping, "routes": list | tuple, "teams": list | tuple, "fixed_agents": bool, "rebuild": bool,
}  # fmt: skip
"""What metadata may declare, and the types of it."""
_FLAGS = ("fixed_agents", "rebuild")


def describe(
    env_id: str,
    env: ParallelEnv,
    *,
    heads: Heads | None = None,
    routes: Sequence[Mapping[str, Any]] | None = None,
    teams: Sequence[Sequence[str]] | None = None,
    fixed_agents: bool = False,
    rebuild: bool = False,
    pictures: Small | None = None,
) -> EnvSpec:
    """Describe any ParallelEnv; see `envs.pettingzoo.PettingZooEnv` for the arguments.

    Raises:
        UserError: no `possible_agents`, a space that is not supported, or a declaration that does not fit.
    """
    agents = _agents(env_id, env)
    _known(env_id, "heads", heads or {}, agents)
    described = tuple(_agent(env_id, env, name, (heads or {}).get(name)) for name in agents)
    if pictures is not None and not routes:  # slots of messages stand in rows of numbers
        described = _pictured(env, described, pictures)
    return EnvSpec(
        id=env_id,
        agents=described,
        horizon=horizon(env),
        routes=tuple(_route(env_id, k, route, described) for k, route in enumerate(routes or ())),
        teams=_teams(env_id, teams, agents),
        fixed_agents=fixed_agents,
        rebuild=rebuild,
    )


def describe_declared(
    env_id: str, env: ParallelEnv, declared: Mapping[str, Any] | None = None, pictures: Small | None = None
) -> EnvSpec:
    """Describe any ParallelEnv with what its `metadata` declares under the names of `describe`'s arguments.

    Args:
        env_id: its id.
        env: the environment.
        declared: the same arguments, which go before the metadata's where they are not None.
        pictures: how those are made small; None: they are rows of numbers.

    Raises:
        UserError: as `describe`.
    """
    metadata = getattr(env, "metadata", None) or {}
    given = declared or {}
    chosen: dict[str, Any] = {name: metadata.get(name) if given.get(name) is None else given[name] for name in DECLARED}
    chosen |= {name: bool(chosen[name]) for name in _FLAGS}
    for name, kind in DECLARED.items():
        if chosen[name] is not None and not isinstance(chosen[name], kind):
            raise UserError(
                f"environment {env_id!r}: {name} must be a {'dict' if kind is Mapping else 'list'}, got "
                f"{chosen[name]!r:.80}."
            )
    return describe(env_id, env, pictures=pictures, **chosen)


def describe_known(env_id: str, env: ParallelEnv, pictures: Small | None = None) -> EnvSpec:
    """The description of MPE's catalogue where `env_id` is an MPE id, else our own, with what its metadata declares."""
    from envs.mpe import catalogue

    known = catalogue.canonical_id(env_id) is not None
    return catalogue.describe(env_id, env) if known else describe_declared(env_id, env, pictures=pictures)


def horizon(env: ParallelEnv) -> int | None:
    """`max_cycles` of the innermost environment or of its metadata, where there is one."""
    inner = env.unwrapped
    for value in (getattr(inner, "max_cycles", None), (getattr(inner, "metadata", None) or {}).get("max_cycles")):
        if isinstance(value, int | np.integer) and not isinstance(value, bool) and value > 0:
            return int(value)
    return None


def _agents(env_id: str, env: ParallelEnv) -> list[str]:
    names = getattr(env, "possible_agents", None)
    if not names:
        raise UserError(
            f"environment {env_id!r} has no list `possible_agents`. Environments that generate agents are not "
            "supported: name every agent that can appear in `possible_agents`, in a fixed order."
        )
    names = list(names)
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong or len(set(names)) != len(names):
        raise UserError(
            f"environment {env_id!r}: possible_agents must be different strings, or different integers, got {names}."
        )
    return names


def _pictured(env: ParallelEnv, agents: tuple[AgentSpec, ...], small: Small) -> tuple[AgentSpec, ...]:
    """The agents with their small pictures, where all of them observe pictures of one shape; else as they are."""
    shapes = [small.shape(env.observation_space(agent.name)) for agent in agents]
    if shapes[0] is None or len(set(shapes)) > 1:
        return agents
    return tuple(replace(agent, obs_size=math.prod(shapes[0]), picture=shapes[0]) for agent in agents)


def _agent(env_id: str, env: ParallelEnv, name: str, heads: Sequence[Sequence[Any]] | None) -> AgentSpec:
    try:
        observation_space, action_space = env.observation_space(name), env.action_space(name)
    except Exception as error:
        raise UserError(
            f"environment {env_id!r}: asking for the spaces of {name!r} raised {in_words(error)}."
        ) from error
    obs_size = ObservationReader(observation_space, name).size
    if isinstance(action_space, spaces.Discrete):
        count = int(action_space.n)
        declared = _heads(env_id, name, heads) or (Head("move", count),)
        agent = AgentSpec(name, obs_size, declared, start=int(action_space.start))
        if agent.num_actions != count:
            raise UserError(
                f"environment {env_id!r}: the heads {_pairs(declared)} of agent {name!r} make {agent.num_actions} "
                f"joint choices, but its action space is Discrete({count}). Their sizes must multiply to {count}."
            )
        return agent
    if isinstance(action_space, spaces.MultiDiscrete) and action_space.nvec.ndim == 1:
        sizes = [int(n) for n in action_space.nvec]
        if np.any(action_space.start != 0):
            raise UserError(
                f"environment {env_id!r}: the MultiDiscrete action space of agent {name!r} starts at "
                f"{action_space.start.tolist()}; expected zeros. Shift the actions in a wrapper."
            )
        declared = _heads(env_id, name, heads) or tuple(Head(f"choice_{h}", n) for h, n in enumerate(sizes))
        if [head.size for head in declared] != sizes:
            raise UserError(
                f"environment {env_id!r}: the heads {_pairs(declared)} of agent {name!r} do not fit its action "
                f"space MultiDiscrete({sizes}): expected {len(sizes)} heads of these sizes in this order."
            )
        return AgentSpec(name, obs_size, declared, multi_discrete=True)
    if isinstance(action_space, spaces.Box):
        return AgentSpec(name, obs_size, box_heads(env_id, name, action_space, _heads(env_id, name, heads)), box=True)
    raise UserError(
        f"environment {env_id!r}: agent {name!r} has an action space of another kind: {action_space}. Expected "
        "Discrete, or a MultiDiscrete or Box with one axis: wrap the environment so that its actions are one of these."
    )


def box_heads(env_id: str, name: str, space: spaces.Box, declared: tuple[Head, ...]) -> tuple[Head, ...]:
    """The heads of a Box of one axis: its entries side by side, a message as a one-hot, all others as numbers.

    Args:
        env_id, name: for messages.
        space: the agent's.
        declared: names and sizes of heads, in the order of the entries; empty: one head "move".

    Raises:
        UserError: another number of axes, whole numbers, no bounds, a message with bounds that a one-hot exceeds, or
            heads that do not fill the Box.
    """

    def fault(text: str) -> UserError:
        return UserError(f"environment {env_id!r}: the action space {space} of agent {name!r} {text}.")

    if len(space.shape) != 1 or np.dtype(space.dtype).kind != "f":
        raise fault("must be a Box of floats with one axis; reshape the actions in a wrapper")
    width = int(space.shape[0])
    named = declared or (Head("move", width),)
    if sum(head.size for head in named) != width:
        raise fault(f"has {width} entries, but the heads {_pairs(named)} have sizes that do not add up to {width}")
    heads, start = [], 0
    for head in named:
        low, high = (bound[start : start + head.size].astype(float) for bound in (space.low, space.high))
        start += head.size
        if head.is_message:
            if (low > 0).any() or (high < 1).any():
                raise fault(f"does not hold the one-hots of the head {head.name!r}; expected bounds 0 and 1 there")
            heads.append(head)
            continue
        if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
            raise fault("must have a finite low below a finite high for every number; give it bounds in a wrapper")
        heads.append(Head(head.name, head.size, tuple(low.tolist()), tuple(high.tolist())))
    return tuple(heads)


def _pairs(heads: Sequence[Head]) -> list[tuple[str, int]]:
    return [(head.name, head.size) for head in heads]


def _heads(env_id: str, name: str, declared: Sequence[Sequence[Any]] | None) -> tuple[Head, ...]:
    """Heads from pairs (name, size); empty where none were declared."""
    heads = []
    for pair in declared or ():
        ok = isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str)
        if not ok or not isinstance(pair[1], int) or isinstance(pair[1], bool) or pair[1] < 1:
            raise UserError(
                f"environment {env_id!r}: heads of agent {name!r} must be pairs such as "
                f"[['move', 5], ['message', 10]], got {declared!r}."
            )
        heads.append(Head(pair[0], pair[1]))
    if len({head.name for head in heads}) != len(heads):
        raise UserError(f"environment {env_id!r}: heads of agent {name!r} must have different names, got {declared!r}.")
    return tuple(heads)


def _known(env_id: str, what: str, names: Any, agents: Sequence[str]) -> None:
    for name in names:
        if name not in agents:
            raise UserError(
                f"environment {env_id!r}: {what} names the unknown agent {name!r}; expected one of {list(agents)}."
                f"{did_you_mean(str(name), agents)}"
            )


def _teams(env_id: str, teams: Sequence[Sequence[str]] | None, agents: list[str]) -> tuple[tuple[int, ...], ...]:
    if not teams:
        return ()
    listed = [name for team in teams for name in team]
    _known(env_id, "teams", listed, agents)
    if sorted(listed) != sorted(agents):
        raise UserError(
            f"environment {env_id!r}: teams must name every agent once, got {[list(t) for t in teams]} for {agents}."
        )
    return tuple(tuple(agents.index(name) for name in team) for team in teams)


# ----------------------------------------------------------------------- routes
_ROUTE_KEYS = ("sender", "head", "receiver", "start", "size", "meaning", "exact")


def _route(env_id: str, k: int, given: Mapping[str, Any], agents: tuple[AgentSpec, ...]) -> Route:
    """A Route from a plain dict; every fault names the route by its position."""

    def fault(text: str) -> UserError:
        return UserError(f"environment {env_id!r}: routes[{k}] {text}")

    if not isinstance(given, Mapping):
        raise fault(f"must be a dict with the keys {list(_ROUTE_KEYS[:4])}, got {given!r}.")
    for key in given:
        if key not in _ROUTE_KEYS:
            raise fault(f"has the unknown key {key!r}.{did_you_mean(str(key), _ROUTE_KEYS)}")
    missing = [key for key in ("sender", "receiver", "start") if key not in given]
    if missing:
        raise fault(f"lacks {missing}.")
    names = [agent.name for agent in agents]
    _known(env_id, f"routes[{k}]", [given["sender"], given["receiver"]], names)
    sender, receiver = names.index(given["sender"]), names.index(given["receiver"])
    head = given.get("head", "message")
    heads = {entry.name: h for h, entry in enumerate(agents[sender].heads)}
    if head not in heads:
        raise fault(
            f"names head {head!r} of {names[sender]!r}, which has {list(heads)}.{did_you_mean(str(head), heads)} "
            f"Declare it with heads={{{names[sender]!r}: [['message', SYMBOLS]]}}."
        )
    if not agents[sender].heads[heads[head]].is_message:
        raise fault(f"names head {head!r}: a head that carries messages must have a name that begins with 'message'.")
    size = agents[sender].heads[heads[head]].size
    if given.get("size", size) != size:
        raise fault(f"has size {given['size']!r}, but head {head!r} has {size} symbols.")
    start = _slot(given["start"], size, agents[receiver], "start", fault)
    meaning = given.get("meaning")
    if meaning is not None:
        if not isinstance(meaning, list | tuple) or len(meaning) < 2:
            raise fault(
                f"has meaning {meaning!r}, expected [start, size] in the sender's observation, or [start, size, ...] "
                "of the one-hots of several attributes side by side."
            )
        at = meaning[0]
        for width in meaning[1:]:
            at = _slot(at, width, agents[sender], "meaning", fault) + width
        meaning = tuple(meaning)
    exact = given.get("exact", True)
    if not isinstance(exact, bool):
        raise fault(f"has exact {exact!r}, expected true or false.")
    return Route(sender, heads[head], receiver, start, size, exact, meaning)


def _slot(start: Any, size: Any, agent: AgentSpec, key: str, fault: Callable[[str], UserError]) -> int:
    for number, low in ((start, 0), (size, 1)):
        if not isinstance(number, int) or isinstance(number, bool) or number < low:
            raise fault(f"has a {key} with {number!r}, expected an integer of at least {low}.")
    if start + size > agent.obs_size:
        raise fault(
            f"has a {key} that ends at entry {start + size}, but the observation of {agent.name!r} has "
            f"{agent.obs_size} entries."
        )
    return int(start)
