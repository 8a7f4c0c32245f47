"""speaker_listener_variant_v0: simple_speaker_listener with another channel, more goals, more agents.

`envs/mpe/variants/parallel.py` is the same game as a PettingZoo ParallelEnv; `docs/variants.md` describes it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from envs.conditions import another_symbol
from envs.mpe.core import Body, World, relative, squared_length
from envs.mpe.scenario import Scenario, agents_named, choose, landmarks_named, place
from envs.mpe.variants.ids import VARIANT_ID
from envs.mpe.variants.settings import Variant
from envs.spec import EnvSpec


class SpeakerListenerVariant(Scenario):
    """Speakers know goals and cannot move; listeners see the landmarks, hear every speaker and cannot speak. All are
    paid minus the mean squared distance of the listeners from their goals, minus the price of what was said.

    The arguments are those of `Variant`. A symbol on the channel is an integer in [0, K); K stands for nothing.
    """

    id = VARIANT_ID

    def __init__(
        self,
        num_speakers: int = 1,
        num_listeners: int = 1,
        num_landmarks: int = 3,
        num_symbols: int = 3,
        message_length: int = 1,
        noise: float = 0.0,
        erasure: float = 0.0,
        delay: int = 0,
        silence: bool = False,
        message_cost: float = 0.0,
        max_cycles: int = 25,
        attributes: tuple[int, ...] = (),
        held_out: int = 0,
        goals: str = "training",
        velocity: bool = True,
    ) -> None:
        variant = Variant(
            num_speakers, num_listeners, num_landmarks, num_symbols, message_length, noise, erasure, delay, silence,
            message_cost, max_cycles, attributes, held_out, goals, velocity,
        )  # fmt: skip
        self._set_up(variant, agents_named("listener", num_listeners, size=0.075))

    def _set_up(self, variant: Variant, listeners: tuple[Body, ...]) -> None:
        """Bodies and own state, from the arguments."""
        Scenario.__init__(self, variant.max_cycles)
        self.variant = variant
        self.num_symbols, self.message_length = variant.vocabulary, variant.message_length
        speakers = tuple(Body(name, size=0.075, silent=False) for name in variant.speaker_names)
        self.agents = speakers + listeners
        self.landmarks = landmarks_named("landmark", variant.num_landmarks, size=0.04)
        self.step_draws = variant.draws
        self.facts = {"goal": ((variant.num_listeners,), torch.int64), "target": ((variant.num_listeners, 2), None)}
        if not variant.exact:
            self.facts["heard"] = ((variant.places,), torch.int64)
        if variant.delay:
            self.facts["under_way"] = ((variant.delay, variant.places), torch.int64)  # the next to arrive first
        if variant.parts is not None:
            self.facts["combination"] = ((variant.num_landmarks,), torch.int64)

    @property
    def obs_sizes(self) -> list[int]:
        return self.variant.obs_sizes

    @property
    def reset_draws(self) -> int:
        return super().reset_draws + self._goal_draws

    @property
    def _goal_draws(self) -> int:
        """A goal for each listener; of goals with parts the combination, its place, and a rank for every other one."""
        parts = self.variant.parts
        return self.variant.num_listeners if parts is None else 2 + len(parts.training)

    def spec(self) -> EnvSpec:
        return self.variant.spec()

    def prepare(self, device: torch.device, dtype: torch.dtype) -> None:
        super().prepare(device, dtype)
        variant, silent = self.variant, self.num_symbols - 1
        shown = torch.eye(variant.num_landmarks, device=device, dtype=dtype)
        self.shown = shown * 0.5 + 0.15 if variant.coloured else shown  # [component, landmark]
        if variant.parts is not None:
            self.shown = torch.tensor(variant.parts.one_hots.T.copy(), device=device, dtype=dtype)  # [.., combination]
            self.training = torch.tensor(variant.parts.training, device=device)
            self.pool = torch.tensor(variant.parts.pool, device=device)
            self.slots = torch.arange(variant.num_landmarks, device=device).unsqueeze(1)
        nothing = torch.zeros(self.num_symbols, 1, device=device, dtype=dtype)
        self.one_hots = torch.cat((self.eye, nothing), 1)  # [component, symbol or nothing]
        self.priced = torch.ones(variant.heard_width, 1, device=device, dtype=dtype)
        self.priced.view(variant.places, -1)[:, silent] = 0.0

    # -------------------------------------------------------------- episode
    def reset(self, world: World, u: Tensor) -> None:
        goals = self._goal_draws
        place(world.pos, u[:-goals])
        if self.variant.parts is None:
            world.facts["goal"].copy_(choose(u[-goals:], self.variant.num_landmarks))
        else:
            self._draw_parts(world, u[-goals:])
        self._aim(world)
        for name in ("heard", "under_way"):
            if name in world.facts:
                world.facts[name].fill_(self.num_symbols)

    def _draw_parts(self, world: World, u: Tensor) -> None:
        """A combination of the pool in a random place, training combinations in random order in all others."""
        chosen = self.pool.index_select(0, choose(u[0], len(self.pool)))
        slot = choose(u[1:2], self.variant.num_landmarks)
        ranks = torch.where(self.training.unsqueeze(1) == chosen, 2.0, u[2:])  # the goal comes last
        order = ranks.argsort(0)[: self.variant.num_landmarks - 1]
        others = self.training.index_select(0, order.reshape(-1)).view(order.shape)
        drawn = torch.cat((others, chosen.unsqueeze(0)))
        source = torch.where(self.slots == slot, len(drawn) - 1, self.slots - (self.slots > slot).to(torch.int64))
        world.facts["combination"].copy_(drawn.gather(0, source))
        world.facts["goal"].copy_(slot)

    def _aim(self, world: World) -> None:
        """The places of the goals."""
        goal = world.facts["goal"]
        world.facts["target"].copy_(world.landmarks.gather(0, goal.unsqueeze(1).expand(-1, 2, -1)))

    def speak(self, world: World, symbols: Tensor) -> None:
        super().speak(world, symbols)
        if self.variant.exact:
            return
        arrives = symbols.flatten(0, 1)
        if self.variant.delay:
            under_way = world.facts["under_way"]
            waiting = torch.cat((under_way, arrives.unsqueeze(0).to(under_way.dtype)))
            arrives = waiting[0]
            under_way.copy_(waiting[1:])
        world.facts["heard"].copy_(arrives)

    def after_move(self, world: World, u: Tensor) -> None:
        """Noise and erasure, on what arrives."""
        variant, heard, size = self.variant, world.facts["heard"], self.num_symbols
        if variant.noise:
            wrong, u = u[: variant.places], u[variant.places :]
            heard.copy_(another_symbol(heard, wrong, variant.noise, size))
        if variant.erasure:
            heard.masked_fill_(u < variant.erasure, size)

    def relate(self, world: World) -> Tensor:
        """The listeners' places, [listeners, 2, e]."""
        return world.pos[self.variant.num_speakers : len(self.agents)]

    def reward(self, world: World, seen: Tensor) -> Tensor:
        distance = squared_length(world.facts["target"] - seen).mean(0, keepdim=True)
        if not self.variant.message_cost:
            return -distance
        said = (world.said.flatten(0, 1) * self.priced).sum(0, keepdim=True)
        return torch.add(distance, said, alpha=self.variant.message_cost).neg_()

    def observe(self, world: World, seen: Tensor) -> list[tuple[Tensor, ...]]:
        """Speakers: the goals that they know. Listeners: velocity (if seen), vectors to the landmarks, all messages."""
        variant, envs = self.variant, seen.shape[-1]
        listeners = variant.num_listeners
        heard = self._heard(world, envs).expand(listeners, -1, -1)
        own = (*([world.vel] if variant.velocity else []), relative(world.landmarks, seen).flatten(1, 2))
        if variant.parts is not None:
            goals, shown = self._parts_shown(world)
            return [(goals.expand(variant.num_speakers, -1, -1),), (*own, shown, heard)]
        goal = self.shown.index_select(1, world.facts["goal"].reshape(-1)).view(-1, listeners, envs).transpose(0, 1)
        groups = variant.groups
        speakers = [(goal[i % groups :: groups].reshape(1, -1, envs),) for i in range(variant.num_speakers)]
        return [*speakers, (*own, heard)]

    def _parts_shown(self, world: World) -> tuple[Tensor, Tensor]:
        """One-hots of the attributes of the goal [1, width, e] and of all landmarks [1, landmarks * width, e]."""
        combination = world.facts["combination"]
        goal = combination.gather(0, world.facts["goal"]).reshape(-1)
        count, envs = combination.shape
        shown = self.shown.index_select(1, combination.reshape(-1)).view(-1, count, envs)
        return self.shown.index_select(1, goal).unsqueeze(0), shown.transpose(0, 1).reshape(1, -1, envs)

    def _heard(self, world: World, envs: int) -> Tensor:
        """What every listener hears, [1, heard_width, e]."""
        if self.variant.exact:
            return world.said[: self.variant.num_speakers].reshape(1, -1, envs)
        symbols = world.facts["heard"].reshape(-1)
        one_hots = self.one_hots.index_select(1, symbols).view(self.num_symbols, self.variant.places, envs)
        return one_hots.transpose(0, 1).reshape(1, -1, envs)

    # ------------------------------------------------- exchange with the ParallelEnv
    def load(self, raw: Any, world: World) -> None:
        world.facts["goal"].copy_(torch.tensor(raw.world.goals).unsqueeze(1))
        if "combination" in world.facts:
            world.facts["combination"].copy_(torch.tensor(raw.world.combinations).unsqueeze(1))
        self._aim(world)
        for name in ("heard", "under_way"):
            if name in world.facts:
                given = torch.as_tensor(getattr(raw.world, name))
                world.facts[name].copy_(given.view(world.facts[name].shape))

    def store(self, raw: Any, world: World) -> None:
        raw.world.goals = world.facts["goal"][:, 0].tolist()
        if "combination" in world.facts:
            raw.world.combinations = world.facts["combination"][:, 0].tolist()
        for name in ("heard", "under_way"):
            if name in world.facts:
                getattr(raw.world, name)[...] = world.facts[name][..., 0].cpu().numpy()
        if self.variant.exact:
            raw.world.heard[...] = raw.world.symbols_said()
