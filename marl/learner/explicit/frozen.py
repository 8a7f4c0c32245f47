"""Frozen opponents in the explicit update: what `marl.learner.population.pool.PoolMADDPG` does by autograd.

Shape suffixes: S replicas, N agents, B batch, A action.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from marl.data.batch import Batch

if TYPE_CHECKING:
    from marl.learner.explicit.update import ExplicitUpdate


class Frozen:
    """What a batch holds of frozen agents, put over what an update has drawn for them.

    Args:
        update: its buffers are written; with what is loaded they are features first, [.., B].
    """

    def __init__(self, update: ExplicitUpdate) -> None:
        S, N, A, B = update.S, update.N, update.A, update.rows
        self.routes, self._obs = update.routes, (update.joint_obs_SNOB, update.obs_SNOB)
        self._into_SNAB = update.joint[1][:, -1 - N * A : -1].unflatten(1, (N, A))
        self.frozen_SN1B = torch.zeros(S, N, 1, B, dtype=torch.bool)
        self.action_SNAB = torch.zeros(S, N, A, B)
        self.heard = [torch.zeros(S, route.size, B) for route in self.routes]
        self.there = False  # the batch is of a run against a pool

    def load(self, batch: Batch) -> None:
        """Of a batch whose observations the update has loaded."""
        self.there = batch.next_action is not None
        if not self.there:
            return
        self.frozen_SN1B.copy_(batch.frozen[:, :, None])
        self.action_SNAB.copy_(batch.frozen_action.transpose(2, 3))
        for route, heard in zip(self.routes, self.heard, strict=True):
            heard.copy_(self._obs[0][:, route.receiver, route.slot])

    def put(self) -> None:
        """Their next actions, and the messages that frozen senders have said."""
        if not self.there:
            return
        self._into_SNAB.copy_(torch.where(self.frozen_SN1B, self.action_SNAB, self._into_SNAB))
        for route, heard in zip(self.routes, self.heard, strict=True):
            for obs_SNOB in self._obs:
                slot = obs_SNOB[:, route.receiver, route.slot]
                slot.copy_(torch.where(self.frozen_SN1B[:, route.sender], heard, slot))
