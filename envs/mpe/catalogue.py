"""What there is in MPE: the twelve ids, the real `mpe2` environments behind them, and their specs.

The spec of a scenario is written once, here, and serves both the real environment and its port in torch. Variants,
which are ours and no part of mpe2, stand beside the twelve: their real environments and specs are in `variants`.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Sequence
from typing import Any

from envs.errors import UserError, did_you_mean
from envs.mpe.variants.ids import REFERENTIAL_ID, VARIANT_ID
from envs.spec import AgentSpec, EnvSpec, Head, Route

MPE_IDS: tuple[str, ...] = (
    "simple_v3",
    "simple_adversary_v3",
    "simple_crypto_v3",
    "simple_push_v3",
    "simple_reference_v3",
    "simple_speaker_listener_v4",
    "simple_spread_v3",
    "simple_tag_v3",
    "simple_world_comm_v3",
    "collect_treasure_v1",
    "simple_formation_v1",
    "simple_line_v1",
)

VARIANT_IDS: tuple[str, ...] = (VARIANT_ID, REFERENTIAL_ID)
_VARIANT_MODULES = {
    VARIANT_ID: "envs.mpe.variants.parallel",
    REFERENTIAL_ID: "envs.mpe.variants.referential_parallel",
}
VARIANT_OF = {VARIANT_ID: "simple_speaker_listener_v4"}  # what it is with default arguments

NUM_MOVES = 5  # none, left (-x), right (+x), down (-y), up (+y)

_BY_NAME = {mpe_id.rsplit("_v", 1)[0]: mpe_id for mpe_id in (*MPE_IDS, *VARIANT_IDS)}
_ADVERSARY_PREFIXES = ("adversary", "leadadversary", "eve")

# scenario -> (start, size) in the sender's observation of what there is to tell
_MEANINGS = {
    "simple_speaker_listener_v4": (0, 3),  # colour of the goal
    "simple_reference_v3": (8, 3),  # colour of the other agent's target
    "simple_crypto_v3": (0, 4),  # the secret
}


def canonical_id(name: str) -> str | None:
    """The id with its version ("simple_spread" and "simple_spread_v3" give "simple_spread_v3"), None if not of MPE or
    a variant of it."""
    return name if name in _BY_NAME.values() else _BY_NAME.get(name)


def require_id(name: str) -> str:
    """`canonical_id`, or `UserError` with close matches."""
    result = canonical_id(name)
    if result is None:
        raise UserError(
            f"unknown environment {name!r}.{did_you_mean(name, [*_BY_NAME.values(), *_BY_NAME])} "
            f"MPE's ids are {', '.join(MPE_IDS)}, and {', '.join(VARIANT_IDS)} (the version may be left out); any "
            f"other PettingZoo environment is given as package.module:function."
        )
    return result


# ------------------------------------------------------------------ the real environments
def _raw_env(name: str) -> tuple[str, Any]:
    """(canonical id, the module of its real environment)."""
    mpe_id = require_id(name)
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # pygame greets on stdout otherwise
    return mpe_id, importlib.import_module(_VARIANT_MODULES.get(mpe_id, f"mpe2.{mpe_id}"))


def allowed_arguments(name: str) -> dict[str, Any]:
    """Keyword arguments of the scenario with their defaults, as the installed `mpe2` has them."""
    _, module = _raw_env(name)
    parameters = list(inspect.signature(module.raw_env.__init__).parameters.values())[1:]
    return {parameter.name: parameter.default for parameter in parameters}


def check_arguments(name: str, given: dict[str, Any], allowed: Sequence[str]) -> None:
    """Raise `UserError` that names the first argument in `given` that is not in `allowed`."""
    for key in given:
        if key not in allowed:
            raise UserError(
                f"{require_id(name)} has no argument {key!r}.{did_you_mean(key, allowed)} "
                f"Its arguments are {', '.join(allowed)}."
            )


def parallel_env(name: str, /, **kwargs: Any) -> Any:
    """The real `mpe2` ParallelEnv; imports mpe2 at the first call.

    Args:
        name: an MPE id with or without its version.
        kwargs: the scenario's own arguments (N, local_ratio, max_cycles, render_mode, ...).

    Raises:
        UserError: unknown id or argument (with close matches), or a value that mpe2 refuses.
    """
    mpe_id, module = _raw_env(name)
    check_arguments(mpe_id, kwargs, list(allowed_arguments(mpe_id)))
    try:
        return module.parallel_env(**kwargs)
    except (AssertionError, ValueError, TypeError, IndexError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in kwargs.items())
        raise UserError(f"mpe2 refuses {mpe_id}({given}): {error or type(error).__name__}") from error


# ------------------------------------------------------------------ specs
def build_spec(
    mpe_id: str,
    names: Sequence[str],
    obs_sizes: Sequence[int],
    heads: Sequence[tuple[Head, ...]],
    horizon: int,
    box: bool = False,
) -> EnvSpec:
    """The spec of a scenario from its agents, in order, whatever their number; `box`: with continuous_actions."""
    agents = tuple(
        AgentSpec(name=name, obs_size=size, heads=own, box=box)
        for name, size, own in zip(names, obs_sizes, heads, strict=True)
    )
    adversaries = tuple(n for n, name in enumerate(names) if name.startswith(_ADVERSARY_PREFIXES))
    good = tuple(n for n in range(len(names)) if n not in adversaries)
    return EnvSpec(
        id=mpe_id,
        agents=agents,
        horizon=horizon,
        routes=_routes(mpe_id, agents),
        teams=tuple(team for team in (adversaries, good) if team),
    )


def make_heads(movable: bool, silent: bool, num_symbols: int, continuous: bool = False) -> tuple[Head, ...]:
    """The heads of an MPE agent: a move if it can move, a message if it can speak.

    A continuous move is mpe2's own: five numbers in [0, 1] for none, left, right, down, up, whose differences push.
    A message is a choice even then: the one-hot of a symbol, where mpe2 would take any numbers in [0, 1].
    """
    bounds = ((0.0,) * NUM_MOVES, (1.0,) * NUM_MOVES) if continuous else (None, None)
    move = (Head("move", NUM_MOVES, *bounds),) if movable else ()
    message = () if silent else (Head("message", num_symbols),)
    return move + message


def _routes(mpe_id: str, agents: Sequence[AgentSpec]) -> tuple[Route, ...]:
    """Who hears whom. A message is always the last entry of its receiver's observation."""
    count = len(agents)
    pairs: list[tuple[int, int]] = []
    if mpe_id == "simple_speaker_listener_v4":
        pairs = [(0, 1)]
    elif mpe_id == "simple_reference_v3":
        pairs = [(0, 1), (1, 0)]
    elif mpe_id == "simple_crypto_v3":
        pairs = [(2, 0), (2, 1)]  # alice is heard by eve and by bob
    elif mpe_id == "simple_world_comm_v3":
        # the leader's message reaches every adversary, itself included
        pairs = [(0, n) for n in range(count) if agents[n].name.startswith(_ADVERSARY_PREFIXES)]
    routes = []
    for sender, receiver in pairs:
        head = len(agents[sender].heads) - 1
        size = agents[sender].heads[head].size
        start = agents[receiver].obs_size - size
        routes.append(Route(sender, head, receiver, start, size, meaning=_MEANINGS.get(mpe_id)))
    return tuple(routes)


