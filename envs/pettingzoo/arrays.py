"""The arrays through which environment copies, in this process or in others, are stepped."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.continuous import row_shape
from envs.spec import EnvSpec


@dataclass
class Arrays:
    """What goes to and comes from E copies; the arrays may lie in memory that processes share."""

    actions: np.ndarray  # int64 [N, E, H] to play, or float64 [N, E, A] where a head is continuous
    obs: np.ndarray  # [N, E, O] to act on next, reset where an episode ended; zeros for absent agents
    final_obs: np.ndarray  # [N, E, O] the true next observation
    reward: np.ndarray  # [N, E]
    terminated: np.ndarray  # bool [N, E]; True for absent agents
    truncated: np.ndarray  # bool [N, E]
    active: np.ndarray  # bool [N, E] was there to act in this step
    alive: np.ndarray  # bool [N, E] is there to act on `obs`
    mask: np.ndarray  # bool [N, E, H, K] choices allowed at `obs`; without masks E entries of size 0
    final_mask: np.ndarray  # bool [N, E, H, K] choices allowed at `final_obs`
    done: np.ndarray  # bool [1, E] the episode ended in this step
    episode: np.ndarray  # int64 [1, E] number of the running episode
    seed: np.ndarray  # int64 [1, E] what the running episode was reset with
    steps: np.ndarray  # int64 [1, E] steps played in the running episode
    waited: np.ndarray  # bool [1, E] at some step until now an agent's mask allowed nothing: it was not its turn
    busy: np.ndarray  # int64 [1, E] 1 while this copy is computing: tells who hangs

    @classmethod
    def allocate(cls, spec: EnvSpec, num_envs: int, dtype: Any, memory: Callable[[int], Any] = bytearray) -> Arrays:
        """Zeroed arrays in one block that `memory(bytes)` provides."""
        N, E, O = spec.num_agents, num_envs, spec.obs_size  # noqa: E741 - the tensor legend's letters
        H, K = spec.num_heads, spec.head_size if spec.has_masks else 0
        wide, flag, real = np.dtype(np.int64), np.dtype(np.bool_), np.dtype(dtype)
        shapes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
            "actions": ((N, E, *row_shape(spec)), np.dtype(np.float64) if spec.continuous else wide),
            "obs": ((N, E, O), real),
            "final_obs": ((N, E, O), real),
            "reward": ((N, E), real),
            **dict.fromkeys(("terminated", "truncated", "active", "alive"), ((N, E), flag)),
            **dict.fromkeys(("mask", "final_mask"), ((N, E, H, K), flag)),
            **dict.fromkeys(("done", "waited"), ((1, E), flag)),
            **dict.fromkeys(("episode", "seed", "steps", "busy"), ((1, E), wide)),
        }
        offsets, total = {}, 0
        for name, (shape, kind) in shapes.items():
            offsets[name] = total
            total += -(-math.prod(shape) * kind.itemsize // 64) * 64  # each starts a cache line of its own
        block = memory(max(total, 1))
        return cls(
            **{
                name: np.ndarray(shape, kind, buffer=block, offset=offsets[name])
                for name, (shape, kind) in shapes.items()
            }
        )

    def part(self, start: int, stop: int) -> Arrays:
        """Views of the copies start to stop - 1."""
        return Arrays(**{name: array[:, start:stop] for name, array in vars(self).items()})
