"""Small ParallelEnvs for the tests of adapter and contract; a module, so that worker processes find them."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from pettingzoo import ParallelEnv

from envs import BatchedEnv, Step


class Toy(ParallelEnv):
    """Two agents with a number that drifts with their actions and with seeded noise; keeps the contract.

    `deaths` {agent: step} are terminations, `births` {agent: step} late appearances, `length` is a time limit.
    """

    metadata = {"name": "toy", "render_modes": []}  # noqa: RUF012
    render_mode = None

    def __init__(
        self,
        length: int = 6,
        agents: tuple[str, ...] = ("a_0", "a_1"),
        deaths: dict[str, int] | None = None,
        births: dict[str, int] | None = None,
        ragged: bool = False,
    ) -> None:
        self.possible_agents = list(agents)
        self.agents: list[str] = []
        self.length, self.deaths, self.births, self.ragged = length, deaths or {}, births or {}, ragged
        self.observation_spaces = {name: self.make_observation_space(name) for name in agents}
        self.action_spaces = {name: self.make_action_space(name) for name in agents}
        self.received: list[dict[str, Any]] = []

    def make_observation_space(self, name: str) -> spaces.Space:
        return spaces.Box(-10.0, 10.0, (3,), np.float32)

    def make_action_space(self, name: str) -> spaces.Space:
        return spaces.Discrete(4)

    def observation_space(self, agent: str) -> spaces.Space:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space:
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        self.seed = seed
        self.rng = np.random.default_rng(seed)
        self.t = 0
        self.limit = self.length + (int(self.rng.integers(5)) if self.ragged else 0)
        self.agents = [name for name in self.possible_agents if self.births.get(name, 0) == 0]
        self.x = {name: float(self.rng.uniform(-1, 1)) for name in self.possible_agents}
        return {name: self.observe(name) for name in self.agents}, self.infos(self.agents)

    def observe(self, name: str) -> Any:
        return np.array([self.x[name], self.t / 10, len(self.agents)], np.float32)

    def infos(self, names: list[str]) -> dict:
        return {name: {} for name in names}

    def reward(self, name: str) -> Any:
        return self.x[name]

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        self.received.append(dict(actions))
        self.t += 1
        acting = self.agents
        for name in acting:
            self.x[name] = 0.9 * self.x[name] + 0.1 * float(np.sum(actions[name])) + 0.01 * self.rng.normal()
        terminations = {name: self.deaths.get(name) == self.t for name in acting}
        truncations = dict.fromkeys(acting, self.t >= self.limit)
        born = [name for name in self.possible_agents if self.births.get(name) == self.t]
        shown = acting + born
        observations = {name: self.observe(name) for name in shown}
        rewards = {name: self.reward(name) for name in acting}
        self.agents = [name for name in acting if not (terminations[name] or truncations[name])] + born
        return observations, rewards, terminations, truncations, self.infos(shown)


class Masked(Toy):
    """Only choices below 1 + t mod 4 are allowed; PettingZoo's convention in the observation."""

    def make_observation_space(self, name: str) -> spaces.Space:
        return spaces.Dict(
            {"observation": spaces.Box(-10.0, 10.0, (3,), np.float32), "action_mask": spaces.MultiBinary(4)}
        )

    def mask(self, name: str) -> np.ndarray:
        return (np.arange(4) <= self.t % 4).astype(np.int8)

    def observe(self, name: str) -> Any:
        return {"observation": super().observe(name), "action_mask": self.mask(name)}


class MaskedInfo(Toy):
    """The same mask in the infos."""

    def infos(self, names: list[str]) -> dict:
        return {name: {"action_mask": (np.arange(4) <= self.t % 4).astype(np.int8)} for name in names}


class Talkers(Toy):
    """a_0 sees one of three colours and chooses move x message (2 x 3); a_1 hears the message one step later."""

    def make_observation_space(self, name: str) -> spaces.Space:
        return spaces.Box(-10.0, 10.0, (3,) if name == "a_0" else (5,), np.float32)

    def make_action_space(self, name: str) -> spaces.Space:
        return spaces.Discrete(6, start=1) if name == "a_0" else spaces.Discrete(3)

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        self.heard = np.zeros(3, np.float32)
        self.colour = np.eye(3, dtype=np.float32)[0 if seed is None else seed % 3]
        return super().reset(seed)

    def observe(self, name: str) -> Any:
        return self.colour.copy() if name == "a_0" else np.r_[self.x[name], self.t, self.heard].astype(np.float32)

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        self.heard = np.eye(3, dtype=np.float32)[(actions["a_0"] - 1) // 2]
        return super().step(actions)


class Vectors(Toy):
    """MultiDiscrete actions."""

    def make_action_space(self, name: str) -> spaces.Space:
        return spaces.MultiDiscrete([2, 3]) if name == "a_0" else spaces.MultiDiscrete([4])


class Once(Toy):
    """Plays one episode; another one takes another instance."""

    begun = False

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        if self.begun:
            raise RuntimeError("one episode only")
        self.begun = True
        return super().reset(seed)


class Exploding(Toy):
    """Raises in the third step."""

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        if self.t == 2:
            raise ZeroDivisionError("the sky fell")
        return super().step(actions)


class Unclosable(Toy):
    """Cannot be closed."""

    def close(self) -> None:
        raise RuntimeError("no window")


class Dying(Toy):
    """Its process dies in the third step of the copies whose seed is odd, as by a crash in native code."""

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        if self.t == 2 and self.seed % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(actions)


class Hanging(Toy):
    """Never returns from the third step."""

    def step(self, actions: dict[str, Any]) -> tuple[dict, dict, dict, dict, dict]:
        if self.t == 2:
            time.sleep(3600)
        return super().step(actions)


class Unseeded(Toy):
    """Ignores the seed."""

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        return super().reset(None)


def not_an_env() -> int:
    return 3


def raising() -> Toy:
    raise FileNotFoundError("no level file")


number = 3


# ------------------------------------------------------------ for every backend
def actions_of(env: BatchedEnv, generator: torch.Generator) -> torch.Tensor:
    """Uniform allowed actions [N, E, H]."""
    head = env.spec.head_mask[:, None].expand(-1, env.num_envs, -1, -1)
    allowed = head if env.mask is None else env.mask
    probs = (allowed | ~head.any(-1, keepdim=True)).float()
    flat = torch.multinomial(probs.reshape(-1, probs.shape[-1]), 1, generator=generator)
    return flat.view(probs.shape[:-1])


def same_step(one: Step, two: Step) -> None:
    """Equal to the bit in every field."""
    for name, value in vars(one).items():
        other = getattr(two, name)
        assert (value is None) == (other is None), name
        assert value is None or torch.equal(value, other), name
