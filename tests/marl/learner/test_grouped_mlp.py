"""Grouped perceptrons against torch's own layers one by one, and their gradients against finite differences."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from marl.learner.networks import grouped_mlp as grouped

S, G, B, IN = 2, 3, 7, 3
CASES = list(itertools.product([(IN, 4, 5, 1), (IN, 4, 2), (IN, 4, 4, 3), (IN, 2)], [True, False], [True, False]))


def inputs(sizes: tuple[int, ...], shared: bool, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(0)
    length = sum(i * o + o for i, o in itertools.pairwise(sizes))
    x = torch.randn(S if shared else S * G, IN, B, dtype=dtype, generator=g, requires_grad=True)
    return x, torch.randn(S, G, length, dtype=dtype, generator=g, requires_grad=True)


def one_by_one(x: torch.Tensor, flat: torch.Tensor, sizes: tuple[int, ...], norm: bool, shared: bool) -> torch.Tensor:
    """Every perceptron on its own, rows first, with torch's layer normalisation."""
    outputs = []
    for s, g in itertools.product(range(S), range(G)):
        rows, at = x[s if shared else s * G + g].T, 0
        for k, (i, o) in enumerate(itertools.pairwise(sizes)):
            weight, bias = flat[s, g, at : at + i * o].view(i, o), flat[s, g, at + i * o : at + i * o + o]
            rows, at = rows @ weight + bias, at + i * o + o
            if k < len(sizes) - 2:
                rows = F.relu(F.layer_norm(rows, rows.shape[-1:]) if norm else rows)
        outputs.append(rows.T)
    return torch.stack(outputs)


@pytest.mark.parametrize(("sizes", "norm", "shared"), CASES, ids=str)
def test_values_and_gradients_are_those_of_separate_networks(sizes: tuple[int, ...], norm: bool, shared: bool) -> None:
    x, flat = inputs(sizes, shared)

    def function(x: torch.Tensor, flat: torch.Tensor) -> torch.Tensor:
        return grouped.run(x, grouped.prepare(flat, sizes, norm, shared), norm).reshape(S * G, -1, B)

    expected = one_by_one(x, flat, sizes, norm, shared)
    torch.testing.assert_close(function(x, flat), expected)
    weights = torch.randn_like(expected)
    result = torch.autograd.grad((function(x, flat) * weights).sum(), (x, flat))
    for mine, slow in zip(result, torch.autograd.grad((expected * weights).sum(), (x, flat)), strict=True):
        torch.testing.assert_close(mine, slow)
    assert torch.autograd.gradcheck(function, (x, flat))


def test_single_precision_loses_nothing_by_centred_weights() -> None:
    """Weights with a large common offset, which normalisation must remove: not worse than torch's own."""
    sizes = (IN, 64, 64, 1)
    x, flat = inputs(sizes, False)
    x, flat = x.detach(), flat.detach() + 3.0
    exact = one_by_one(x, flat, sizes, True, False)
    plain = one_by_one(x.float(), flat.float(), sizes, True, False)
    mine = grouped.run(x.float(), grouped.prepare(flat.float(), sizes, True), True)
    assert float((mine - exact).abs().max()) <= 2 * float((plain - exact).abs().max())


def test_constant_inputs_are_spared_their_gradient_and_a_first_bias_may_differ_by_row() -> None:
    sizes = (IN, 4, 1)
    x, flat = inputs(sizes, False)
    weight, bias, *tail = grouped.prepare(flat.detach(), sizes, True)
    shift = torch.randn(S * G, 4, B, dtype=torch.float64)

    def function(x: torch.Tensor) -> torch.Tensor:
        return grouped.run(x, (weight, bias + shift, *tail), True)

    assert torch.autograd.gradcheck(function, (x,))
    assert not function(x.detach()).requires_grad
