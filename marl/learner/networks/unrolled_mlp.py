"""The same perceptrons at every step of a rollout: parameters prepared once, and their gradient taken once.

Autograd would prepare the parameters anew at every step, form their gradient from every step's rows and add the results
up. Here a step passes gradients to its input only; layers' inputs and gradients of all steps meet in one product a
layer at the end.

Rows come in blocks of equal size, and a perceptron's parameters are live in one of these blocks: in all others they are
constants, through which gradients pass to the inputs alone (world_model/imagination/through.py tells what for).

Shape suffixes: S replicas, N agents, X = S * N perceptrons, B rows, L rows of one block, I inputs and O outputs of a
layer, P parameters of one perceptron.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from marl.learner.networks.grouped_mlp import backward, blocks, forward, prepare


class UnrolledMLP:
    """Perceptrons at several steps, differentiable once in every step's inputs and in the parameters.

    Args:
        flat_SNP: parameters, of every layer the weight [I, O], then the bias [O].
        sizes: widths from input to output.
        layer_norm: hidden layers are normalised.
        block_N: int64, in which block of rows each perceptron's parameters are live.
        num_blocks: how many there are.
    """

    def __init__(
        self, flat_SNP: Tensor, sizes: Sequence[int], layer_norm: bool, block_N: Tensor, num_blocks: int
    ) -> None:
        self.sizes, self.layer_norm = tuple(sizes), layer_norm
        self.num_blocks, self.groups = num_blocks, flat_SNP.shape[:2]
        self.block_X = block_N.repeat(len(flat_SNP))
        self._every_X = torch.arange(len(self.block_X), device=block_N.device)
        with torch.no_grad():
            self.parameters = prepare(flat_SNP, sizes, layer_norm)
        self.seen: list[list[tuple[Tensor, Tensor]]] = [[] for _ in self.sizes[1:]]  # inputs and gradients by layer
        # a number that every step depends on and that depends on the parameters: its backward runs after all of theirs
        self._anchor = _Gather.apply(flat_SNP, self)  # type: ignore[no-untyped-call]

    def __call__(self, x_XIB: Tensor) -> Tensor:
        """Outputs [X, O, B] of one more step from its inputs."""
        output: Tensor = _Step.apply(x_XIB, self._anchor, self)  # type: ignore[no-untyped-call]
        return output

    def live(self, x_XIB: Tensor) -> Tensor:
        """The rows [X, I, L] in which the parameters are live."""
        if self.num_blocks == 1:
            return x_XIB
        rows = x_XIB.unflatten(2, (self.num_blocks, -1))
        kept: Tensor = rows[self._every_X, :, self.block_X]
        return kept


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_XIB: Tensor, anchor: Tensor, unrolled: UnrolledMLP) -> Tensor:
        output, ctx.inputs, ctx.hidden = forward(x_XIB, unrolled.parameters, unrolled.layer_norm)
        ctx.unrolled = unrolled
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        unrolled = ctx.unrolled

        def take(k: int, gradient: Tensor) -> None:
            unrolled.seen[k].append((unrolled.live(ctx.inputs[k]), unrolled.live(gradient)))

        weights, needed = unrolled.parameters[0::2], ctx.needs_input_grad[0]
        to_input = backward(gradient, ctx.inputs, ctx.hidden, weights, unrolled.layer_norm, needed, take)
        return to_input, gradient.new_zeros(()), None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, flat_SNP: Tensor, unrolled: UnrolledMLP) -> Tensor:
        ctx.unrolled, ctx.shape = unrolled, flat_SNP.shape
        return flat_SNP.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, anchor: Tensor) -> tuple[Tensor | None, ...]:
        unrolled, hidden = ctx.unrolled, len(ctx.unrolled.sizes) - 2
        gradient_SNP = anchor.new_zeros(ctx.shape)
        for k, block in enumerate(blocks(gradient_SNP, unrolled.sizes)):
            if not unrolled.seen[k]:
                continue
            inputs, gradients = (torch.cat(parts, dim=2) for parts in zip(*unrolled.seen[k], strict=True))
            block[:, :, :-1] = torch.bmm(inputs, gradients.transpose(1, 2)).unflatten(0, unrolled.groups)
            block[:, :, -1] = gradients.sum(2).unflatten(0, unrolled.groups)
            if unrolled.layer_norm and k < hidden:  # the centring is its own transpose
                block -= block.mean(3, keepdim=True)
        unrolled.seen = [[] for _ in unrolled.seen]
        return gradient_SNP, None
