"""What actors are paid for speaking and listening, beside their values.

Shape suffixes: S replicas, N agents, B batch, H heads, K choices of a head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from marl.data.batch import Batch
from marl.learner import losses

if TYPE_CHECKING:
    from marl.learner.maddpg import MADDPG


def bonuses(learner: MADDPG, batch: Batch, logits: Tensor) -> Tensor:
    """Signalling and listening bonuses of every agent, [S, N], as the learner's settings have them.

    Over the rows in which the agent was there, with frozen opponents too: a bonus needs no action.

    Args:
        learner: whose actors are paid; with its settings and schedules.
        batch: what is learned from.
        logits: the actors' [S, N, B, H, K] at its observations.
    """
    cfg, spec = learner.config, learner.spec
    total_SN = logits.new_zeros(logits.shape[:2])
    if cfg.signalling_bonus > 0:
        for sender, head in sorted({(route.sender, route.head) for route in spec.routes}):
            choices = learner.head_mask[sender, :, head]
            own_S1BK = logits[:, sender : sender + 1, :, head]
            there_S1B = None if batch.active is None else batch.active[:, sender : sender + 1]
            bonus_S1 = losses.signalling_bonus(own_S1BK, choices, cfg.signalling_k, there_S1B)
            padded_SN = F.pad(bonus_S1, (sender, spec.num_agents - 1 - sender))
            total_SN = total_SN + learner.schedules.signalling * padded_SN
    if cfg.listening_bonus > 0 and spec.routes:
        muted = batch.obs.clone()
        for receiver, slot in spec.heard:
            muted[:, receiver, :, slot].zero_()
        deaf = learner._logits(batch, muted).detach()
        bonus = losses.listening_bonus(logits, deaf, learner._mask(batch.mask), batch.active)
        total_SN = total_SN + cfg.listening_bonus * bonus
    return total_SN
