"""What an environment may return from `reset` and `step`, value by value: the same rules wherever one is stepped.

Whoever finds a breach says it in the words that stand here: the check of an environment, training and evaluation.
"""

from __future__ import annotations

import numbers
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

COMMON = frozenset({"__all__", "__common__", "common"})
"""Keys that stand for no agent, which PettingZoo's own test lets pass beside those of agents; they are not read."""

FLAGS = (bool, np.bool_)
"""Types of a termination or truncation."""


RESET = "reset takes the keywords seed and options, and works at any time, also after an episode's end."
"""What to say to an environment whose reset raised."""


class BadValue(Exception):
    """A value is not what it should be; the message says what was expected and what was got.

    Args:
        text: what is wrong, without the final stop.
        agent: whom it concerns; None: all.
        field: which of the returned values ("observation", "reward", ...); None: none of them.
    """

    def __init__(self, text: str, agent: Any = None, field: str | None = None) -> None:
        self.text, self.agent, self.field = text, agent, field
        whose = None if agent is None else f"agent {agent!r}"
        where = " of ".join(part for part in (field, whose) if part)
        super().__init__(f"{where}: {text}" if where else text)


# ----------------------------------------------------------------- whole results
def reset_result(result: Any) -> tuple[Any, Any]:
    """Observations and infos of a reset.

    Raises:
        BadValue: anything but a pair of both.
    """
    if not isinstance(result, tuple) or len(result) != 2:
        only = " of observations only" if isinstance(result, dict) else ""
        size = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
        raise BadValue(f"reset must return (observations, infos), got {size}{only}")
    return result


def step_result(result: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Observations, rewards, terminations, truncations and infos of a step.

    Raises:
        BadValue: anything but these five.
    """
    if not isinstance(result, tuple) or len(result) != 5:
        size = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
        raise BadValue(f"step must return (observations, rewards, terminations, truncations, infos), got {size}")
    return result


def raised(method: str, error: BaseException) -> BadValue:
    """What to say where the environment's `method` ("reset", "step" or "close") has raised."""
    return BadValue(f"{method} raised {type(error).__name__}: {str(error).strip().rstrip('.') or 'no message'}")


# ------------------------------------------------------------------------ agents
def check_known(agents: Iterable[Any], known: Collection[str]) -> None:
    """Raise `BadValue` for agents that are not in possible_agents."""
    for name in agents:
        if name not in known:
            raise BadValue(
                "is not in possible_agents; environments that generate agents are not supported: name every agent "
                "that can appear in possible_agents",
                name,
            )


def check_agents(env: Any, known: Sequence[str]) -> None:
    """Raise `BadValue` where no episode can begin with what `env` says of its agents after a reset."""
    agents, possible = getattr(env, "agents", None), getattr(env, "possible_agents", known)
    if list(possible) != list(known):
        raise BadValue(
            f"possible_agents changed from {list(known)} to {list(possible)} at a reset, expected the same agents in "
            "the same order always: assign it once, in __init__"
        )
    if not isinstance(agents, list | tuple):
        raise BadValue(f"env.agents must be a list after the reset, got {agents!r}")
    check_known(agents, known)
    if not agents:
        raise BadValue(f"expected at least one agent in env.agents after the reset, got {agents}")


def check_keys(values: Any, expected: Sequence[str], field: str, optional: Collection[str] = ()) -> None:
    """Raise `BadValue` unless `values` is a dict over the agents `expected`, the `optional` ones or not.

    Membership only: indexing a defaultdict would invent the key that is missing.
    """
    if not isinstance(values, dict):
        raise BadValue(f"expected a dict over agents, got {type(values).__name__}", field=field)
    for name in expected:
        if name not in values:
            raise BadValue(
                f"is missing; got the keys {list(values)}: return an entry for every agent that acted, in the step in "
                "which it ends too",
                name,
                field,
            )
    for name in values:
        if name not in expected and name not in optional and name not in COMMON:
            raise BadValue(
                f"was not expected; expected the keys {list(expected)}: agents that have left get no entry", name, field
            )


def check_stays(name: str, expected: bool, after: Collection[str], acted: bool) -> None:
    """Raise `BadValue` where an agent is in env.agents `after` a step and should not be, or the other way round.

    Args:
        name: the agent.
        expected: it acted and did not end, or it has just come.
        after: env.agents.
        acted: it was there in this step.
    """
    if expected and name not in after:
        raise BadValue("left env.agents without being terminated or truncated in the same step", name)
    if name in after and not expected:
        ended = "was terminated or truncated but is still in env.agents; remove it there"
        raise BadValue(ended if acted else "came back", name)


# ------------------------------------------------------------------------ numbers
def number(reward: Any) -> float:
    """A reward: a real number of any type, a bool (1 or 0) or an array without dimensions.

    Raises:
        BadValue: anything else.
    """
    if isinstance(reward, numbers.Real | np.number | np.bool_) or (
        isinstance(reward, np.ndarray) and reward.ndim == 0 and reward.dtype.kind in "biuf"
    ):
        return float(reward)
    shape = f" of shape {np.shape(reward)}" if isinstance(reward, np.ndarray | list | tuple) else f" {reward!r:.60}"
    raise BadValue(f"expected a number, got {type(reward).__name__}{shape}: return float(reward)")


def check_flag(value: Any) -> None:
    """Raise `BadValue` for a termination or truncation that is no bool."""
    if type(value) not in FLAGS:
        raise BadValue(f"expected a bool, got {type(value).__name__} {value!r:.60}: return bool(...)")


def check_reward(reward: Any) -> None:
    """Raise `BadValue` for a reward (a numpy float) that is not finite in its own type."""
    if not np.isfinite(reward):
        raise BadValue(f"is {reward}, in {reward.dtype}, expected a finite number")


def check_entries(row: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """Raise `BadValue` for entries of a flattened observation that are not finite or outside of its space.

    Args:
        row: [width], in the type in which they are learned from.
        low, high: [width], float32.
    """
    bad = np.flatnonzero(~np.isfinite(row))
    if len(bad):
        raise BadValue(
            f"entry {bad[0]} is {row[bad[0]]}, in {row.dtype}, expected finite numbers: look for a division by zero or "
            "an empty mean"
        )
    with np.errstate(over="ignore"):
        rounded = row.astype(np.float32)
    for wrong, bound, which in ((rounded < low, low, "at least"), (rounded > high, high, "at most")):
        if wrong.any():
            k = int(np.argmax(wrong))
            raise BadValue(
                f"entry {k} is {row[k]:g}, outside of its space: expected {which} {bound[k]:g}. Widen the bounds of "
                "the space, or clip"
            )
