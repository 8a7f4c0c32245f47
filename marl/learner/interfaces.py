"""What a learner can be given from outside: a share of updates that several processes compute, and a loss of others.

Shape suffixes: S replicas, G groups of parameters, P parameters; X terms of a loss.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from envs.streams import Stream


class UpdateShare(Protocol):
    """One process's share of every update, where several processes compute each update together."""

    def mean(self, gradient_SGP: Tensor) -> Tensor:
        """The mean of a gradient over all processes, [S, G, P]."""

    def stream(self, whole: Stream) -> Stream:
        """`whole`, of whose draws [..., B, H, K] it gives this process's rows of B."""


class ActorLoss(Protocol):
    """A loss of the actors beside the learner's own, as a world model has it."""

    def loss(self, temperature: Tensor) -> Tensor:
        """Its terms [S, X] at the relaxation's temperature; their sum is added to the actors' loss."""


class Learner(Protocol):
    """What `further_gradient` reads of a learner."""

    actor_loss: ActorLoss | None
    actor: Any
    schedules: Any


def further_gradient(learner: Learner) -> Tensor | None:
    """Of a further loss of the actors at their parameters, [S, G, P], by autograd; None: there is none now."""
    if learner.actor_loss is None:
        return None
    total = learner.actor_loss.loss(learner.schedules.temperature).sum()
    return torch.autograd.grad(total, learner.actor.mlp.flat)[0] if total.requires_grad else None
