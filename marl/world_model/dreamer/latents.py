"""What the latents of a state space tell: how sure they are, which of them are used, how far the ensemble disagrees.

Shape suffixes: S replicas, T frames, B sequences, n rows, L latents, C classes, M prior heads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from marl.world_model import losses
from marl.world_model.dreamer.rssm import Observed


def latent_summary(observed: Observed, valid_STB: Tensor) -> dict[str, Tensor]:
    """What the latents do, frame by frame.

    Args:
        observed: posterior and prior of sequences.
        valid_STB: bool, frames that count.

    Returns:
        `kl`, `posterior_entropy` and `prior_entropy` in nats, [S, T]; `active_latents`, [S]: latents that tell frames
        apart, their posterior's mutual information with the data above a hundredth of a nat.
    """
    log_q = torch.log_softmax(observed.posterior, dim=losses.CLASSES)
    log_p = torch.log_softmax(observed.prior, dim=losses.CLASSES)
    weight_STB = valid_STB.float()
    count_ST = weight_STB.sum(2).clamp(min=1.0)
    per_frame = {
        "kl": losses.kl_divergence(log_q, log_p),
        "posterior_entropy": losses.entropy(log_q),
        "prior_entropy": losses.entropy(log_p),
    }
    results = {name: (x * weight_STB).sum(2) / count_ST for name, x in per_frame.items()}
    share = (weight_STB / weight_STB.sum((1, 2), keepdim=True))[..., None, None]
    q = log_q.exp()
    marginal_SCL = (q * share).sum((1, 2))
    conditional_SL = -((q * log_q).sum(losses.CLASSES) * share[..., 0]).sum((1, 2))
    information_SL = -(marginal_SCL * marginal_SCL.clamp(min=1e-12).log()).sum(losses.CLASSES) - conditional_SL
    return {**results, "active_latents": (information_SL > 0.01).sum(1)}


def disagreement(logits_SMnCL: Tensor) -> Tensor:
    """Jensen-Shannon divergence of M heads in nats, summed over the latents, [S, n].

    Source: Plan2Explore (Sekar et al. 2020, arXiv 2005.05960) measures an ensemble's variance; for categoricals its
    place is taken by the divergence of the members from their mean, the mutual information of sample and member.
    """
    log_p = torch.log_softmax(logits_SMnCL, dim=losses.CLASSES)
    p = log_p.exp()
    mean = p.mean(1)
    joint = -(mean * mean.clamp(min=1e-12).log()).sum((-2, -1))
    return joint - losses.entropy(log_p).mean(1)
