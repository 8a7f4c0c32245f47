"""The environment contract as a function: what PettingZoo's ParallelEnv promises and learning relies on.

    import envs
    envs.check(my_env)                    # a list of breaches, empty for a good environment
    envs.check(my_env, raise_error=True)  # the same, as an exception

PettingZoo's own tests look at less: its seed test compares one step, and its API test never asks whether an
observation lies in its space. What its API test lets pass and a run reads correctly is no breach here.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pettingzoo import ParallelEnv

from envs.check.contract import Contract
from envs.commands import USER, Answer, say
from envs.errors import UserError
from envs.pettingzoo.construct import conversion, from_callable, is_converted, parallel_env
from envs.pettingzoo.describe import describe_known
from envs.pettingzoo.named import named
from envs.spec import AgentSpec

if TYPE_CHECKING:
    from envs.check.command import CommandLine

__all__ = ["check", "verdict"]
_LISTED = 12  # agents that are listed one by one


def check(
    env: ParallelEnv | Callable[[], ParallelEnv] | str,
    *,
    episodes: int = 3,
    seed: int = 0,
    max_steps: int = 2000,
    rebuild: bool = False,
    raise_error: bool = False,
) -> list[str]:
    """Play random episodes and compare everything that comes back with the contract.

    Args:
        env: a ParallelEnv, a function that returns a new one (then two environments can be compared too), an MPE id,
            or `package.module:function`.
        episodes: episodes to play with different seeds, at least 1; some are played again to compare.
        seed: of the first episode; the following ones count up.
        max_steps: steps within which an episode must end.
        rebuild: play every episode in a new environment, as a run with this setting does; `env` must be a function or
            an id.
        raise_error: raise `UserError` with every breach instead of returning them.

    Returns:
        One text a kind of breach: what, expected, got, how to mend it. Empty where none was found.

    Raises:
        UserError: `env` is no environment at all, or `raise_error` and a breach was found.
    """
    contract = Contract(max_steps, rebuild)
    if isinstance(env, ParallelEnv):
        if rebuild:
            raise UserError("rebuild=True needs a function that returns a new environment, got an environment.")
        contract.run(named(env), None, max(1, episodes), seed)
    else:
        make = _maker(env)
        contract.run(make(), make, max(1, episodes), seed)
    breaches = list(contract.breaches.values())
    if breaches and raise_error:
        raise UserError("the environment breaks its contract:\n" + "\n".join(f"- {text}" for text in breaches))
    return breaches


def _maker(env: Callable[[], ParallelEnv] | str) -> Callable[[], ParallelEnv]:
    if isinstance(env, str):
        return lambda: parallel_env(env)
    return lambda: from_callable(env)


# ------------------------------------------------------------------- the command
def verdict(options: CommandLine) -> Answer:
    """What `python -m envs.check` prints; exit code 0 where the environment keeps the contract, 2 where not.

    Raises:
        UserError: no environment at all, or arguments that are none.
    """
    contract = Contract(options.max_steps, options.rebuild, say)
    env_args = _env_args(options.env_args)
    env = parallel_env(options.env, **env_args)
    contract.run(env, lambda: parallel_env(options.env, **env_args), max(1, options.episodes), options.seed)
    lines = [conversion(options.env)] if is_converted(env) else []
    if contract.spec is not None:
        lines.append(f"{options.env}: {contract.spec.num_agents} agents")
        lines += _agent_lines(describe_known(options.env, env).agents)
    if contract.breaches:
        lines.append(f"{len(contract.breaches)} breach(es) of the contract:")
        lines += [f"- {text}" for text in contract.breaches.values()]
        return Answer("\n".join(lines), USER)
    lengths = f"{min(contract.steps)} to {max(contract.steps)}"
    lines.append(f"keeps the contract: {len(contract.steps)} episodes of {lengths} steps, some of them played twice.")
    return Answer("\n".join(lines))


def _agent_lines(agents: Sequence[AgentSpec]) -> list[str]:
    """A line an agent; of many, one for those that follow each other with the same sizes."""
    lines: list[tuple[AgentSpec, list[str]]] = []
    for agent in agents:
        same = lines and replace(agent, name="") == replace(lines[-1][0], name="")
        if len(agents) > _LISTED and same:
            lines[-1][1].append(agent.name)
        else:
            lines.append((agent, [agent.name]))
    result = []
    for agent, names in lines:
        heads = " x ".join(f"{head.name} {head.size}{' numbers' if head.continuous else ''}" for head in agent.heads)
        who = names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]} ({len(names)})"
        result.append(f"  {who:<20} {agent.obs_size:>6} numbers observed   chooses {heads}")
    return result


def _env_args(pairs: Sequence[str]) -> dict[str, Any]:
    env_args = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not name or not equals:
            raise UserError(f"expected NAME=VALUE, got {pair!r}.")
        try:
            env_args[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            env_args[name] = {"true": True, "false": False}.get(text, text)
    return env_args
