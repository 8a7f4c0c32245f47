"""Continuous heads in the explicit update: what marl/learner/continuous.py does by autograd, and its gradient by hand.

y = tanh(x) of an actor's output x (of a Gaussian policy tanh(x + s e)), so that the actor loss has the gradient
g (1 - y^2) at x, where g is its gradient at the number.

Shape suffixes: S replicas, N agents, B batch, H heads, K choices or numbers, A = H * K, X = S * N.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from marl.learner.explicit.update import ExplicitUpdate


class ExplicitNumbers:
    """The numbers of the target actors and of the own actions, put into the buffers of an update.

    Args:
        update: its buffers are written; features first, [.., B].
    """

    def __init__(self, update: ExplicitUpdate) -> None:
        spec, numbers = update.learner.spec, update.learner.numbers
        assert numbers is not None
        self._update, self._numbers = update, numbers
        self._mask_XA1 = spec.number_mask.flatten(1).repeat(update.S, 1)[..., None]
        self._own_XAB = torch.zeros(update.S * update.N, update.A, update.rows)
        # `logit_gradient` divides the penalty by an agent's choices alone, and its numbers are outputs too
        choices_N1, numbers_N1 = (x.flatten(1).sum(1, keepdim=True) for x in (spec.head_mask, spec.number_mask))
        share_N1 = 1.0 / (choices_N1 + numbers_N1).clamp(min=1)
        less_N1 = torch.where(numbers_N1 > 0, share_N1 - 1.0 / choices_N1.clamp(min=1), 0.0)
        owed_NA = torch.where(spec.number_mask.flatten(1), share_N1, less_N1 * spec.head_mask.flatten(1))
        self._owed_XA1 = 2.0 * update.learner.config.logit_penalty * owed_NA.repeat(update.S, 1)[..., None]

    def next(self) -> None:
        """The target actors' numbers beside the choices of their next actions."""
        update = self._update
        cut = update.S * update.N
        update.early_choice[:cut].add_(self._of(update.early_logits[:cut], "target"))

    def draw(self) -> None:
        """The numbers of the own actions, from the actors' outputs."""
        self._own_XAB.copy_(self._of(self._update.actor_pass.last_XZB, "own"))

    def put(self) -> None:
        """Those over what the own actions hold at their entries."""
        choice = self._update.choice
        torch.where(self._mask_XA1, self._own_XAB, choice, out=choice)

    def gradient(self) -> None:
        """Of the actor loss at the outputs of continuous heads; and what the penalty on choices is short of."""
        update = self._update
        slope_XAB = (1.0 - self._own_XAB.square()).mul_(update.grad_action).mul_(self._mask_XA1)
        pull_XAB = update.actor_pass.last_XZB * (self._owed_XA1 * update.weight.view(-1, 1, update.rows))
        update.grad_logits.add_(slope_XAB).add_(pull_XAB)

    def _of(self, outputs_XAB: Tensor, purpose: str) -> Tensor:
        """Numbers [X, A, B], 0 at the entries of choices."""
        update = self._update
        outputs_SNHKB = outputs_XAB.view(update.S, update.N, -1, update.K, update.rows)
        numbers_SNBHK = self._numbers(outputs_SNHKB.permute(0, 1, 4, 2, 3), purpose)
        return numbers_SNBHK.permute(0, 1, 3, 4, 2).reshape_as(outputs_XAB)
