"""marl.relaxation: sampling, shapes, masks, coupling."""

from __future__ import annotations

import pytest
import torch

from marl import relaxation as rx
from marl.errors import UserError


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return rx.gumbel(torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype))


@pytest.mark.parametrize("estimator", rx.PATHWISE)
def test_every_estimator_takes_the_sampler_s_choice(estimator: str) -> None:
    logits = 3 * noise(7, 11, 5, seed=1)
    gumbel = noise(7, 11, 5, seed=2)
    mask = torch.rand(11, 5, generator=torch.Generator().manual_seed(3)) > 0.4
    mask[0] = False
    conditional = torch.rand(4, 7, 11, 5, generator=torch.Generator().manual_seed(4))
    for allowed in (None, mask):
        for temperature in (1e-3, 0.5, 1.0, 1e3):
            expected = rx.sample_onehot(logits, gumbel, allowed)
            value = rx.relax(estimator, logits.requires_grad_(), gumbel, temperature, allowed, conditional)
            if estimator == "gumbel_soft":
                assert torch.equal(value.argmax(-1), expected.argmax(-1))
            else:
                assert torch.equal(value, expected)
            (gradient,) = torch.autograd.grad((value * noise(7, 11, 5, seed=5)).sum(), logits)
            assert gradient.isfinite().all()
            if allowed is not None:
                assert (gradient[:, ~allowed] == 0).all()
    absent = rx.relax(estimator, logits, gumbel, 1.0, mask, conditional)[:, 0]
    assert (absent == 0).all()


def test_unknown_estimators_are_named() -> None:
    logits = torch.zeros(2, 3)
    with pytest.raises(UserError, match=r"'gumbel_sft'.*Did you mean 'gumbel_soft' or 'gumbel_st'"):
        rx.relax("gumbel_sft", logits, logits, 1.0)
    with pytest.raises(UserError, match="surrogate"):
        rx.relax("exact", logits, logits, 1.0)
    with pytest.raises(UserError, match=r"conditional noise.*\[n, \.\.\., K\]"):
        rx.relax("rao_blackwell", logits, logits, 1.0)
