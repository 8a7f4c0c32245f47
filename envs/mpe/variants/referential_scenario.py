"""referential_game_v0 as tensors; `envs/mpe/variants/referential_parallel.py` is the same game as a ParallelEnv."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from envs.mpe.core import Body, World
from envs.mpe.variants.ids import REFERENTIAL_ID
from envs.mpe.variants.referential import Referential
from envs.mpe.variants.scenario import SpeakerListenerVariant


class ReferentialGame(SpeakerListenerVariant):
    """The arguments are those of `Referential.of`. Nobody moves; the listener's pick is its only choice."""

    id = REFERENTIAL_ID

    def __init__(
        self,
        num_candidates: int = 3,
        num_symbols: int = 3,
        message_length: int = 2,
        noise: float = 0.0,
        erasure: float = 0.0,
        delay: int = 0,
        silence: bool = False,
        message_cost: float = 0.0,
        attributes: tuple[int, ...] = (3, 3),
        held_out: int = 0,
        goals: str = "training",
    ) -> None:
        variant = Referential.of(
            num_candidates, num_symbols, message_length, noise, erasure, delay, silence, message_cost, attributes,
            held_out, goals,
        )  # fmt: skip
        self._set_up(variant, (Body("listener_0", size=0.075, silent=False),))
        self.facts |= {"pick": ((1,), torch.int64), "played": ((1,), torch.int64)}

    def prepare(self, device: torch.device, dtype: torch.dtype) -> None:
        super().prepare(device, dtype)
        self.candidates = torch.eye(self.variant.num_landmarks, device=device, dtype=dtype)

    # -------------------------------------------------------------- episode
    def reset(self, world: World, u: Tensor) -> None:
        super().reset(world, u)
        world.facts["pick"].zero_()
        world.facts["played"].zero_()

    def set_ages(self, world: World, ages: Tensor) -> None:
        """The last step pays, whenever it comes."""
        world.facts["played"].copy_(ages)

    def speak(self, world: World, symbols: Tensor) -> None:
        """The speaker's message, and the listener's pick, which is its first head."""
        pick = symbols[1, 0]
        self.candidates.index_select(1, pick)  # raises for one out of range, before anything has changed
        super().speak(world, symbols[:1])
        world.facts["pick"].copy_(pick.unsqueeze(0))
        world.facts["played"].add_(1)

    def relate(self, world: World) -> Tensor:
        """Whether the pick is the target, [1, e]."""
        return (world.facts["pick"] == world.facts["goal"]).to(world.pos.dtype)

    def reward(self, world: World, seen: Tensor) -> Tensor:
        """1 for the target in the last step, minus the price of the first step's message, the one that is heard."""
        variant, played = self.variant, world.facts["played"]
        paid = seen * (played == variant.max_cycles)
        if not variant.message_cost:
            return paid
        said = (world.said[:1].flatten(0, 1) * self.priced).sum(0, keepdim=True)
        return paid - variant.message_cost * said * (played == 1)

    def observe(self, world: World, seen: Tensor) -> list[tuple[Tensor, ...]]:
        """Speaker: the target. Listener: all candidates, the message."""
        goal, shown = self._parts_shown(world)
        return [(goal,), (shown, self._heard(world, seen.shape[-1]))]

    # ------------------------------------------------- exchange with the ParallelEnv
    def load(self, raw: Any, world: World) -> None:
        super().load(raw, world)
        world.facts["pick"].fill_(raw.world.pick)
        world.facts["played"].fill_(raw.world.played)

    def store(self, raw: Any, world: World) -> None:
        super().store(raw, world)
        raw.world.pick, raw.world.played = (int(world.facts[name]) for name in ("pick", "played"))
