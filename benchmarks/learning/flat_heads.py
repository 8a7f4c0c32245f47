"""simple_reference as PettingZoo hands it out: one choice of 50, a move and a word at once.

`python run.py --env benchmarks.learning.flat_heads:simple_reference` trains on it. The environment is mpe2's own;
nothing in it declares the two heads and the channel that the package's `simple_reference` has, so that every agent
has one head, no message is known to be one, and neither the communication correction nor the signalling bonus exists.
"""

from __future__ import annotations

from typing import Any

from pettingzoo import ParallelEnv

from envs.mpe import parallel_env


def simple_reference(**env_args: Any) -> ParallelEnv[str, Any, Any]:
    """mpe2's environment, with its `Discrete(50)` as it is."""
    return parallel_env("simple_reference", **env_args)
