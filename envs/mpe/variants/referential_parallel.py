"""referential_game as a PettingZoo environment: a Lewis game, with the seeding and the renderer of `mpe2`.

    from envs.mpe.variants.referential_parallel import parallel_env
    env = parallel_env(attributes=[3, 3], num_candidates=3, held_out=3)

The batched port in torch is `envs/mpe/variants/referential_scenario.py`; `docs/variants.md` describes the arguments.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.utils import EzPickle
from mpe2._mpe_utils.core import Agent
from mpe2._mpe_utils.simple_env import make_env
from numpy.typing import NDArray
from pettingzoo import ParallelEnv
from pettingzoo.utils.conversions import parallel_wrapper_fn

from envs.mpe.catalogue import allowed_arguments, check_arguments
from envs.mpe.variants.ids import REFERENTIAL_ID
from envs.mpe.variants.parallel import ChannelEnv, VariantScenario, VariantWorld
from envs.mpe.variants.referential import Referential

__all__ = ["env", "parallel_env", "raw_env"]


class ReferentialWorld(VariantWorld):
    """The channel, the listener's last pick, and the steps that were played."""

    def clear(self) -> None:
        super().clear()
        self.pick = self.played = 0

    def step(self) -> None:
        super().step()
        self.played += 1


class ReferentialScenario(VariantScenario):
    """Nobody moves; the listener picks one of the candidates, which are landmarks in places of no consequence."""

    world_class = ReferentialWorld

    def make_world(self) -> VariantWorld:
        world = super().make_world()
        for agent in world.agents:
            agent.movable = agent.silent = False
        return world

    def reward(self, agent: Agent, world: ReferentialWorld) -> float:
        paid = float(world.played == self.variant.max_cycles and world.pick == world.goals[0])
        said = np.sum(world.symbols_said() < self.variant.num_symbols) * (world.played == 1)
        return float(paid - self.variant.message_cost * said)

    def own(self, agent: Agent, world: VariantWorld) -> list[NDArray[np.float64]]:
        return []


class raw_env(ChannelEnv, EzPickle):  # mpe2's name for it
    """referential_game; see `Referential.of` for arguments.

    Raises:
        UserError: an argument out of its range.
    """

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
        render_mode: str | None = None,
        dynamic_rescaling: bool = True,
    ) -> None:
        own = (
            num_candidates, num_symbols, message_length, noise, erasure, delay, silence, message_cost, attributes,
            held_out, goals,
        )  # fmt: skip
        EzPickle.__init__(self, *own, render_mode, dynamic_rescaling)
        scenario = ReferentialScenario(Referential.of(*own))
        ChannelEnv.__init__(self, scenario, render_mode, dynamic_rescaling)
        self.action_spaces[self.world.listeners[0].name] = Discrete(num_candidates)

    def _set_action(self, action: Any, agent: Agent, action_space: Any, time: Any = None) -> None:
        """The speaker's is a message, the listener's a pick."""
        if agent in self.world.speakers:
            super()._set_action(action, agent, action_space, time)
            return
        agent.action.u, agent.action.c = np.zeros(self.world.dim_p), np.zeros(self.world.dim_c)
        self.world.pick = int(action[0])


env = make_env(raw_env)
_parallel = parallel_wrapper_fn(env)


def parallel_env(**env_args: Any) -> ParallelEnv[str, NDArray[np.float32], int]:
    """The ParallelEnv; arguments of `raw_env`.

    Raises:
        UserError: an unknown argument, with close matches, or one out of its range.
    """
    check_arguments(REFERENTIAL_ID, env_args, list(allowed_arguments(REFERENTIAL_ID)))
    return _parallel(**env_args)
