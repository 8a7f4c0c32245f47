"""Environments of other packages, as `third_party.py` plays them: each function makes one, with what its kind needs.

Those of the original are wrapped where its own documentation says so: games of turns by PettingZoo's
turn_based_aec_to_parallel, pictures shrunk by supersuit, lbforaging (a Gymnasium environment) by a class of 40 lines.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv
from pettingzoo.utils.conversions import turn_based_aec_to_parallel


def _in_turns(name: str, **arguments: Any) -> ParallelEnv:
    return turn_based_aec_to_parallel(import_module(f"pettingzoo.classic.{name}").env(**arguments))


# ------------------------------------------------------------------ PettingZoo classic
def rps() -> ParallelEnv:
    return import_module("pettingzoo.classic.rps_v2").parallel_env(max_cycles=15)


def tictactoe() -> ParallelEnv:
    return _in_turns("tictactoe_v3")


def connect_four() -> ParallelEnv:
    return _in_turns("connect_four_v3")


def hanabi() -> ParallelEnv:
    return _in_turns("hanabi_v5", colors=2, ranks=3, players=2, hand_size=3)


def texas_holdem() -> ParallelEnv:
    return _in_turns("texas_holdem_v4")


# ------------------------------------------------------------------ PettingZoo butterfly and sisl
def _small(env: ParallelEnv, size: int) -> ParallelEnv:
    supersuit = import_module("supersuit")
    return supersuit.resize_v1(supersuit.color_reduction_v0(env, mode="full"), x_size=size, y_size=size)


def pistonball() -> ParallelEnv:
    return _small(import_module("pettingzoo.butterfly.pistonball_v6").parallel_env(n_pistons=6, continuous=False), 20)


def pistonball_pictures() -> ParallelEnv:
    return import_module("pettingzoo.butterfly.pistonball_v6").parallel_env(continuous=False)


def cooperative_pong() -> ParallelEnv:
    return _small(import_module("pettingzoo.butterfly.cooperative_pong_v6").parallel_env(max_cycles=200), 24)


def knights_archers_zombies() -> ParallelEnv:
    return import_module("pettingzoo.butterfly.knights_archers_zombies_v11").parallel_env(max_cycles=200)


def pursuit() -> ParallelEnv:
    return import_module("pettingzoo.sisl.pursuit_v5").parallel_env(max_cycles=100)


def multiwalker() -> ParallelEnv:
    return import_module("pettingzoo.sisl.multiwalker_v9").parallel_env()


# ------------------------------------------------------------------ others
def adversarial_pursuit() -> ParallelEnv:
    """MAgent2."""
    module = import_module("magent2.environments.adversarial_pursuit_v4")
    return module.parallel_env(map_size=16, max_cycles=50)


def kitchen() -> ParallelEnv:
    return import_module("frondori_kitchen").KitchenEnv()


def speaker_listener() -> ParallelEnv:
    return import_module("cooperative_marl_labs").SpeakerListenerEnv()


def wireless() -> ParallelEnv:
    return import_module("cooperative_marl_labs").WirelessResourceAllocationEnv()


def stacked_spread() -> ParallelEnv:
    """mpe2 with three frames, by supersuit."""
    return import_module("supersuit").frame_stack_v1(import_module("mpe2.simple_spread_v3").parallel_env(), 3)


def foraging() -> ParallelEnv:
    return Foraging()


class Foraging(ParallelEnv):
    """lbforaging's Foraging-8x8-2p-2f as a ParallelEnv: tuples in the order of the agents become dictionaries."""

    metadata = {"name": "foraging_v3", "render_modes": []}  # noqa: RUF012
    render_mode = None

    def __init__(self) -> None:
        import_module("lbforaging")
        self.inner = import_module("gymnasium").make("Foraging-8x8-2p-2f-v3", disable_env_checker=True)
        self.possible_agents = [f"player_{n}" for n in range(len(self.inner.action_space))]
        self.agents: list[str] = []
        self._seen = {
            name: spaces.Box(-np.inf, np.inf, space.shape, np.float32)
            for name, space in zip(self.possible_agents, self.inner.observation_space, strict=True)
        }
        self._done = dict(zip(self.possible_agents, self.inner.action_space, strict=True))

    def observation_space(self, agent: str) -> spaces.Space:
        return self._seen[agent]

    def action_space(self, agent: str) -> spaces.Space:
        return self._done[agent]

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        observations, _ = self.inner.reset(seed=seed)
        self.agents = list(self.possible_agents)
        return self._named(observations), {name: {} for name in self.agents}

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        acting = list(self.agents)
        observations, rewards, terminated, truncated, _ = self.inner.step(tuple(actions[name] for name in acting))
        if terminated or truncated:
            self.agents = []
        ends = dict.fromkeys(acting, bool(terminated)), dict.fromkeys(acting, bool(truncated))
        paid = {name: float(reward) for name, reward in zip(acting, rewards, strict=True)}
        return self._named(observations), paid, *ends, {name: {} for name in acting}

    def _named(self, observations: Any) -> dict[str, np.ndarray]:
        return {
            name: np.asarray(seen, np.float32) for name, seen in zip(self.possible_agents, observations, strict=True)
        }

    def close(self) -> None:
        self.inner.close()
