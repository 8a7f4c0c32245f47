"""A matching game and a perfect model of it, for tests of what is learned through a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from envs.spec import AgentSpec, EnvSpec, Head, Route
from marl.world_model.protocol import Prediction

SPEAKER, LISTENER = AgentSpec("speaker_0", 2, (Head("message", 2),)), AgentSpec("listener_0", 2, (Head("move", 2),))
GAME = EnvSpec("game", (SPEAKER, LISTENER), horizon=3, routes=(Route(0, 0, 1, 0, 2),))


@dataclass
class Goal:
    goal: Tensor  # [S, n, 2]

    def pick(self, index: Tensor) -> Goal:
        return Goal(self.goal[torch.arange(len(index))[:, None], index])


class Game:
    """A perfect model of a matching game: the speaker sees the goal, who moves to it is rewarded at once.

    reward: 1 for both where the listener's move is the goal; with `selfish` only the listener's reward counts the
    speaker's message, and only against it.
    """

    noise_size = 1

    def __init__(self, selfish: bool = False) -> None:
        self.networks, self.selfish = nn.Linear(1, 1), selfish

    def step(self, state: Goal, action_SnU: Tensor, uniform: Tensor, uncertain: bool) -> tuple[Goal, Prediction]:
        message, move = action_SnU[..., :2], action_SnU[..., 2:]
        hit = (state.goal * move).sum(-1)
        both = torch.stack([0 * hit, (state.goal * message).sum(-1)] if self.selfish else [hit, hit], -1)
        return state, Prediction(state.goal, both, torch.full_like(both, 0.9), 0 * hit)


def assert_derivative(value: Callable[[], Tensor], flat: nn.Parameter) -> None:
    """The gradient of `value` at a float64 parameter agrees with central differences along a random direction."""
    value().backward()
    assert flat.grad is not None
    direction = torch.randn(flat.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start, step, ends = flat.data.clone(), 1e-6, []
    for sign in (1, -1):
        flat.data = start + sign * step * direction
        ends.append(value().item())
    assert (flat.grad * direction).sum().item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4)
