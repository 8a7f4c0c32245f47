"""The world model's losses as pure functions: likelihoods, KL balancing, free nats, straight-through samples.

Shape suffixes: ... any batch dimensions, C classes of a latent, L latents, X event width. Log-probabilities and KL
divergences are sums over the event (all latents, all entries); whoever calls averages over batch and time. Classes
stand before latents, since torch's CPU softmax over a short last dimension is some 20 times slower.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

LOG_2PI = math.log(2.0 * math.pi)

CLASSES = -2  # the dimension of the classes

FreeForm = Literal["step", "average"]


# ------------------------------------------------------------------ likelihoods
def gaussian_log_prob(x: Tensor, mean: Tensor, event_dims: int = 1) -> Tensor:
    """log N(x; mean, 1), summed over the last `event_dims` dimensions: [..., X] to [...].

    Equals -(squared error) / 2 - X / 2 log(2 pi), so that maximum likelihood is least squares.
    Source: Hafner et al. 2021 (DreamerV2, arXiv 2010.02193), equation 2, observation and reward predictors.
    """
    if x.shape != mean.shape:
        raise ValueError(f"observation {tuple(x.shape)} and mean {tuple(mean.shape)} do not match")
    squares = (x - mean).square()
    return -0.5 * (squares + LOG_2PI).sum(tuple(range(-event_dims, 0)))


def relative_log_prob(x: Tensor, mean: Tensor) -> Tensor:
    """log N(x; mean, max(1, |x|)^2) without its normaliser, summed over the last dimension: [..., X] to [...].

    An error counts relative to the value's own size where that is above 1: squares of differences up to |x| = 1, of
    ratios beyond. What `x` adds to the normaliser teaches nothing, as `x` is data.
    Differs from source (DreamerV2, equation 2), where the variance is 1 for every value.
    """
    return -0.5 * relative_error(x, mean).square().sum(-1)


def relative_error(x: Tensor, guess: Tensor) -> Tensor:
    """(guess - x) / max(1, |x|), entry by entry."""
    return (guess - x) / x.abs().clamp(min=1.0)


def categorical_log_prob(onehot: Tensor, log_probs: Tensor) -> Tensor:
    """log p(z) of one-hots z [..., C, L], summed over classes and latents: [...].

    A dot product, so that a straight-through one-hot receives its gradient, which `OneHotCategorical.log_prob` (an
    argmax of the value) does not give. Its negative is the cross entropy of z and p.
    """
    return (onehot * log_probs).sum((-2, -1))


def bernoulli_log_prob(target: Tensor, logits: Tensor) -> Tensor:
    """log Bern(target; sigmoid(logits)), elementwise; the target in [0, 1] may be soft, as gamma (1 - terminated).

    Source: DreamerV2, equation 2, discount predictor.
    """
    return -F.binary_cross_entropy_with_logits(logits, target, reduction="none")


# ------------------------------------------------------------ categorical latents
def unimix(logits: Tensor, share: float) -> Tensor:
    """Log-probabilities of (1 - share) softmax(logits) + share / C, over the classes, [..., C, L].

    The floor share / C bounds every log-probability from below, and so the KL from above. 0 leaves the softmax.
    Source: Hafner et al. 2023 (DreamerV3, arXiv 2301.04104), "1% unimix".
    """
    if share == 0.0:
        return torch.log_softmax(logits, dim=CLASSES)
    probs = torch.softmax(logits, dim=CLASSES)
    return torch.log((1.0 - share) * probs + share / logits.shape[CLASSES])


def sample_onehot(probs: Tensor, uniform: Tensor) -> Tensor:
    """Exact one-hot [..., C, L] of every categorical, drawn by inverting its cumulative distribution; no gradient.

    Args:
        probs: [..., C, L], non-negative, of any positive sum over the classes.
        uniform: noise in (0, 1), [..., L], one number a categorical.
    """
    below = probs.detach().cumsum(CLASSES)
    drawn = (below > uniform.unsqueeze(CLASSES) * below[..., -1:, :]).to(probs.dtype)
    # 0 0 1 1 1 over the classes to 0 0 1 0 0
    return torch.cat([drawn[..., :1, :], drawn[..., 1:, :] - drawn[..., :-1, :]], dim=CLASSES)


def straight_through(probs: Tensor, uniform: Tensor) -> Tensor:
    """A sample of every categorical, [..., C, L]: exactly 0 or 1 forward, the gradient of its probabilities backward.

    Source: DreamerV2, algorithm 1; Bengio et al. 2013 (arXiv 1308.3432).
    """
    onehot = sample_onehot(probs, uniform)
    return onehot + (probs - probs.detach())


def entropy(log_probs: Tensor) -> Tensor:
    """Entropy in nats of independent categoricals [..., C, L], summed over the latents: [...]."""
    return -(log_probs.exp() * log_probs).sum((-2, -1))


def kl_divergence(log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(q || p) = cross entropy of q and p - entropy of q, in nats, [..., C, L] summed over the latents: [...]."""
    return (log_q.exp() * (log_q - log_p)).sum((-2, -1))


