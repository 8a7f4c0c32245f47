"""simple_line_v1: N agents spread evenly on the line between two landmarks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from envs.mpe.assignment import MOST_AGENTS, Assignment
from envs.mpe.core import World, length, less, relative
from envs.mpe.scenario import Scenario, agents_named, check_count, landmarks_named, place

LENGTH = 1.25  # of the line
_TURN = math.radians(5)  # by which mpe2 turns the line until it fits into the field
_TURNS = 72
_MANY_TURNS = 1e3  # larger than any angle
NEAR = 0.05  # an agent nearer than this to its slot is there
FAR = 2.0  # distances count no more than this


class SimpleLine(Scenario):
    """All are paid minus the mean distance of the agents from their slots, each at most 2; slots are dealt out so that
    the sum of the distances is least. Agents do not see each other."""

    id = "simple_line_v1"

    def __init__(self, N: int = 4, max_cycles: int = 25, terminate_on_success: bool = False) -> None:
        super().__init__(max_cycles)
        check_count("N", N, at_most=MOST_AGENTS)
        self.can_terminate = bool(terminate_on_success)
        self.agents = agents_named("agent", N, size=0.03, collide=True)
        self.landmarks = landmarks_named("landmark", 2, size=0.02)
        self.facts = {"slots": ((N, 2), None)}

    @property
    def obs_sizes(self) -> list[int]:
        return [2 + 2 + 2 * 2] * len(self.agents)

    @property
    def reset_draws(self) -> int:
        return 2 * len(self.agents) + 3

    def prepare(self, device: torch.device, dtype: torch.dtype) -> None:
        super().prepare(device, dtype)
        count = len(self.agents)
        share = torch.arange(count, device=device, dtype=dtype) * (1 / (count - 1) if count > 1 else 0.0)
        self.share = share.view(-1, 1, 1)  # of the way from the first landmark to the second
        self.turns = torch.arange(_TURNS, device=device, dtype=dtype).unsqueeze(1) * _TURN
        self.assignment = Assignment(count, device)

    def reset(self, world: World, u: Tensor) -> None:
        place(world.agents, u[:-3])
        place(world.landmarks[:1], u[-3:-1], 0.25)
        angles = u[-1] * (2 * math.pi) + self.turns  # [turns, e]
        ends = world.landmarks[0] + LENGTH * torch.stack((angles.cos(), angles.sin()), 1)  # [turns, 2, e]
        misfit = 1.0 - less(ends.abs().amax(1), 1.0)
        angle = torch.add(angles, misfit, alpha=_MANY_TURNS).amin(0)  # the first that fits; one always does
        torch.add(world.landmarks[0], torch.stack((angle.cos(), angle.sin())), alpha=LENGTH, out=world.landmarks[1])
        self._lay(world)

    def _lay(self, world: World) -> None:
        """The slots between the landmarks."""
        start, end = world.landmarks.unbind(0)
        world.facts["slots"].copy_(start + self.share * (end - start))

    def relate(self, world: World) -> Tensor:
        """Distances of the agents from their slots, [A, e]."""
        return self.assignment(length(relative(world.facts["slots"], world.agents)))

    def reward(self, world: World, seen: Tensor) -> Tensor:
        return seen.clamp(max=FAR).mean(0, keepdim=True).neg_()

    def terminal(self, world: World, seen: Tensor) -> Tensor:
        return (seen < NEAR).all(0)

    def observe(self, world: World, seen: Tensor) -> list[tuple[Tensor, ...]]:
        """Velocity, position, vectors to the landmarks."""
        return [(world.vel, world.agents, relative(world.landmarks, world.agents).flatten(1, 2))]

    def load(self, raw: Any, world: World) -> None:
        slots = np.stack(raw.scenario._expected_positions)
        world.facts["slots"][..., 0].copy_(torch.as_tensor(slots))

    def store(self, raw: Any, world: World) -> None:
        raw.scenario._expected_positions = list(world.facts["slots"][..., 0].cpu().double().numpy())
