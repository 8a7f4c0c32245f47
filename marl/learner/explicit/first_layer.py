"""What critics read, and the products of their first layer: of the joint row, or of each agent's own rows (factored).

Shape suffixes: S replicas, C critics, N agents, Y perceptrons of all replicas, or S where all of one share their input,
B batch, O observation, A action, I inputs of a layer with the bias, W width, Z outputs of a layer (of all perceptrons
of a replica where their input is shared).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from marl.learner.networks.factored_critic import FactoredCritic

if TYPE_CHECKING:
    from marl.learner.explicit.update import ExplicitUpdate


class FirstLayer:
    """The first layer of an update's critics, of which the other layers are `Pass`es and `Backward`s."""

    def __init__(self, update: ExplicitUpdate) -> None:
        S, C, N, A, B, width = update.S, update.C, update.N, update.A, update.rows, update.width
        critic, weights, W = update.learner.critic, update.critics.weights[0], update.learner.critic.mlp.sizes[1]
        self.factored = critic if isinstance(critic, FactoredCritic) else None
        joint = self.factored is None
        self.read = update.joint if joint else torch.ones(2, S * N, width + A + 1, B)  # this step and the next
        if not joint:
            seen, own = N * width, self.read.unflatten(1, (S, N))
            self.parts = [
                (own[:, :, :, :width], update.joint[:, :, :seen].unflatten(2, (N, width))),
                (own[:, :, :, width:-1], update.joint[:, :, seen:-1].unflatten(2, (N, A))),
            ]
        Y, Z = (S, N * W) if joint else (S * N, W)
        first_YZI, pre = update.critic_weights[0], update.both_pass.pre[0].view(2 * C, Y, Z, B)
        if C == 1:
            self.products = [(first_YZI, self.read.flatten(0, 1), pre.view(2 * Y, Z, B))]
        else:  # by set, since twins read the same
            sets = first_YZI.unflatten(0, (2 * C, Y))
            self.products = [(sets[k], self.read[k // C], pre[k]) for k in range(2 * C)]
        grad = update.critic_back.grad[0].view(C, Y, Z, B).transpose(2, 3)
        into = update.critic_grads.weights[0].unflatten(0, (C, Y))
        self.gradients = [(self.read[0], grad[c], into[c]) for c in range(C)]
        # an agent's own action: its rows of the layer, a view [S, N, A, W]
        rows_YIZ = weights[:Y, :-1]
        if joint:
            rows_SDZ = rows_YIZ[:, N * width :].unflatten(1, (N, A)).unflatten(3, (N, W))
            self.own_rows = rows_SDZ.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
        else:
            self.own_rows = rows_YIZ[:, width:].unflatten(0, (S, N))
        self._own = (first_YZI[:Y], self.read[0], update.own_pass.pre[0].view(Y, Z, B))

    def forward(self) -> None:
        """The pre-activations of critics and target critics."""
        if self.factored is not None:
            for own, everybody in self.parts:
                own.copy_(everybody)
        for weight, x, out in self.products:
            torch.bmm(weight, x, out=out)

    def backward(self) -> None:
        """The gradients of the critics' weights, from those at their pre-activations."""
        for x, grad, out in self.gradients:
            torch.bmm(x, grad, out=out)

    def own(self) -> None:
        """The pre-activations of the first critics as they are now."""
        torch.bmm(self._own[0], self._own[1], out=self._own[2])

    def add_up(self, terms: Tensor) -> None:
        """Of terms [..., N, B] the sums over teams, in place; and of the gradients at sums those at their terms."""
        if self.factored is not None:
            terms.copy_(torch.matmul(self.factored.sum_NN, terms))
