"""Episodes in lockstep through the channel that their player was trained with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from envs.batched import encode_actions
from envs.conditions import Condition, Slots
from marl.errors import UserError

if TYPE_CHECKING:
    from marl.play.lockstep import Lockstep
    from marl.play.rollout import Actions, Masks, Observations


def condition_of(players: Iterable[Any]) -> Condition | None:
    """What players hear through; None: the channel as it is, and of players that know of none, as scripts.

    Raises:
        UserError: two of them were trained with different channels.
    """
    known = {player.condition for player in players if hasattr(player, "condition")}
    if len(known) > 1:
        names = " and ".join(sorted("the channel as it is" if one is None else one.kind for one in known))
        raise UserError(
            f"players that were trained with different channels ({names}) cannot play together; expected runs of one "
            f"--channel (and one --channel-noise)."
        )
    return known.pop() if known else None


class Through:
    """Environments in lockstep in which agents hear what a condition lets arrive.

    The noise of an episode is a function of its seed; what `shuffled` lets arrive is heard in the episode beside it,
    and an episode that is played alone, or whose neighbour is over, hears nothing.

    Args:
        inner: the environments.
        condition: what arrives.

    Raises:
        UserError: the condition does not fit to the agents.
    """

    def __init__(self, inner: Lockstep, condition: Condition) -> None:
        condition.check(inner.spec)
        self.inner, self.condition = inner, condition
        self.spec, self.size = inner.spec, inner.size

    @property
    def active(self) -> np.ndarray | None:
        return self.inner.active

    def reset(self, seeds: list[int]) -> tuple[Observations, Masks | None]:
        observations, masks = self.inner.reset(seeds)
        self._slots = Slots(self.spec, self.condition, seeds, len(seeds))
        return self._split(self._slots.begin(self._padded(observations))), masks

    def step(self, actions: Actions, running: np.ndarray) -> tuple[Observations, Masks | None, np.ndarray, np.ndarray]:
        observations, masks, rewards, ended = self.inner.step(actions, running)
        raw_NEO = self._padded(observations) * torch.from_numpy(running)[:, None]
        heard = self._slots.arriving(encode_actions(self.spec, actions), raw_NEO)
        self._slots.remember(raw_NEO)
        return self._split(self._slots.written(raw_NEO, heard)), masks, rewards, ended

    def close(self) -> None:
        self.inner.close()

    def _padded(self, observations: Observations) -> Tensor:
        count = len(next(iter(observations.values())))
        obs_NEO = torch.zeros(self.spec.num_agents, count, self.spec.obs_size)
        for n, agent in enumerate(self.spec.agents):
            obs_NEO[n, :, : agent.obs_size] = torch.from_numpy(observations[agent.name])
        return obs_NEO

    def _split(self, obs_NEO: Tensor) -> Observations:
        return {agent.name: obs_NEO[n, :, : agent.obs_size].numpy() for n, agent in enumerate(self.spec.agents)}
