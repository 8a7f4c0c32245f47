"""Games of pictures: two agents see which third of their picture is bright, and are paid for naming it."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv
from strange_envs import Strange

from envs.spec import AgentSpec, EnvSpec, Head


class Thirds(Strange):
    """A picture of bytes; the third that is bright is at `door`, on a ground that grows darker downwards."""

    shape = (24, 30, 3)
    metadata = {"name": "thirds_v0", "render_modes": [], "fixed_agents": True}  # noqa: RUF012

    def see_space(self, name: str) -> spaces.Space:
        return spaces.Box(0, 255, self.shape, np.uint8)

    def see(self, name: str) -> Any:
        height, width, _ = self.shape
        picture = np.zeros(self.shape, np.uint8)
        picture[:] = np.linspace(90, 30, height, dtype=np.uint8)[:, None, None]
        third = width // 3
        picture[:, self.door * third : (self.door + 1) * third, 0] = 250
        return picture


class MaskedThirds(Thirds):
    """The same beside a mask that forbids nothing."""

    def see_space(self, name: str) -> spaces.Space:
        mask = spaces.Box(0, 1, (3,), np.int8)
        return spaces.Dict({"observation": super().see_space(name), "action_mask": mask})

    def see(self, name: str) -> Any:
        return {"observation": super().see(name), "action_mask": np.ones(3, np.int8)}


def thirds() -> ParallelEnv:
    return Thirds()


def spec_of(agents: int, side: int, moves: int = 3, frames: int = 1) -> EnvSpec:
    """Agents that see grey pictures, with as many moves each."""
    picture = (1, side, side)
    one = [AgentSpec(f"eye_{n}", side * side, (Head("move", moves),), picture=picture) for n in range(agents)]
    return EnvSpec("pictures", tuple(one)).stacked(frames)


class LongThirds(Thirds):
    """Long enough to look at some steps and to predict others."""

    length = 9
    metadata = {**Thirds.metadata, "max_cycles": 9}  # noqa: RUF012


def long_thirds() -> ParallelEnv:
    return LongThirds()
