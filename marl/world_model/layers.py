"""Layers whose weights have leading dimensions: one batched matrix product serves all replicas (and members).

Shape suffixes: S replicas, G groups within a replica, n rows, T steps, B sequences, I inputs,
W outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from envs.streams import Stream


class Dense(nn.Module):
    """x @ weight + bias with weight [S * G, in, out]; rows [S * G, n, in] to [S * G, n, out].

    Args:
        inputs, outputs: widths.
        stream: noise of the initial weights; its rows are the replicas.
        groups: G, members of a replica that share nothing.
        gain: scale of the initial weights, whose variance is gain^2 / inputs.
        bias: whether a bias is added.
    """

    def __init__(
        self, inputs: int, outputs: int, stream: Stream, groups: int = 1, gain: float = 1.0, bias: bool = True
    ) -> None:
        super().__init__()
        draws = stream.uniform(groups, inputs, outputs).flatten(0, 1)
        self.weight = nn.Parameter((draws * 2 - 1) * (gain * (3.0 / inputs) ** 0.5))
        draws = stream.uniform(groups, 1, outputs).flatten(0, 1)
        self.bias = nn.Parameter((draws * 2 - 1) * (gain * inputs**-0.5)) if bias else None

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """`added` [S * G, n, out] stands in for the bias where there is none."""
        start = self.bias if added is None else added
        return torch.bmm(x, self.weight) if start is None else torch.baddbmm(start, x, self.weight)

    def repeated_bias(self, frames: Sequence[int]) -> Tensor:
        """The bias at every frame, a view [S, T, B, W]."""
        assert self.bias is not None
        return self.bias[:, None].expand(-1, *frames, -1)


class MLP(nn.Module):
    """Hidden layers of linear and SiLU, and a linear layer at the end.

    Without normalisation: it takes the length out of a vector, and open-loop errors on MPE were a third larger with it.

    Args:
        sizes: widths from input to output.
        stream: noise of the initial weights.
        groups: G.
        gain: scale of the initial weights.
    """

    def __init__(self, sizes: Sequence[int], stream: Stream, groups: int = 1, gain: float = 1.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Dense(i, o, stream, groups, gain) for i, o in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """[S * G, n, in] to [S * G, n, out]."""
        for layer in self.layers[:-1]:
            x = F.silu(layer(x))
        return self.layers[-1](x)


class Unrolled:
    """A linear layer applied step by step, whose weight gradient is one product over all steps.

    Autograd would form the weight's gradient anew at every step from B rows and add the T results up, which costs
    more than the layer itself where B is small. Here a step passes gradients to its input only; the outputs'
    gradients meet in `added`, where the weight's is taken.

    Args:
        weight: [S, I, W].
        added_STBW: what is added to each step's product: a bias, or another layer's output.
    """

    def __init__(self, weight: Tensor, added_STBW: Tensor) -> None:
        self._inputs: list[Tensor] = []
        self._weight = weight.detach()
        self._added = _WeightGradient.apply(added_STBW, weight, self._inputs).unbind(1)

    def __call__(self, x_SBI: Tensor) -> Tensor:
        """The next step: [S, B, I] to [S, B, W]."""
        added = self._added[len(self._inputs)]
        self._inputs.append(x_SBI.detach())
        return torch.baddbmm(added, x_SBI, self._weight)


class _WeightGradient(torch.autograd.Function):
    """The identity of its first argument; its backward also gives the weight's gradient from the steps' inputs."""

    @staticmethod
    def forward(ctx: Any, added: Tensor, weight: Tensor, inputs: list[Tensor]) -> Tensor:
        ctx.inputs = inputs
        return added.view_as(added)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x_SnI = torch.stack(ctx.inputs, 1).flatten(1, 2)
        return grads[0], torch.bmm(x_SnI.transpose(1, 2), grads[0].flatten(1, 2)), None
