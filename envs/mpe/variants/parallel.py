"""speaker_listener_variant as a real PettingZoo environment, on `mpe2`'s own physics, seeding and renderer.

    from envs.mpe.variants.parallel import parallel_env
    env = parallel_env(num_landmarks=5, num_symbols=5, noise=0.1)

With default arguments it is `mpe2.simple_speaker_listener_v4`, number for number. The batched port in torch is
`envs/mpe/variants/scenario.py`; `docs/variants.md` describes the arguments and what no policy can exceed.
"""

from __future__ import annotations

import colorsys
import os
from typing import Any

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # pygame greets on stdout otherwise

import numpy as np
from gymnasium.utils import EzPickle
from mpe2._mpe_utils.core import Agent, Landmark, World
from mpe2._mpe_utils.scenario import BaseScenario
from mpe2._mpe_utils.simple_env import SimpleEnv, alphabet, make_env
from numpy.typing import NDArray
from pettingzoo import ParallelEnv
from pettingzoo.utils.conversions import parallel_wrapper_fn

from envs.mpe.catalogue import allowed_arguments, check_arguments
from envs.mpe.variants.ids import VARIANT_ID
from envs.mpe.variants.settings import Variant

__all__ = ["env", "parallel_env", "raw_env"]

_AGENT_SIZE, _LANDMARK_SIZE = 0.075, 0.04
_COLOURS = np.eye(3) * 0.5 + 0.15  # mpe2's, of three landmarks


class VariantWorld(World):
    """mpe2's world and the channel. A symbol is an integer in [0, K), K is nothing; `places` lie speaker by speaker.

    An agent's `state.c` holds what it said, one-hots of all places of its message; `heard` is what arrived.
    """

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        self.dim_c = variant.vocabulary * variant.message_length
        self.goals = [0] * variant.num_listeners
        self.combinations = [0] * variant.num_landmarks  # of each landmark, where goals have parts
        self.np_random: np.random.Generator = np.random.default_rng(0)  # the episode's, from the first reset on
        self.clear()

    def clear(self) -> None:
        """Nothing was said, nothing is under way."""
        nothing = self.variant.vocabulary
        self.heard = np.full(self.variant.places, nothing)
        self.under_way = np.full((self.variant.delay, self.variant.places), nothing)

    @property
    def speakers(self) -> list[Agent]:
        return list(self.agents[: self.variant.num_speakers])

    @property
    def listeners(self) -> list[Agent]:
        return list(self.agents[self.variant.num_speakers :])

    def symbols_said(self) -> NDArray[np.int64]:
        """What the speakers said last, [places]; K where nothing (after a reset)."""
        size = self.variant.vocabulary
        said = np.stack([speaker.state.c for speaker in self.speakers]).reshape(-1, size)
        return np.where(said.any(1), said.argmax(1), size)

    def step(self) -> None:
        super().step()
        waiting = np.concatenate([self.under_way, self.symbols_said()[None]])
        self.under_way = waiting[1:]
        self.heard = self.disturb(waiting[0], self.draw())

    def draw(self) -> NDArray[np.float64]:
        """Uniform numbers in [0, 1) for one step of the channel, [draws]; none where it is faithful."""
        return self.np_random.random(self.variant.draws) if self.variant.draws else np.zeros(0)

    def disturb(self, symbols: NDArray[np.int64], u: NDArray[np.float64]) -> NDArray[np.int64]:
        """What is heard of `symbols` [places], given uniform numbers [draws]."""
        variant, size = self.variant, self.variant.vocabulary
        heard = symbols.copy()
        if variant.noise > 0:
            for place, number in enumerate(u[: variant.places]):
                if number < variant.noise and heard[place] < size:
                    others = [symbol for symbol in range(size) if symbol != symbols[place]]
                    # the others in cyclic order from the symbol on, each with the same share of [0, noise)
                    others = others[symbols[place] :] + others[: symbols[place]]
                    heard[place] = others[min(int(number * ((size - 1) / variant.noise)), size - 2)]
        if variant.erasure > 0:
            heard[u[-variant.places :] < variant.erasure] = size
        return heard


