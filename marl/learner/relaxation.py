"""Sampling a discrete choice, and every estimator of the gradient through it.

Pure functions. The last dimension of every tensor holds the K choices of one head; leading dimensions are free. Noise
is an argument, so one design serves generators, vmap, torch.compile, CUDA graphs and exact tests: the same logits,
noise and mask choose the same symbol in `sample_onehot` and in `relax` with every estimator.

    t      logits                          G     standard Gumbel noise
    pi     softmax(t)                      D     onehot(argmax(t + G)), distributed as pi (Gumbel-max)
    pi_T   softmax(t / T)                  g     df/dD, the gradient that arrives at the choice
    J(p)   diag(p) - p p^T                 T     temperature

| estimator         | value of `relax`      | gradient at the logits                    |
|-------------------|-----------------------|-------------------------------------------|
| gumbel_soft       | softmax((t + G) / T)  | J(softmax((t + G) / T)) g / T             |
| gumbel_st         | D                     | the same                                  |
| straight_through  | D                     | J(pi_T) g / T                             |
| rao_blackwell     | D                     | gumbel_st's, averaged over draws of G given D |
| gapped            | D                     | J(softmax((t + m) / T)) g / T, m a gap from D |
| reinmax           | D                     | 2 J((pi_T + D) / 2) g - J(pi) g / 2       |
| reinforce_surrogate |                     | (f(D) - b) (D - pi)                       |
| exact_surrogate   |                       | J(pi) [f(e_1) ... f(e_K)]                 |

Precision: float16 and bfloat16 logits are computed in float32 (their range and 1 / T would not fit) and results return
in the logits' type; float32 and float64 are computed as they are. Keep the noise in float32 or float64. Logits of
+-100 and temperatures of 1e-3 to 1e3 are safe in every type; a float16 *gradient* still overflows where the incoming
gradient times 1 / T exceeds 65504.

Masks are boolean, True = allowed, and broadcast against the logits. A forbidden choice has probability and gradient 0,
whatever its logit. A row with nothing allowed (an absent head) gives all-zero choices, entropy 0 and gradient 0. An
unmasked logit of -inf is a forbidden choice, as long as its row has a finite one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import overload

import torch
from torch import Tensor

from marl.errors import UserError, did_you_mean

PATHWISE = ("gumbel_soft", "gumbel_st", "straight_through", "rao_blackwell", "gapped", "reinmax")
"""Estimators of `relax`; the others of marl.config.Estimator are surrogates: `reinforce` and `exact`."""

GAP = 1.0
"""Distance that `gapped` opens between the drawn choice and every other one, in logits."""

# The logit of a forbidden choice. Finite: a row of them has no NaN, and 0 * FLOOR is 0. So low that noise cannot lift
# it, so high that division by a temperature of 1e-3 does not overflow float32.
_FLOOR = -1e30


def gumbel(uniform: Tensor) -> Tensor:
    """Standard Gumbel noise -log(-log(U)): mean 0.5772, variance pi^2 / 6.

    Args:
        uniform: numbers in [0, 1], any shape. Half types are widened to float32, where 1 - U still has 24 bits.

    Returns:
        The same shape, float32 or float64, finite even where `uniform` is 0 or 1. Float32 lies in [-4.5, 16.7]: choices
        rarer than about 1e-7 are not resolved.

    Source: Gumbel, "Statistical theory of extreme values and some practical applications", 1954 (inverse of
        exp(-exp(-x))).
    """
    wide = _widen(uniform)
    info = torch.finfo(wide.dtype)
    return -torch.log(-torch.log(wide.clamp(info.tiny, 1.0 - info.eps / 2)))


def mask_logits(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Logits with a very low finite number in the place of forbidden choices.

    Args:
        logits: [..., K], floating.
        mask: bool, broadcast to [..., K], True = allowed; None allows all.

    Returns:
        [..., K], float32 for half types, else the logits' type. Softmax of it is exactly 0 at forbidden choices, and
        uniform, not NaN, on a row with nothing allowed.
    """
    wide = _widen(logits)
    return wide if mask is None else torch.where(mask, wide, _FLOOR)


