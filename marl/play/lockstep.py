"""Environments that step together: the real ones of MPE, any other PettingZoo environment, or the batched port."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

import envs
from envs.batched import BatchedEnv, encode_actions
from envs.continuous import rows_of
from envs.ids import names_function
from envs.mpe import catalogue
from envs.pettingzoo.env import PettingZooEnv
from envs.pictures import Small
from envs.spec import EnvSpec
from marl.errors import UserError

if TYPE_CHECKING:
    from marl.play.rollout import Actions, Masks, Observations


class Lockstep(Protocol):
    """Environments that start and step together; a batch may use fewer than there are."""

    spec: EnvSpec
    size: int

    @property
    def active(self) -> np.ndarray | None:
        """Bool [E, N]: the agents that were there to act in the last step; None: always all."""

    def reset(self, seeds: list[int]) -> tuple[Observations, Masks | None]: ...

    def step(self, actions: Actions, running: np.ndarray) -> tuple[Observations, Masks | None, np.ndarray, np.ndarray]:
        """Observations, masks, rewards float64 [E, N] (0 where not running) and ended bool [E]."""
        ...

    def close(self) -> None: ...


def opened(
    env_id: str,
    backend: str,
    env_args: dict[str, Any],
    make: Callable[..., Any] | None,
    size: int,
    spec: EnvSpec | None,
    pictures: Small | None,
) -> Lockstep:
    """So many environments of an id, or of `make`; the arguments are those of `play`.

    Raises:
        UserError: unknown environment, arguments or backend.
    """
    if backend == "torch" and make is None:
        return _Batched(envs.make(env_id, num_envs=size, device="cpu", backend="torch", env_args=env_args))
    if backend != "pettingzoo":
        raise UserError(f"got backend={backend!r}; expected 'pettingzoo', or 'torch' for an MPE id (without make=).")
    if make is None and not names_function(env_id):
        return _RealMPE([catalogue.parallel_env(env_id, **env_args) for _ in range(size)], env_id, spec)
    # float64 keeps rewards as the environment gave them
    return _Batched(
        PettingZooEnv(env_id, size, dtype=torch.float64, spec=spec, make=make, pictures=pictures, env_args=env_args)
    )


class _RealMPE:
    """Real `mpe2` environments: float32 vectors, one integer per agent, all agents stay to the end.

    Their contract is known, so that it need not be checked at every step as `PettingZooEnv` does for any environment;
    and they are stepped agent by agent through `mpe2`'s own AEC interface, since PettingZoo's wrappers, which make a
    parallel environment of it, take two thirds of the time.
    """

    active = None

    def __init__(self, members: list[Any], env_id: str, spec: EnvSpec | None) -> None:
        self.members = [member.unwrapped for member in members]
        self.size = len(members)
        self.spec = spec or catalogue.describe(env_id, members[0])

    def reset(self, seeds: list[int]) -> tuple[Observations, Masks | None]:
        observations = self._empty(len(seeds))
        for e, seed in enumerate(seeds):
            member = self.members[e]
            member.reset(seed=seed)
            for name, array in observations.items():
                array[e] = member.observe(name)
        return observations, None

    def step(self, actions: Actions, running: np.ndarray) -> tuple[Observations, Masks | None, np.ndarray, np.ndarray]:
        count, names = len(running), self.spec.agent_names
        observations = self._empty(count)
        filled = list(observations.items())
        rewards = np.zeros((count, len(names)))
        ended = np.zeros(count, dtype=bool)
        # Python integers: mpe2 changes 0-d arrays in place
        own = [np.asarray(actions[agent.name]) for agent in self.spec.agents]
        rows = zip(*(list(x) if x.ndim > 1 else x.tolist() for x in own), strict=True)
        for e, row in enumerate(rows):
            if not running[e]:
                continue
            member = self.members[e]
            for action in row:
                member.step(action)
            for name, array in filled:
                array[e] = member.observe(name)
            rewards[e] = [member.rewards[name] for name in names]
            ended[e] = member.truncations[names[0]] or member.terminations[names[0]]
        return observations, None, rewards, ended

    def _empty(self, count: int) -> Observations:
        return {agent.name: np.zeros((count, agent.obs_size), dtype=np.float32) for agent in self.spec.agents}

    def close(self) -> None:
        """Drop the environments without closing them: closing one mpe2 environment ends rendering in all."""
        self.members = []


class _Batched:
    """A `BatchedEnv` on the CPU; what its rows play after the end of their episode is not looked at."""

    def __init__(self, env: BatchedEnv) -> None:
        self.env = env
        self.size = env.num_envs
        self.spec = env.spec
        self.active: np.ndarray | None = None

    def reset(self, seeds: list[int]) -> tuple[Observations, Masks | None]:
        self.count = len(seeds)
        missing = self.size - self.count
        if isinstance(self.env, PettingZooEnv):
            obs = self.env.reset_to(seeds + seeds[-1:] * missing)
        else:
            obs = self.env.reset(seeds[0])
        return self._views(obs, self.env.mask)

    def step(self, actions: Actions, running: np.ndarray) -> tuple[Observations, Masks | None, np.ndarray, np.ndarray]:
        missing = self.size - self.count  # a short last batch is filled up with rows that nobody looks at
        full = {name: np.concatenate([ids, ids[-1:].repeat(missing, 0)]) for name, ids in actions.items()}
        played, mask = encode_actions(self.spec, full), self.env.mask  # [N, E, ...]
        if missing and mask is not None:
            allowed_NEH = mask[:, self.count :].to(torch.uint8).argmax(-1)
            for n, allowed_EH in enumerate(allowed_NEH):
                played[n, self.count :] = rows_of(self.spec, n, allowed_EH) if self.spec.continuous else allowed_EH
        step = self.env.step(played)
        over = step.ended
        self.active = None if step.active is None else step.active.T[: self.count].numpy()
        rewards = step.reward.to(torch.float64).T.numpy()[: self.count] * running[:, None]
        return *self._views(step.obs, step.mask), rewards, over[: self.count].numpy()

    def _views(self, obs: torch.Tensor, mask: torch.Tensor | None) -> tuple[Observations, Masks | None]:
        split = self.env.split_obs(obs)
        observations = {name: array[: self.count].to(torch.float32, copy=True).numpy() for name, array in split.items()}
        if mask is None:
            return observations, None
        return observations, {name: mask[n, : self.count].numpy() for n, name in enumerate(self.spec.agent_names)}

    def close(self) -> None:
        self.env.close()
