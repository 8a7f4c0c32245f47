"""Perceptrons at the steps of a rollout against autograd through `grouped_mlp`, step by step and block by block."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from marl.learner.networks import grouped_mlp as grouped
from marl.learner.networks.unrolled_mlp import UnrolledMLP

S, N, P, R, STEPS, SIZES = 2, 3, 2, 5, 4, (3, 6, 7, 3)
BLOCK_N = torch.tensor([0, 1, 0])


def parameters() -> Tensor:
    draw = torch.Generator().manual_seed(0)
    count = sum((i + 1) * o for i, o in pairwise(SIZES))
    return torch.randn(S, N, count, generator=draw, dtype=torch.float64).requires_grad_()


def rollout(layer: object, x: Tensor) -> Tensor:
    """Outputs are the next step's inputs, weighed so that every step and row counts differently."""
    total = torch.zeros((), dtype=x.dtype)
    for k in range(STEPS):
        x = torch.tanh(layer(x))  # type: ignore[operator]
        weight = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view(x.shape) * (k + 1)
        total = total + (weight * x).sum()
    return total


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("learns_from_start", [False, True])
def test_gradients_are_those_of_autograd_with_constants_in_other_blocks(
    layer_norm: bool, learns_from_start: bool
) -> None:
    start = torch.randn(S * N, 3, P * R, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    start.requires_grad_(learns_from_start)
    live = (torch.arange(P * R) // R == BLOCK_N[:, None]).repeat(S, 1)[:, None]

    def reference(x: Tensor) -> Tensor:
        outputs = [
            grouped.run(x, grouped.prepare(flat, SIZES, layer_norm), layer_norm) for flat in (flat_SNP, fixed_SNP)
        ]
        return torch.where(live, *outputs)

    flat_SNP = parameters()
    fixed_SNP = flat_SNP.detach()
    wanted = [flat_SNP, start] if learns_from_start else [flat_SNP]
    expected_value = rollout(reference, start)
    expected = torch.autograd.grad(expected_value, wanted)
    value = rollout(UnrolledMLP(flat_SNP, SIZES, layer_norm, BLOCK_N, P), start)
    found = torch.autograd.grad(value, wanted)
    torch.testing.assert_close(value, expected_value)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_one_block_takes_every_row() -> None:
    flat_SNP, start = parameters(), torch.randn(S * N, 3, R, dtype=torch.float64)
    found = torch.autograd.grad(
        rollout(UnrolledMLP(flat_SNP, SIZES, True, torch.zeros(N, dtype=torch.int64), 1), start), flat_SNP
    )
    expected = torch.autograd.grad(
        rollout(lambda x: grouped.run(x, grouped.prepare(flat_SNP, SIZES, True), True), start), flat_SNP
    )
    torch.testing.assert_close(found, expected)
