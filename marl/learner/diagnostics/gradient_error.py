"""How far an estimator's gradient is from the exact one: pure functions, cheap enough to run now and then in training.

All gradients are with respect to the logits. A measurement calls the function K times for the exact gradient and once,
with one backward pass, for every draw of noise. One head at a time: an actor's other heads belong into the function,
held at what was drawn.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from marl.learner.relaxation import exact_surrogate, reinforce_surrogate, relax, sample_onehot

ChoiceFunction = Callable[[Tensor], Tensor]
"""f of a choice, such as a critic: one-hots (or soft choices) [..., K], shaped as the logits, to values [...]."""


def choice_values(function: ChoiceFunction, logits: Tensor) -> Tensor:
    """f of every choice, [..., K] without gradient: K calls with the one-hot of choice k in every row."""
    unit = torch.eye(logits.shape[-1], dtype=logits.dtype, device=logits.device)
    with torch.no_grad():
        return torch.stack([function(row.expand_as(logits)) for row in unit], -1)


def exact_gradient(logits: Tensor, function: ChoiceFunction, mask: Tensor | None = None) -> Tensor:
    """J(pi) [f(e_1) ... f(e_K)]: the gradient of every row's expected value, [..., K].

    Args:
        logits: [..., K], floating.
        function: f, called K times.
        mask: bool, broadcast to [..., K], True = allowed.
    """
    return _gradient(logits, lambda leaf: exact_surrogate(leaf, choice_values(function, logits), mask))


def gradient_draws(
    estimator: str,
    logits: Tensor,
    function: ChoiceFunction,
    gumbel: Tensor,
    temperature: float | Tensor,
    mask: Tensor | None = None,
    conditional: Tensor | None = None,
    baseline: float | Tensor = 0.0,
) -> Tensor:
    """One estimate of the gradient for every draw of noise.

    Args:
        estimator: a name of marl.config.Estimator.
        logits: [..., K], floating.
        function: f; differentiated at the choice by the pathwise estimators. Its rows must not influence one another.
        gumbel: standard Gumbel noise [n, ..., K].
        temperature: T > 0 of `relax`; `reinforce` and `exact` have none.
        mask: bool, broadcast to [..., K], True = allowed.
        conditional: uniform noise [n, inner draws, ..., K] of `rao_blackwell`.
        baseline: of `reinforce`, a number or [...].

    Returns:
        [n, ..., K]. Parameters inside `function` receive no gradient.
    """

    def one(draw: int) -> Tensor:
        if estimator == "reinforce":
            onehot = sample_onehot(logits, gumbel[draw], mask)
            with torch.no_grad():
                value = function(onehot)
            return _gradient(logits, lambda leaf: reinforce_surrogate(leaf, onehot, value, baseline, mask))
        inner = None if conditional is None else conditional[draw]
        return _gradient(logits, lambda leaf: function(relax(estimator, leaf, gumbel[draw], temperature, mask, inner)))

    if estimator == "exact":
        return exact_gradient(logits, function, mask).expand(gumbel.shape[0], *logits.shape)
    return torch.stack([one(draw) for draw in range(gumbel.shape[0])])


def compare_gradients(draws: Tensor, exact: Tensor, keep: int = 0) -> dict[str, Tensor]:
    """Cosine, relative bias and relative standard deviation of gradient estimates.

    Args:
        draws: n >= 2 independent estimates [n, ..., K].
        exact: the exact gradient [..., K].
        keep: leading dimensions of `exact` that are measured apart (2 keeps [S, N]); all others make one vector v.

    Returns:
        Tensors of the kept dimensions, in the type of `exact`:
        `cosine`: of the mean of the n estimates and v, in [-1, 1]; noise in the mean lowers it.
        `relative_bias`: |E[estimate] - v| / |v|, corrected for the noise in the mean: |mean - v|^2 overstates the
        squared bias by variance / n, which is taken off (not below 0).
        `relative_sd`: standard deviation of one estimate (root of the summed variances of the entries) / |v|.
        Where v is 0 the ratios are taken to 1e-12: 0 for estimates of 0, else huge.
    """
    draws_nD, exact_D = draws.flatten(keep + 1), exact.flatten(keep)
    mean_D = draws_nD.mean(0)
    variance = draws_nD.var(0).sum(-1)
    length = exact_D.norm(dim=-1).clamp(min=1e-12)
    squared_bias = (mean_D - exact_D).square().sum(-1) - variance / draws.shape[0]
    return {
        "cosine": (mean_D * exact_D).sum(-1) / (mean_D.norm(dim=-1).clamp(min=1e-12) * length),
        "relative_bias": squared_bias.clamp(min=0.0).sqrt() / length,
        "relative_sd": variance.sqrt() / length,
    }


def gradient_statistics(
    estimator: str,
    logits: Tensor,
    function: ChoiceFunction,
    gumbel: Tensor,
    temperature: float | Tensor,
    mask: Tensor | None = None,
    conditional: Tensor | None = None,
    keep: int = 0,
) -> dict[str, Tensor]:
    """`compare_gradients` of the estimator's draws and the exact all-action gradient: K + n calls of the function.

    Arguments as in `gradient_draws` and `compare_gradients`; `reinforce` has the baseline E[f], as good as a learnt
    one can become.
    """
    values = choice_values(function, logits)
    exact = _gradient(logits, lambda leaf: exact_surrogate(leaf, values, mask))
    if estimator == "exact":
        return compare_gradients(exact.expand(gumbel.shape[0], *exact.shape), exact, keep)
    baseline = exact_surrogate(logits, values, mask)
    draws = gradient_draws(estimator, logits, function, gumbel, temperature, mask, conditional, baseline)
    return compare_gradients(draws, exact, keep)


def _gradient(logits: Tensor, objective: Callable[[Tensor], Tensor]) -> Tensor:
    """The gradient of the summed objective at the logits, which stay untouched."""
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(leaf).sum(), leaf)
    return gradient
