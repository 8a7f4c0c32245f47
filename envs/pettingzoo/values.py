"""What an environment may return from `reset` and `step`, value by value: the same rules wherever one is stepped."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np

COMMON = frozenset({"__all__", "__common__", "common"})
"""Keys that stand for no agent, which PettingZoo's own test lets pass beside those of agents; they are not read."""

FLAGS = (bool, np.bool_)
"""Types of a termination or truncation."""


class BadValue(Exception):
    """A value is not what it should be; the message says what was expected and what was got."""


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
    raise BadValue(f"expected a number, got {type(reward).__name__}{shape}")
