"""Gated recurrent units of many networks of one shape as batched matrix products, with a backward pass by hand.

What a step adds to the gates from its input does not depend on the steps before it, so that it is computed for all
steps at once (by marl/learner/networks/grouped_mlp.py); only the product with the state runs step by step:

    r = sigmoid(x_r + U_r h),  z = sigmoid(x_z + U_z h),  n = tanh(x_n + r (U_n h)),  h' = (1 - z) n + z h

with a bias in x and in U h. Where `keep` is 0, h is zero before the step: another episode begins there. Autograd's
graph would add up the gradient of U step by step; here it is one product over all steps.

Shape suffixes: X networks, W width of the state, Z = 3 * W gates (of reset, of update, new), T steps, B rows,
R = T * B.

Source: Cho et al. 2014 (arXiv 1406.1078), section 2.3, in the form of torch.nn.GRUCell, whose reset gate stands behind
the product with the state.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def cell(gates_XZB: Tensor, weight_XZW: Tensor, bias_XZ1: Tensor, state_XWB: Tensor) -> Tensor:
    """The state [X, W, B] after one step; differentiable.

    Args:
        gates_XZB: what the inputs add to the gates.
        weight_XZW: U of all gates.
        bias_XZ1: added to U h.
        state_XWB: h.
    """
    width = state_XWB.shape[1]
    inner = torch.baddbmm(bias_XZ1, weight_XZW, state_XWB)
    reset, update = (gates_XZB[:, : 2 * width] + inner[:, : 2 * width]).sigmoid().split(width, dim=1)
    new = torch.addcmul(gates_XZB[:, 2 * width :], reset, inner[:, 2 * width :]).tanh()
    return torch.lerp(new, state_XWB, update)


def unroll(
    gates_XZR: Tensor, weight_XZW: Tensor, bias_XZ1: Tensor, state_XWB: Tensor, keep_X1TB: Tensor
) -> tuple[Tensor, Tensor]:
    """The states before and after every step, both [X, W, R]; those after are differentiable once.

    Args:
        gates_XZR: what the inputs add to the gates; row t * B + b is step t of row b.
        weight_XZW: U of all gates.
        bias_XZ1: added to U h.
        state_XWB: h before the first step; a constant.
        keep_X1TB: 0 where an episode begins at the step, else 1.
    """
    before, after = _Unroll.apply(gates_XZR, weight_XZW, bias_XZ1, state_XWB, keep_X1TB)  # type: ignore[no-untyped-call]
    return before, after


class _Unroll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, gates_XZR: Tensor, weight_XZW: Tensor, bias_XZ1: Tensor, state_XWB: Tensor, keep_X1TB: Tensor
    ) -> tuple[Tensor, Tensor]:
        steps, (networks, width, rows) = keep_X1TB.shape[2], state_XWB.shape
        gates = gates_XZR.unflatten(2, (steps, rows))
        shape = networks, width, steps, rows
        before, after, new = (gates_XZR.new_empty(shape) for _ in range(3))
        inner, both = gates_XZR.new_empty(shape), gates_XZR.new_empty(networks, 2 * width, steps, rows)
        state = state_XWB
        for t in range(steps):
            state = torch.mul(state, keep_X1TB[:, :, t], out=before[:, :, t])
            from_state = torch.baddbmm(bias_XZ1, weight_XZW, state)
            inner[:, :, t] = from_state[:, 2 * width :]
            reset_update = torch.add(gates[:, : 2 * width, t], from_state[:, : 2 * width], out=both[:, :, t]).sigmoid_()
            reset, update = reset_update.split(width, dim=1)
            torch.addcmul(gates[:, 2 * width :, t], reset, from_state[:, 2 * width :], out=new[:, :, t]).tanh_()
            state = torch.lerp(new[:, :, t], state, update, out=after[:, :, t])
        ctx.save_for_backward(before, new, inner, both, weight_XZW, keep_X1TB)
        before_XWR = before.flatten(2)
        ctx.mark_non_differentiable(before_XWR)
        return before_XWR, after.flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor, gradient_XWR: Tensor) -> tuple[Tensor | None, ...]:
        before, new, inner, both, weight_XZW, keep_X1TB = ctx.saved_tensors
        networks, width, steps, rows = before.shape
        gradient = gradient_XWR.unflatten(2, (steps, rows))
        reset, update = both.split(width, dim=1)
        # derivatives of h' and of n's argument with respect to the arguments of n, z and r, of all steps at once
        to_new = (1 - update) * (1 - new.square())
        to_update = (before - new) * update * (1 - update)
        to_reset = inner * reset * (1 - reset)
        to_gates = gradient.new_empty(networks, 3 * width, steps, rows)  # of the arguments of r and z, and of U_n h
        across = weight_XZW.transpose(1, 2)
        later: Tensor | None = None  # gradient of the state that the next step starts from
        for t in reversed(range(steps)):
            now = gradient[:, :, t] if later is None else gradient[:, :, t] + later
            argument = torch.mul(now, to_new[:, :, t], out=to_new[:, :, t])
            torch.mul(argument, to_reset[:, :, t], out=to_gates[:, :width, t])
            torch.mul(now, to_update[:, :, t], out=to_gates[:, width : 2 * width, t])
            torch.mul(argument, reset[:, :, t], out=to_gates[:, 2 * width :, t])
            later = torch.baddbmm(now * update[:, :, t], across, to_gates[:, :, t]).mul_(keep_X1TB[:, :, t])
        to_gates_XZR = to_gates.flatten(2)
        to_weight = torch.bmm(to_gates_XZR, before.flatten(2).transpose(1, 2))
        to_bias = to_gates_XZR.sum(2, keepdim=True)
        to_gates[:, 2 * width :] = to_new  # of the input's part of n, which has no reset gate
        return to_gates_XZR, to_weight, to_bias, None, None
