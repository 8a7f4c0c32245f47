"""Multilayer perceptrons of one shape, forward and backward by hand in buffers made once (explicit_update.py).

The arithmetic is that of grouped_mlp.py, without autograd: [.., features, B], every input with a last feature that is
1, and centred weights of normalised layers, made from the flat parameters by `Layers`.

Shape suffixes: S replicas, G groups of parameters, X perceptrons, Y = X, or S where all of a replica share their input,
B rows, I inputs of a layer with the bias, W width of a hidden layer, Z outputs of a layer (of all perceptrons of a
replica where their input is shared), P parameters of one perceptron.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from marl.learner.explicit.kernels import Kernels


class Pass:
    """X perceptrons at B rows: what a forward pass leaves and a backward pass needs.

    Args:
        count: X.
        sizes: widths from input to output.
        rows: B.
        norm: hidden layers are normalised.
        form: the kernels.
        of: share the first X of this pass's buffers.
    """

    def __init__(
        self, count: int, sizes: Sequence[int], rows: int, norm: bool, form: Kernels, of: Pass | None = None
    ) -> None:
        self.norm, self.form, hidden = norm, form, sizes[1:-1]
        if of is None:
            self.pre = [torch.zeros(count, w, rows) for w in hidden]  # at last normalised, where `norm`
            self.scale = [torch.zeros(count, rows) for _ in hidden]
            self.out = [torch.ones(count, w + 1, rows) for w in hidden]
            self.last_XZB = torch.zeros(count, sizes[-1], rows)
        else:
            self.pre, self.scale, self.out = ([x[:count] for x in xs] for xs in (of.pre, of.scale, of.out))
            self.last_XZB = of.last_XZB[:count]
        self._bound = [[form.bind(x) for x in layer] for layer in zip(self.pre, self.scale, self.out, strict=True)]
        self._into = [*self.pre[1:], self.last_XZB]

    def forward(self, across: Sequence[Tensor]) -> Tensor:
        """Outputs [X, Z, B] from the first pre-activation; `across` are the weights [X, Z, I] of all layers."""
        for bound, out, weight, into in zip(self._bound, self.out, across[1:], self._into, strict=True):
            self.form.hidden(*bound, self.norm)
            torch.bmm(weight, out, out=into)
        return self.last_XZB


class Backward:
    """Gradients of X perceptrons from the gradient at their outputs, by the buffers of a `Pass`."""

    def __init__(self, run: Pass, weights: Sequence[Tensor], into: Sequence[Tensor] | None) -> None:
        """`weights` [X, I, Z] of every layer; `into`: where the gradients of all but the first go, if anywhere."""
        self.run = run
        self.grad = [torch.zeros_like(x) for x in run.pre]  # at the pre-activations
        self._last = run.form.bind(weights[-1]) if weights[-1].shape[2] == 1 else None
        self._bound = [run.form.bind(x) for x in self.grad]
        self._across = [x.transpose(1, 2) for x in self.grad]
        self._inward = [w[:, :-1] for w in weights[1:]]
        self.weights: Sequence[Tensor] = into if into is not None else []

    def __call__(self, last_XZB: Tensor) -> Tensor:
        """The gradient at the first pre-activation, [X, W, B]."""
        run, grad, across = self.run, last_XZB, last_XZB.transpose(1, 2)
        for k in reversed(range(len(self.grad))):
            if self.weights:
                torch.bmm(run.out[k], across, out=self.weights[k])
            if self._last is not None and k == len(self.grad) - 1:
                run.form.outer_back(self._last, run.form.bind(grad), self._bound[k], *run._bound[k], run.norm)
            else:
                torch.bmm(self._inward[k], grad, out=self.grad[k])
                run.form.hidden_back(self._bound[k], *run._bound[k], run.norm)
            grad, across = self.grad[k], self._across[k]
        return grad


class Layers:
    """Parameters of sets of perceptrons in the layout of the products, made from flat ones [S, G, P] by the kernels.

    Args:
        module: an actor or a critic, for its sizes.
        counts: perceptrons of a replica in each set.
        shared: perceptrons of a set see one input: their first layers lie side by side.
        form: the kernels.
    """

    def __init__(self, module: Any, counts: Sequence[int], shared: bool, form: Kernels) -> None:
        mlp = module.mlp
        self.shape, self.counts, self.shared, self.form = tuple(mlp.flat.shape), tuple(counts), shared, form
        self.layers = []  # of each: 0 where a group does not see an input, first flat parameter, whether it is centred
        shapes, replicas, start = [], self.shape[0], 0
        for k, (i, o) in enumerate(pairwise(mlp.sizes)):
            seen_GI = torch.ones(self.shape[1], i + 1)
            if k == 0 and getattr(module, "seen_GP", None) is not None:
                seen_GI[:, :i] = module.seen_GP[:, : i * o].unflatten(1, (i, o))[..., 0]
            self.layers.append((seen_GI, start, mlp.layer_norm and k < len(mlp.sizes) - 2))
            start += (i + 1) * o
            side = shared and k == 0
            shapes.append(
                (len(counts) * replicas, i + 1, counts[0] * o) if side else (sum(counts) * replicas, i + 1, o)
            )
        self.memory_L = torch.zeros(sum(math.prod(shape) for shape in shapes))
        parts = self.memory_L.split([math.prod(shape) for shape in shapes])
        self.weights = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]  # [Y, I, Z]
        self.bound = form.bind(self.memory_L)

    def add(self, gradient_SGP: Tensor, first_G: Tensor) -> None:
        """Add gradients of flat parameters to the first set's.

        Args:
            gradient_SGP: of parameters whose input is not shared.
            first_G: int64, a perceptron of every group, which takes all of the group's.
        """
        for (_, start, _), weight_XIZ in zip(self.layers, self.weights, strict=True):
            shape = weight_XIZ.shape[1:]
            part = gradient_SGP[..., start : start + shape.numel()].unflatten(2, shape)
            weight_XIZ.unflatten(0, (self.shape[0], -1))[:, first_G] += part

    def plan(self, sets: Sequence[tuple[Tensor, int]]) -> Any:
        """What the kernels need to move sets, each given by the group of every perceptron and its index."""
        jobs = []
        for groups_n, index in sets:
            for k, (seen_GI, start, centre) in enumerate(self.layers):
                side = self.shared and k == 0
                first = (index if side else sum(self.counts[:index])) * self.shape[0]
                jobs.append((self.shape, groups_n, seen_GI, start, centre, self.weights[k], first, side))
        return self.form.plan(jobs, self.memory_L)
