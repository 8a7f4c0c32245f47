"""Agents that come and leave in the explicit update: what `marl.learner.leaving` does by autograd.

Shape suffixes: S replicas, N agents, B batch, O observation, A action, D joint input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from marl.data.batch import Batch
from marl.learner.leaving import goes_on
from marl.learner.networks.factored_critic import FactoredCritic

if TYPE_CHECKING:
    from marl.learner.explicit.update import ExplicitUpdate


class Leaving:
    """Who stands in the next joint rows of an update, and the own values of agents that were truncated alone.

    Args:
        update: its buffers are read and written; with what is loaded they are features first, [.., B].
    """

    def __init__(self, update: ExplicitUpdate) -> None:
        self._update = update
        self.later = torch.ones(update.S, update.N, update.rows)  # 0 or 1, whether the agent acts at the next step
        self._alone: tuple[Tensor, Tensor] | None = None  # bool [S, N, 1, B] truncated alone; their last observations
        critic = update.learner.critic
        self._sum_NN = critic.sum_NN if isinstance(critic, FactoredCritic) else None
        self._team_SNB: Tensor | None = None  # whose target a team takes

    def load(self, batch: Batch) -> None:
        """Of a batch that the update has loaded: next observations of absent agents become zeros, and of a team the
        rewards and discounts are those of one that goes on."""
        self._alone = self._team_SNB = None
        if batch.next_active is None:
            return
        update = self._update
        self.later.copy_(batch.next_active)
        update.next_obs_SNOB.mul_(self.later[:, :, None])
        if self._sum_NN is not None:
            self._team_SNB = goes_on(batch, self._sum_NN)
            for own_SNB in (update.reward, update.discount):
                own_SNB.copy_(own_SNB.gather(1, self._team_SNB))
        if bool(batch.leaving.any()):
            self._alone = batch.leaving[:, :, None], batch.next_obs.transpose(2, 3)

    def put(self) -> None:
        """Into the next values those of agents that were truncated alone, and of a team those of one that goes on."""
        values_CSNB = self._update.all_values[1]
        if self._alone is not None:
            self._put_own(values_CSNB, *self._alone)
        if self._team_SNB is not None:
            values_CSNB.copy_(values_CSNB.gather(2, self._team_SNB.expand(values_CSNB.shape)))

    def _put_own(self, values_CSNB: Tensor, alone_SN1B: Tensor, obs_SNOB: Tensor) -> None:
        """From rows in which those that were truncated alone still act."""
        update = self._update
        S, N, A, seen = update.S, update.N, update.A, update.N * update.width
        action_SNAB = update.early_choice[: S * N].unflatten(0, (S, N))
        joint_SDB = update.joint[1][:, :-1].clone()
        shown_SNOB, done_SNAB = joint_SDB[:, :seen].unflatten(1, (N, -1)), joint_SDB[:, seen:].unflatten(1, (N, A))
        shown_SNOB.copy_(torch.where(alone_SN1B, obs_SNOB, shown_SNOB))
        done_SNAB.copy_(torch.where(alone_SN1B, action_SNAB, done_SNAB))
        with torch.no_grad():
            own_SCNB = update.learner.target_critic(joint_SDB.transpose(1, 2))
        values_CSNB.copy_(torch.where(alone_SN1B[:, :, 0], own_SCNB.transpose(0, 1), values_CSNB))
