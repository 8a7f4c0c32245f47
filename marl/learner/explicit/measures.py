"""The metrics of an explicit update, from its buffers.

Shape suffixes: S replicas, C critics, N agents, B batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from marl.data.batch import Batch
from marl.learner import losses
from marl.learner.diagnostics.policy_metrics import policy_metrics

if TYPE_CHECKING:
    from marl.learner.explicit.update import ExplicitUpdate


def critic_metrics(update: ExplicitUpdate) -> dict[str, Tensor]:
    """Of the critics before their step."""
    q_CSNB, next_CSNB = update.all_values
    y_SNB = losses.td_target(update.reward, update.discount, next_CSNB.transpose(0, 1))
    loss_SN = ((q_CSNB - y_SNB).square() * update.weight).sum(-1).mean(0)
    return {"critic/loss": loss_SN, "critic/q": q_CSNB.mean((0, 3)), "critic/target": y_SNB.mean(-1)}


def actor_metrics(update: ExplicitUpdate, batch: Batch) -> dict[str, Tensor]:
    """Of the actors before their step, with the own actions valued."""
    learner, S, N = update.learner, update.S, update.N
    mask = learner._mask(batch.mask)
    logits = update.actor_pass.last_XZB.view(S, N, *learner.actor.heads, update.rows).permute(0, 1, 4, 2, 3)
    value_SN = (update.own_pass.last_XZB.view(S, N, update.rows) * update.weight).sum(-1)
    outputs = mask if learner.numbers is None else mask | learner.numbers.mask
    penalty_SN = losses.logit_penalty(logits, outputs, batch.weight)
    loss_SN = learner.config.logit_penalty * penalty_SN - value_SN - learner._bonuses(batch, logits)
    metrics = {"actor/loss": loss_SN, "actor/logits": penalty_SN.sqrt()}
    return metrics | policy_metrics(learner.spec, logits, mask)
