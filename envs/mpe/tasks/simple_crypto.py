"""simple_crypto_v3: Alice tells Bob a secret over a channel on which Eve listens; Alice and Bob share a key."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from envs.mpe.core import Body, World
from envs.mpe.scenario import Scenario, choose, landmarks_named, place

_EVE, _BOB, _ALICE = range(3)


class SimpleCrypto(Scenario):
    """Nobody moves; every agent's only choice is one of four symbols. Alice's is heard; Eve's and Bob's are guesses of
    the secret, which is symbol 0 or 1. The error of a guess is its squared distance from the secret's one-hot, 0 or 2:
    Eve is paid minus her error; Alice and Bob Eve's error minus Bob's."""

    id = "simple_crypto_v3"
    num_symbols = 4

    def __init__(self, max_cycles: int = 25) -> None:
        super().__init__(max_cycles)
        self.agents = tuple(Body(name, silent=False) for name in ("eve_0", "bob_0", "alice_0"))
        self.landmarks = landmarks_named("landmark", 2)
        self.facts = {"chosen": ((2,), torch.int64), "secret": ((4,), None), "key": ((4,), None)}

    @property
    def obs_sizes(self) -> list[int]:
        return [4, 8, 8]

    @property
    def reset_draws(self) -> int:
        return super().reset_draws + 2

    def reset(self, world: World, u: Tensor) -> None:
        place(world.pos, u[:-2])  # of no consequence, only drawn
        world.facts["chosen"].copy_(choose(u[-2:], 2))
        self._encode(world)

    def _encode(self, world: World) -> None:
        """Secret and key as one-hots."""
        secret, key = world.facts["chosen"].unbind(0)
        world.facts["secret"].copy_(self.eye.index_select(1, secret))
        world.facts["key"].copy_(self.eye.index_select(1, key))

    def reward(self, world: World, seen: None) -> Tensor:
        error = (world.said[:_ALICE] - world.facts["secret"]).square_().sum(1)
        eve, bob = error[_EVE], error[_BOB]
        pair = eve - bob
        return torch.stack((-eve, pair, pair))

    def observe(self, world: World, seen: None) -> list[tuple[Tensor, ...]]:
        """Eve: Alice's message. Bob: the key, Alice's message. Alice: the secret, the key."""
        message = world.said[_ALICE:]
        secret, key = world.facts["secret"].unsqueeze(0), world.facts["key"].unsqueeze(0)
        return [(message,), (key, message), (secret, key)]

    def load(self, raw: Any, world: World) -> None:
        landmarks, agents = raw.world.landmarks, raw.world.agents
        secret = landmarks.index(agents[_ALICE].goal_a)
        key = int(agents[_ALICE].key.argmax())
        world.facts["chosen"].copy_(torch.tensor([[secret], [key]]))
        self._encode(world)

    def store(self, raw: Any, world: World) -> None:
        landmarks, agents = raw.world.landmarks, raw.world.agents
        secret, key = (int(index) for index in world.facts["chosen"])
        for agent in agents:
            agent.goal_a = landmarks[secret]
        agents[_BOB].color = landmarks[secret].color
        agents[_ALICE].key = landmarks[key].color