def describe(name: str, parallel_env: Any) -> EnvSpec:
    """The spec of a real `mpe2` environment, with whatever arguments it was built.

    Args:
        name: its id, with or without the version.
        parallel_env: the environment.

    Raises:
        UserError: unknown id, or another environment.
    """
    mpe_id = require_id(name)
    raw = getattr(parallel_env, "unwrapped", parallel_env)
    if mpe_id in VARIANT_IDS:
        return _variant_spec(mpe_id, raw)
    scenario = mpe_id.rsplit("_v", 1)[0]
    if f"mpe2.{scenario}.{scenario}" not in {base.__module__ for base in type(raw).__mro__}:
        raise UserError(f"expected an mpe2 environment {mpe_id}, got {type(raw).__module__}.{type(raw).__name__}.")
    continuous = bool(raw.continuous_actions)
    names = list(parallel_env.possible_agents)
    by_name = {agent.name: agent for agent in raw.world.agents}
    heads = [make_heads(by_name[n].movable, by_name[n].silent, raw.world.dim_c, continuous) for n in names]
    obs_sizes = [parallel_env.observation_space(n).shape[0] for n in names]
    return build_spec(mpe_id, names, obs_sizes, heads, max(1, int(raw.max_cycles)), continuous)


def _variant_spec(mpe_id: str, raw: Any) -> EnvSpec:
    variant = getattr(raw, "variant", None)
    if variant is None or variant.id != mpe_id:
        raise UserError(f"expected an environment {mpe_id}, got {type(raw).__module__}.{type(raw).__name__}.")
    described: EnvSpec = variant.spec()
    return described
