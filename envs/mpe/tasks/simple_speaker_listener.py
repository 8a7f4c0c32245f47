"""simple_speaker_listener_v4: a speaker that knows the goal, a listener that must go there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from envs.mpe.core import Body, World, squared_length
from envs.mpe.scenario import Scenario, agents_named, choose, landmarks_named, place


class SimpleSpeakerListener(Scenario):
    """The speaker sees only which of three landmarks is the goal and cannot move; the listener sees all landmarks,
    hears one of three symbols and cannot speak. Both are paid minus the listener's squared distance from the goal."""

    id = "simple_speaker_listener_v4"
    num_symbols = 3

    def __init__(self, max_cycles: int = 25) -> None:
        super().__init__(max_cycles)
        self.agents = (Body("speaker_0", size=0.075, silent=False), *agents_named("listener", 1, size=0.075))
        self.landmarks = landmarks_named("landmark", 3, size=0.04)
        self.facts = {"goal": ((1,), torch.int64), "colour": ((3,), None), "target": ((2,), None)}

    @property
    def obs_sizes(self) -> list[int]:
        return [3, 2 + 2 * 3 + 3]

    @property
    def reset_draws(self) -> int:
        return super().reset_draws + 1

    def prepare(self, device: torch.device, dtype: torch.dtype) -> None:
        super().prepare(device, dtype)
        self.colours = torch.eye(3, device=device, dtype=dtype) * 0.5 + 0.15  # [component, landmark]

    def reset(self, world: World, u: Tensor) -> None:
        place(world.pos, u[:-1])
        world.facts["goal"].copy_(choose(u[-1:], 3))
        self._aim(world)

    def _aim(self, world: World) -> None:
        """What follows from the goal: its colour and its place."""
        goal = world.facts["goal"]
        world.facts["colour"].copy_(self.colours.index_select(1, goal[0]))
        world.facts["target"].copy_(world.landmarks.gather(0, goal.expand(1, 2, -1))[0])

    def relate(self, world: World) -> Tensor:
        """The listener's place, [2, e]."""
        return world.pos[1]

    def reward(self, world: World, seen: Tensor) -> Tensor:
        return -squared_length(world.facts["target"] - seen).unsqueeze(0)

    def observe(self, world: World, seen: Tensor) -> list[tuple[Tensor, ...]]:
        """Speaker: the goal's colour. Listener: velocity, vectors to the landmarks, the speaker's message."""
        to_landmarks = (world.landmarks - seen).view(1, 6, -1)
        return [(world.facts["colour"].unsqueeze(0),), (world.vel, to_landmarks, world.said)]

    def load(self, raw: Any, world: World) -> None:
        world.facts["goal"].fill_(raw.world.landmarks.index(raw.world.agents[0].goal_b))
        self._aim(world)

    def store(self, raw: Any, world: World) -> None:
        speaker, listener = raw.world.agents
        speaker.goal_a, speaker.goal_b = listener, raw.world.landmarks[int(world.facts["goal"])]
        listener.color = speaker.goal_b.color + 0.45
