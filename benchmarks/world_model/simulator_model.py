"""The environment itself as a world model: a perfect one, the ceiling of what imagination can give.

A joint observation of these tasks holds all of the state, up to where the world's origin is: the simulator is put into
it, stepped, and asked for the next observation and the rewards. It learns nothing and has no gradient.

Shape suffixes: S replicas, n rows, J predicted observation entries, U joint action, N agents.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import envs
from envs.streams import Stream
from marl.world_model.layout import Layout
from marl.world_model.protocol import Prediction
from marl.world_model.sequences import Normaliser, Sequences, StepRows
from marl.world_model.small.model import ObsState

World = dict[str, Tensor]
"""State tensors of `envs.mpe` by name; the environments are the last dimension."""


class SimulatorModel:
    """The batched environment behind the interface of a world model.

    Args:
        layout: how the environment's joint observation is laid out; one of the tasks of `READERS`.
        gamma: the learner's discount.
        replicas: S.
    """

    noise_size = 1
    pairs = 0
    updates_per_step = 1 / 16

    def __init__(self, layout: Layout, gamma: float, replicas: int) -> None:
        self.layout, self.gamma = layout, gamma
        self.obs_scale = Normaliser(replicas, layout.obs_size, "cpu")
        self.reward_scale = Normaliser(replicas, layout.spec.num_agents, "cpu")
        self.remembers_S = torch.zeros(replicas, dtype=torch.bool)
        self._read = READERS[layout.spec.id]
        self._envs: dict[int, Any] = {}

    def absorb(self, step: StepRows, mask_SE: Tensor) -> None:
        """Means and deviations, in which validation measures errors."""
        self.obs_scale.add(step.next_obs[..., self.layout.dynamic_J], mask_SE)
        self.reward_scale.add(step.reward, mask_SE)

    def update(self, seq: Sequences, stream: Stream, pairs: Sequences | None = None) -> None:
        """Nothing to learn."""

    def calibrate(self, seq: Sequences, stream: Stream) -> None:
        """Nothing to choose."""

    def judged(self, length_S: Tensor) -> None:
        """Nothing to learn."""

    def observe(self, seq: Sequences, stream: Stream) -> ObsState:
        return ObsState(seq.obs[..., self.layout.dynamic_J].flatten(1, 2))

    @torch.no_grad()
    def step(
        self, state: ObsState, action_SnU: Tensor, uniform_SnR: Tensor, uncertain: bool = True
    ) -> tuple[ObsState, Prediction]:
        replicas, rows = state.obs.shape[:2]
        env = self._env(replicas * rows)
        fresh = env.state_dict()
        read = self._read(state.obs.flatten(0, 1).T)
        fresh["world"] |= {name: value.movedim(-1, 0) for name, value in read.items()}
        fresh["ages"].zero_()
        env.load_state_dict(fresh)
        step = env.step(self._choices(action_SnU.flatten(0, 1)))
        seen = self.layout.join(step.final_obs.unflatten(1, (replicas, rows)).transpose(0, 1))
        obs = seen[..., self.layout.dynamic_J]
        reward = step.reward.unflatten(1, (replicas, rows)).permute(1, 2, 0)
        certain = torch.zeros(replicas, rows)
        return ObsState(obs), Prediction(obs, reward, torch.full_like(reward, self.gamma), certain)

    def _env(self, count: int) -> Any:
        if count not in self._envs:
            self._envs[count] = envs.make(self.layout.spec.id, num_envs=count)
        return self._envs[count]

    def _choices(self, action_EU: Tensor) -> Tensor:
        """Joint one-hots [E, U] as integers [N, E, H]."""
        spec, first = self.layout.spec, 0
        choices = torch.zeros(spec.num_agents, len(action_EU), spec.num_heads, dtype=torch.int64)
        for n, agent in enumerate(spec.agents):
            for h, head in enumerate(agent.heads):
                choices[n, :, h] = action_EU[:, first : first + head.size].argmax(1)
                first += head.size
        return choices

    def diagnose(self, seq: Sequences, stream: Stream) -> dict[str, Tensor]:
        return {}

    def check(self) -> None:
        """It cannot fail."""

    def warnings(self) -> list[str]:
        return []

    def metrics(self) -> dict[str, Tensor]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"obs_scale": self.obs_scale.state_dict(), "reward_scale": self.reward_scale.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.obs_scale.load_state_dict(state["obs_scale"])
        self.reward_scale.load_state_dict(state["reward_scale"])


# ------------------------------------------------------- observations to worlds
def _speaker_listener(x_JE: Tensor) -> World:
    """Speaker: the goal's colour. Listener, at the origin: velocity, vectors to the landmarks."""
    colour, velocity, landmarks = x_JE.split([3, 2, 6])
    goal = colour.argmax(0, keepdim=True)
    landmarks = landmarks.unflatten(0, (3, 2))
    target = landmarks.gather(0, goal.expand(1, 2, -1))[0]
    bodies = torch.cat([torch.zeros_like(landmarks[:2]), landmarks])
    return {"pos": bodies, "vel": velocity[None], "goal": goal, "colour": colour, "target": target}


def _reference(x_JE: Tensor) -> World:
    """Both agents: velocity, vectors to the landmarks, colour of the other's target. Agent 0 is at the origin."""
    velocity, landmarks, colour = x_JE.unflatten(0, (2, 11)).split([2, 6, 3], dim=1)
    known = colour.argmax(1)
    near, far = landmarks.unflatten(1, (3, 2))
    other = (near - far).mean(0, keepdim=True)
    target = near.gather(0, known.flip(0)[:, None].expand(-1, 2, -1))
    bodies = torch.cat([torch.zeros_like(other), other, near])
    return {"pos": bodies, "vel": velocity, "known": known, "colour": colour, "target": target}


def _spread(x_JE: Tensor) -> World:
    """Every agent: velocity, place, vectors to the landmarks, then what follows from these."""
    velocity, place, landmarks, _ = x_JE.unflatten(0, (3, 18)).split([2, 2, 6, 8], dim=1)
    bodies = torch.cat([place, landmarks[0].unflatten(0, (3, 2)) + place[:1]])
    return {"pos": bodies, "vel": velocity}


READERS: dict[str, Callable[[Tensor], World]] = {
    "simple_speaker_listener_v4": _speaker_listener,
    "simple_reference_v3": _reference,
    "simple_spread_v3": _spread,
}