def free_nats(kl: Tensor, floor: float, form: FreeForm, weight: Tensor | None = None) -> Tensor:
    """The KL with `floor` nats for nothing: the value never falls below it, and below it there is no gradient.

    "step" clips each entry (each step of each sequence), "average" clips the mean over all but the first dimension
    and returns it broadcast to the shape of `kl`, so that the caller's mean, weighted or not, is the clipped mean.

    Args:
        kl: [S, ...] in nats.
        floor: nats; 0 changes nothing, as a KL is never negative.
        weight: 0 or 1, which entries are part of the mean, shaped as `kl`; None: all.

    Source: DreamerV2's code clips the average; DreamerV3, equation 5, clips each step.
    """
    if floor == 0.0:
        return kl
    if form == "step":
        return kl.clamp(min=floor)
    if kl.dim() == 1:
        mean = kl
    elif weight is None:
        mean = kl.flatten(1).mean(1)
    else:
        mean = (kl * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp(min=1.0)
    return mean.clamp(min=floor).view(-1, *([1] * (kl.dim() - 1))).expand_as(kl)


def balanced_kl(
    log_q: Tensor,
    log_p: Tensor,
    alpha: float,
    free_prior: float = 0.0,
    free_posterior: float = 0.0,
    form: FreeForm = "step",
    weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """KL balancing: (loss, KL), both [...] in nats.

    loss = alpha KL(sg q || p) + (1 - alpha) KL(q || sg p). The first term moves the prior towards the posterior, the
    second the posterior towards the prior; alpha > 1/2 trains the prior faster. Its value is the KL whatever alpha.

    Args:
        log_q: posterior's log-probabilities [..., C, L].
        log_p: prior's log-probabilities [..., C, L].
        alpha: share of the term that trains the prior, in [0, 1].
        free_prior: free nats of the prior's term.
        free_posterior: free nats of the posterior's term.
        form: how the free nats clip, and `weight` [...] of which entries: see `free_nats`.

    Source: DreamerV2, algorithm 2.
    """
    to_prior = kl_divergence(log_q.detach(), log_p)
    to_posterior = kl_divergence(log_q, log_p.detach())
    loss = alpha * free_nats(to_prior, free_prior, form, weight)
    return loss + (1.0 - alpha) * free_nats(to_posterior, free_posterior, form, weight), to_prior.detach()


def sampled_kl(
    log_q: Tensor,
    log_p: Tensor,
    onehot: Tensor,
    alpha: float,
    free_prior: float = 0.0,
    free_posterior: float = 0.0,
    form: FreeForm = "step",
    weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """KL balancing estimated from the posterior's sample: (loss, KL), both [...] in nats.

    loss = - alpha log p(sg z) + (1 - alpha) sg(log q - log p) . z with z the straight-through one-hot. The second
    term is linear in z, where straight-through is exact: the posterior's gradient equals that of `balanced_kl` for
    every single sample. The first term's gradient is unbiased. Its value differs from the KL by the posterior's
    entropy and sampling noise, so free nats are decided by the analytic KL.

    Args:
        log_q: posterior's log-probabilities [..., C, L].
        log_p: prior's log-probabilities [..., C, L].
        onehot: straight-through sample of the posterior [..., C, L].
        alpha, free_prior, free_posterior, form, weight: as in `balanced_kl`.

    Differs from source: the form in circulation, - nt log p(sg z) + nq log q(z), is not this; see
    docs/world_model.md.
    """
    kl = kl_divergence(log_q, log_p).detach()
    to_prior = -categorical_log_prob(onehot.detach(), log_p)
    to_posterior = categorical_log_prob(onehot, (log_q - log_p).detach())
    loss = alpha * _open_above(to_prior, kl, free_prior, form, weight)
    return loss + (1.0 - alpha) * _open_above(to_posterior, kl, free_posterior, form, weight), kl


def _open_above(term: Tensor, kl: Tensor, floor: float, form: FreeForm, weight: Tensor | None) -> Tensor:
    """`term` with its gradient only where the (averaged) KL exceeds the floor."""
    if floor == 0.0:
        return term
    clipped = free_nats(kl, floor, form, weight)
    return torch.where(clipped > floor, term, term.detach())