class VariantScenario(BaseScenario):
    """Bodies, reset, reward and observation, as mpe2 asks for them."""

    world_class = VariantWorld

    def __init__(self, variant: Variant) -> None:
        self.variant = variant

    def make_world(self) -> VariantWorld:
        world = self.world_class(self.variant)
        for name in [*self.variant.speaker_names, *self.variant.listener_names]:
            agent = Agent()
            agent.name, agent.collide, agent.size = name, False, _AGENT_SIZE
            agent.movable = name.startswith("listener")
            agent.silent = agent.movable
            world.agents.append(agent)
        for index in range(self.variant.num_landmarks):
            landmark = Landmark()
            landmark.name, landmark.collide, landmark.size = f"landmark {index}", False, _LANDMARK_SIZE
            landmark.color = self._colour(index)
            world.landmarks.append(landmark)
        return world

    def _colour(self, index: int) -> NDArray[np.float64]:
        if self.variant.coloured:
            colour: np.ndarray = _COLOURS[index]
            return colour
        kinds = self.variant.num_landmarks if self.variant.parts is None else len(self.variant.parts.values)
        return np.array(colorsys.hsv_to_rgb(index / kinds, 0.8, 0.65))

    def reset_world(self, world: VariantWorld, np_random: np.random.Generator) -> None:
        world.np_random = np_random
        if self.variant.parts is None:
            world.goals = [int(np_random.integers(len(world.landmarks))) for _ in world.listeners]
        else:
            world.combinations, slot = self.variant.parts.draw(len(world.landmarks), np_random)
            world.goals = [slot]
            for landmark, combination in zip(world.landmarks, world.combinations, strict=True):
                landmark.color = self._colour(combination)
        for agent in world.agents:
            agent.color = np.full(3, 0.25)
            agent.state.p_pos = np_random.uniform(-1, +1, world.dim_p)
            agent.state.p_vel = np.zeros(world.dim_p)
            agent.state.c = np.zeros(world.dim_c)
        for listener, goal in zip(world.listeners, world.goals, strict=True):
            listener.color = np.minimum(world.landmarks[goal].color + 0.45, 1.2)
        for landmark in world.landmarks:
            landmark.state.p_pos = np_random.uniform(-1, +1, world.dim_p)
            landmark.state.p_vel = np.zeros(world.dim_p)
        world.clear()

    def reward(self, agent: Agent, world: VariantWorld) -> float:
        distances = [
            np.sum(np.square(listener.state.p_pos - world.landmarks[goal].state.p_pos))
            for listener, goal in zip(world.listeners, world.goals, strict=True)
        ]
        said = np.sum(world.symbols_said() < self.variant.num_symbols)  # what comes after these is silence
        return float(-np.mean(distances) - self.variant.message_cost * said)

    def observation(self, agent: Agent, world: VariantWorld) -> NDArray[np.float64]:
        if agent in world.listeners:
            return np.concatenate([*self.own(agent, world), self.attributes(world), self.heard(world)])
        if self.variant.parts is not None:
            shown: NDArray[np.float64] = self.variant.parts.one_hots[world.combinations[world.goals[0]]]
            return shown
        goals = _COLOURS if self.variant.coloured else np.eye(self.variant.num_landmarks)
        listeners = self.variant.listeners_of(world.agents.index(agent))
        return np.concatenate([goals[world.goals[listener]] for listener in listeners])

    def own(self, agent: Agent, world: VariantWorld) -> list[NDArray[np.float64]]:
        """What a listener sees of itself and of places."""
        moving = [agent.state.p_vel] if self.variant.velocity else []
        return [*moving, *(landmark.state.p_pos - agent.state.p_pos for landmark in world.landmarks)]

    def attributes(self, world: VariantWorld) -> NDArray[np.float64]:
        """One-hots of the landmarks' attributes, landmark by landmark; empty of goals without parts."""
        parts = self.variant.parts
        return np.zeros(0) if parts is None else parts.one_hots[world.combinations].ravel()

    def heard(self, world: VariantWorld) -> NDArray[np.float64]:
        """One-hots of what arrived, place by place."""
        return np.concatenate([np.eye(self.variant.vocabulary + 1)[symbol][:-1] for symbol in world.heard])


class ChannelEnv(SimpleEnv):
    """The environment of mpe2's kind (agents in turn, all act before the world moves) around a scenario of ours."""

    def __init__(self, scenario: VariantScenario, render_mode: str | None, dynamic_rescaling: bool) -> None:
        self.variant = variant = scenario.variant
        world = scenario.make_world()
        spoken, world.dim_c = world.dim_c, variant.num_messages  # mpe2 sizes the action spaces by it
        super().__init__(
            scenario, world, variant.max_cycles, render_mode=render_mode, dynamic_rescaling=dynamic_rescaling
        )
        world.dim_c = spoken
        scenario.reset_world(world, self.np_random)
        self.metadata = {**SimpleEnv.metadata, "name": variant.id, **variant.spec().declaration()}

    def _set_action(self, action: Any, agent: Agent, action_space: Any, time: Any = None) -> None:
        """mpe2's for moves; a message is one symbol for each place, the first place runs fastest."""
        if agent.silent:
            super()._set_action(action, agent, action_space, time)
            return
        size, rest = self.variant.vocabulary, int(action[0])
        agent.action.u, agent.action.c = np.zeros(self.world.dim_p), np.zeros(self.world.dim_c)
        for place in range(self.variant.message_length):
            agent.action.c[place * size + rest % size] = 1.0
            rest //= size

    def draw(self) -> None:
        """mpe2's picture; its letters end at Z, so that of later symbols and places only the first letter is shown."""
        said = [agent.state.c for agent in self.world.speakers]
        for agent, message in zip(self.world.speakers, said, strict=True):
            symbol = int(np.argmax(message[: self.variant.vocabulary])) % len(alphabet)
            agent.state.c = np.eye(len(alphabet))[symbol] * message.any()
        super().draw()
        for agent, message in zip(self.world.speakers, said, strict=True):
            agent.state.c = message


class raw_env(ChannelEnv, EzPickle):  # mpe2's name for it
    """speaker_listener_variant; see `Variant` for arguments.

    Raises:
        UserError: an argument out of its range.
    """

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
        render_mode: str | None = None,
        dynamic_rescaling: bool = True,
    ) -> None:
        own = (
            num_speakers, num_listeners, num_landmarks, num_symbols, message_length, noise, erasure, delay, silence,
            message_cost, max_cycles, attributes, held_out, goals, velocity,
        )  # fmt: skip
        EzPickle.__init__(self, *own, render_mode, dynamic_rescaling)
        ChannelEnv.__init__(self, VariantScenario(Variant(*own)), render_mode, dynamic_rescaling)


env = make_env(raw_env)
_parallel = parallel_wrapper_fn(env)


def parallel_env(**env_args: Any) -> ParallelEnv[str, NDArray[np.float32], int]:
    """The ParallelEnv; arguments of `raw_env`.

    Raises:
        UserError: an unknown argument, with close matches, or one out of its range.
    """
    check_arguments(VARIANT_ID, env_args, list(allowed_arguments(VARIANT_ID)))
    return _parallel(**env_args)