def sample_onehot(logits: Tensor, gumbel: Tensor, mask: Tensor | None = None) -> Tensor:
    """An exact draw from softmax(logits): the one-hot of the largest logit plus noise (Gumbel-max).

    Args:
        logits: [..., K], floating.
        gumbel: standard Gumbel noise [..., K].
        mask: bool, broadcast to [..., K], True = allowed.

    Returns:
        [..., K] in the logits' type, one 1 in every row (the first of a tie), none in a row with nothing allowed. It
        carries no gradient.

    Source: Maddison, Tarlow, Minka, "A* sampling", NeurIPS 2014, section 2.
    """
    return _onehot(mask_logits(logits, mask) + gumbel, mask).to(logits.dtype)


def greedy_onehot(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """The one-hot of the largest logit. Shapes and types as in `sample_onehot`."""
    return _onehot(mask_logits(logits, mask), mask).to(logits.dtype)


def probabilities(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax over the allowed choices, [..., K] in the logits' type; a row with nothing allowed is all zero."""
    return _hide(_softmax(mask_logits(logits, mask)), mask).to(logits.dtype)


def log_probabilities(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """log softmax over the allowed choices, [..., K], float32 for half types.

    Finite everywhere, so that 0 times it is 0: a forbidden choice has about -1e30. A row with nothing allowed has
    -log K and no gradient.
    """
    return _log_softmax(mask_logits(logits, mask).clamp(min=_FLOOR))


def entropy(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """Entropy of softmax(logits) over the allowed choices in nats, [...] in the logits' type; 0 if none is allowed."""
    log_p = log_probabilities(logits, mask)
    return -_hide(log_p.exp() * log_p, mask).sum(-1).to(logits.dtype)


def relax(
    estimator: str,
    logits: Tensor,
    gumbel: Tensor,
    temperature: float | Tensor,
    mask: Tensor | None = None,
    conditional: Tensor | None = None,
) -> Tensor:
    """A draw from softmax(logits) whose gradient is the named estimator's.

    The draw is that of `sample_onehot(logits, gumbel, mask)`, always at temperature 1; the temperature shapes the
    gradient alone, except in `gumbel_soft`, whose value is the soft sample with its largest entry at that draw.

    Args:
        estimator: one of PATHWISE.
        logits: [..., K], floating.
        gumbel: standard Gumbel noise [..., K], float32 or float64.
        temperature: T > 0, a number or a tensor that broadcasts against the logits.
        mask: bool, broadcast to [..., K], True = allowed.
        conditional: uniform noise [n, ..., K] for the n inner draws of `rao_blackwell`; others ignore it.

    Returns:
        [..., K] in the logits' type: an exact one-hot (soft in `gumbel_soft`), all zero in a row with nothing allowed.

    Raises:
        UserError: an unknown estimator, or `rao_blackwell` without conditional noise.

    Source: see the function of each estimator below.
    """
    scores = mask_logits(logits, mask)
    perturbed = scores + gumbel
    if estimator == "gumbel_soft":
        return _hide(_softmax(perturbed / temperature), mask).to(logits.dtype)
    onehot = _onehot(perturbed, mask)
    if estimator == "gumbel_st":
        soft = _softmax(perturbed / temperature)
    elif estimator == "straight_through":
        soft = _softmax(scores / temperature)
    elif estimator == "rao_blackwell":
        if conditional is None:
            raise UserError("rao_blackwell got no conditional noise; expected uniform numbers [n, ..., K]: pass them")
        soft = _rao_blackwell(scores, onehot, temperature, conditional)
    elif estimator == "gapped":
        soft = _gapped(scores, onehot, temperature)
    elif estimator == "reinmax":
        soft = _reinmax(scores, onehot, temperature)
    else:
        raise UserError(
            f"unknown pathwise estimator {estimator!r}; expected one of {', '.join(PATHWISE)} (reinforce and exact are "
            f"surrogates: reinforce_surrogate, exact_surrogate).{did_you_mean(estimator, PATHWISE)}"
        )
    # this order of the sums: (onehot + soft) - soft would not be exactly one-hot in floating point
    return (onehot + (soft - soft.detach())).to(logits.dtype)


def reinforce_surrogate(
    logits: Tensor, onehot: Tensor, value: Tensor, baseline: float | Tensor = 0.0, mask: Tensor | None = None
) -> Tensor:
    """(value - baseline) log pi(onehot), whose gradient is REINFORCE's, (value - baseline) (onehot - pi).

    It is unbiased for every baseline that does not depend on the draw.

    Args:
        logits: [..., K], floating.
        onehot: the executed choice [..., K]; an all-zero row contributes nothing.
        value: f of the choice [...]; no gradient flows into it.
        baseline: a number or [...]; no gradient flows into it.
        mask: bool, broadcast to [..., K], True = allowed.

    Returns:
        [...], float32 for half types: to be maximised where `value` is.

    Source: Williams, "Simple statistical gradient-following algorithms", Machine Learning 1992, section 5.
    """
    log_p = (onehot.detach() * log_probabilities(logits, mask)).sum(-1)
    return (value - baseline).detach() * log_p


def exact_surrogate(logits: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """sum_k pi_k f(e_k), whose gradient J(pi) [f(e_1) ... f(e_K)] is the exact one of E[f(D)].

    Args:
        logits: [..., K], floating.
        values: f of every choice [..., K]; no gradient flows into them, and those of forbidden choices may be NaN.
        mask: bool, broadcast to [..., K], True = allowed.

    Returns:
        [...], float32 for half types: the expected value; 0 with nothing allowed.

    Source: all-action policy gradient, Sutton et al., "Comparing policy-gradient algorithms", 2001.
    """
    pi = _softmax(mask_logits(logits, mask))
    values = values.detach()
    return (pi * (values if mask is None else torch.where(mask, values, 0.0))).sum(-1)


@overload
def temperature_at(progress: float, start: float, final: float | None) -> float: ...
@overload
def temperature_at(progress: Tensor, start: float, final: float | None) -> Tensor: ...
def temperature_at(progress: float | Tensor, start: float, final: float | None) -> float | Tensor:
    """start * (final / start)^progress: exponential annealing; constant where `final` is None.

    Args:
        progress: share of the run that is over, held to [0, 1]; a number or a tensor of any shape.
        start, final: temperatures > 0 at progress 0 and 1.

    Returns:
        A number for a number, a tensor for a tensor.

    Source: Tilbury, Christianos, Albrecht, "Revisiting the Gumbel-softmax in MADDPG", 2023 (TAGS: from 4 to 0.1, or
        from 2.5 to 0.5).
    """
    ratio = 1.0 if final is None else final / start
    if isinstance(progress, Tensor):
        temperature: Tensor = start * ratio ** progress.clamp(0.0, 1.0)
        return temperature
    return float(start * ratio ** min(max(progress, 0.0), 1.0))


def _rao_blackwell(scores: Tensor, onehot: Tensor, temperature: float | Tensor, conditional: Tensor) -> Tensor:
    """Mean of softmax((t + G) / T) over n draws of G given D; the conditional noise carries no gradient.

    Given D, log pi + G is z_D = -log E_D at the choice and z_k = -log(E_k / pi_k + E_D) elsewhere, E ~ Exp(1). Softmax
    needs the distances alone, z_D - z_k = softplus(log E_k - log pi_k - log E_D), which cannot overflow.

    Source: Paulus, Maddison, Krause, "Rao-Blackwellizing the straight-through Gumbel-softmax gradient estimator",
        ICLR 2021, section 3.
    Differs from source: computed from log pi and log E instead of pi and E.
    """
    if scores.dim() == 1:
        return _rao_blackwell(scores[None], onehot[None], temperature, conditional[:, None])[0]
    scores = scores.clamp(min=_FLOOR)
    fixed, choice = scores.detach(), onehot.argmax(-1, keepdim=True)
    # [n, ..., K, rows]: with the many rows innermost, CPU kernels run 3 times faster than with the few choices there
    log_e = -gumbel(conditional.transpose(-1, -2).contiguous())
    chosen = log_e.gather(-2, choice.transpose(-1, -2).expand(*log_e.shape[:-2], 1, -1))
    excess = log_e - _log_softmax(fixed).transpose(-1, -2).contiguous() - chosen
    # softplus, by kernels whose bits do not depend on the layout (vmap)
    distance = excess.relu() + excess.abs().neg_().exp_().log1p_()
    distance = distance * (1 - onehot).transpose(-1, -2).contiguous()
    drawn = (scores - fixed).transpose(-1, -2) - distance
    soft = _softmax(drawn.transpose(-1, -2) / temperature)
    return soft.transpose(-1, -2).mean(0).transpose(-1, -2)


def _gapped(scores: Tensor, onehot: Tensor, temperature: float | Tensor) -> Tensor:
    """softmax((t + m1 - m2) / T): m1 lifts the choice to the top, m2 lowers the others to GAP below it; no noise.

    Source: Fan, Chi, Rudnicky, Ramadge, "Training discrete deep generative models via gapped straight-through
        estimator", ICML 2022.
    """
    fixed = scores.detach()
    top = fixed.amax(-1, keepdim=True)
    shift = torch.where(onehot > 0, top - fixed, -(fixed + (GAP - top)).relu())
    return _softmax((scores + shift) / temperature)


def _reinmax(scores: Tensor, onehot: Tensor, temperature: float | Tensor) -> Tensor:
    """2 softmax at ((pi_T + D) / 2) - softmax(t) / 2: Heun's second-order rule instead of Euler's.

    Source: Liu, Dong, Liu, Yu, Gao, "Bridging discrete and backpropagation: straight-through and beyond", NeurIPS 2023,
        algorithm 2.
    """
    scores = scores.clamp(min=_FLOOR)
    mean = (_softmax(scores.detach() / temperature) + onehot) / 2
    at_mean = _softmax(mean.log() + (scores - scores.detach()))  # value `mean`, Jacobian J(mean)
    return 2 * at_mean - _softmax(scores) / 2


def _widen(x: Tensor) -> Tensor:
    """Half types as float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _hide(x: Tensor, mask: Tensor | None) -> Tensor:
    """Zero at forbidden choices: only a row with nothing allowed needs it, the others have it from the softmax."""
    return x if mask is None else x * mask


def _onehot(scores: Tensor, mask: Tensor | None) -> Tensor:
    """One-hot of the first largest entry by argmax and scatter, without gradient."""
    # max's indices are argmax's, faster on CPU where K is small
    index = scores.detach().max(-1, keepdim=True).indices
    return _hide(torch.zeros_like(scores).scatter(-1, index, 1.0), mask)


def _softmax(scores: Tensor) -> Tensor:
    """softmax over the last dimension."""
    return _across_rows(torch.softmax, scores)


def _log_softmax(scores: Tensor) -> Tensor:
    """log softmax over the last dimension."""
    return _across_rows(torch.log_softmax, scores)


def _across_rows(function: Callable[[Tensor, int], Tensor], scores: Tensor) -> Tensor:
    """`function` over the last dimension, with the rows innermost in memory on a CPU.

    torch's CPU kernels work along K otherwise, 14 times slower where K is 5. A lone row takes the same path, so that
    vmap over rows gives the same bits.
    """
    if scores.device.type != "cpu":
        return function(scores, -1)
    if scores.dim() == 1:
        return function(scores[:, None], -2)[:, 0]
    # a network's logits [..., B, H, K] come with B innermost: there is nothing to copy
    rows = scores.dim() - 2
    for dim in range(scores.dim() - 1):
        rows = dim if scores.stride(dim) == 1 and scores.size(dim) > 1 else rows
    return function(scores.movedim(rows, -1), -2).movedim(-1, rows)
