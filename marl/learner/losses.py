"""The losses as pure functions: one equation each, with its source.

Shape suffixes: S replicas, C critics, N agents, B batch, O observation, H heads, K choices of a head, A = H * K.
Masks are bool, True where a choice exists. A weight [S, N, B] leaves out agents that were not there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from marl.learner import relaxation


def weighted_mean(x_SNB: Tensor, weight_SNB: Tensor | None) -> Tensor:
    """Mean over the batch, [S, N]; with a weight, the mean of the rows that count (0 where none does)."""
    if weight_SNB is None:
        return x_SNB.mean(-1)
    return (x_SNB * weight_SNB).sum(-1) / weight_SNB.sum(-1).clamp(min=1.0)


def td_target(reward_SNB: Tensor, discount_SNB: Tensor, next_q_SCNB: Tensor) -> Tensor:
    """y = r + discount * min_c Q'_c(o', a'), [S, N, B]; discount is gamma^m (1 - terminated).

    Source: Lowe et al. 2017 (arXiv 1706.02275), equation 6; the minimum of twin critics: Fujimoto et al. 2018
    (1802.09477), equation 10, for many agents Ackermann et al. 2019 (1910.01465).
    """
    return reward_SNB + discount_SNB * next_q_SCNB.amin(1)


def window_target(
    reward_SNB: Tensor, discount_SNB: Tensor, next_q_SCNB: Tensor, going_on_SNB: Tensor, windows: int, n_step: int
) -> Tensor:
    """The target of rows that lie in windows, [S, N, B]: up to n rewards, then the value of what follows.

    Sums stop where an agent's episode or the window ends: the last rows of a window sum fewer.

    Args:
        reward_SNB, discount_SNB, next_q_SCNB: as in `td_target`, of one step each; row t * b + i is step t of window i.
        going_on_SNB: 1 where the agent's next step is the next one of its window.
        windows: b.
        n_step: n.
    """
    target_SNB = td_target(reward_SNB, discount_SNB, next_q_SCNB)
    for _ in range(n_step - 1):
        later_SNB = torch.nn.functional.pad(target_SNB[..., windows:], (0, windows))
        following_SNB = torch.where(going_on_SNB > 0, later_SNB, next_q_SCNB.amin(1))
        target_SNB = reward_SNB + discount_SNB * following_SNB
    return target_SNB


def critic_loss(q_SCNB: Tensor, target_SNB: Tensor, weight_SNB: Tensor | None = None) -> Tensor:
    """Mean squared error of every critic, [S, C, N].

    Source: Lowe et al. 2017, equation 6.
    """
    if q_SCNB.shape[2:] != target_SNB.shape[1:]:
        raise ValueError(f"values {tuple(q_SCNB.shape)} and targets {tuple(target_SNB.shape)} do not match")
    error_SCNB = (q_SCNB - target_SNB[:, None]).square()
    return weighted_mean(error_SCNB, None if weight_SNB is None else weight_SNB[:, None])


def own_value(
    value: Callable[[Tensor], Tensor],
    logits_SNBHK: Tensor,
    gumbel_SNBHK: Tensor,
    estimator_H: Sequence[str],
    temperature: float | Tensor,
    mask: Tensor,
    conditional: Tensor | None = None,
    otherwise_NH: Tensor | None = None,
    scored: bool = False,
) -> Tensor:
    """Each agent's value of its own sampled action, [S, N, B], whose gradient is the heads' chosen estimators'.

    Args:
        value: the critic as a function of the own action [S, N, B, A] -> [S, N, B].
        logits_SNBHK: the policy's logits.
        gumbel_SNBHK: standard Gumbel noise that samples the action.
        estimator_H: the estimator of each head position; the same name everywhere costs one call.
        temperature: of the relaxation.
        mask: bool, broadcastable to the logits.
        conditional: uniform noise [n, S, N, B, H, K] of the Rao-Blackwellised estimator.
        otherwise_NH: bool, heads that no estimator teaches: their sample has no gradient. None: there are none.
        scored: these heads learn by the score function instead, with the batch's mean value as the baseline.

    Source: Lowe et al. 2017, equation 5, with the deterministic action replaced by a relaxed sample.
    """
    names = set(estimator_H)
    pathwise = {
        name: relaxation.relax(name, logits_SNBHK, gumbel_SNBHK, temperature, mask, conditional)
        for name in names
        if name in relaxation.PATHWISE
    }
    if len(names) == 1 and pathwise and otherwise_NH is None:
        return value(pathwise[estimator_H[0]].flatten(-2))
    sampled = relaxation.sample_onehot(logits_SNBHK, gumbel_SNBHK, mask)
    heads = [pathwise.get(name) for name in estimator_H]
    action = torch.stack([sampled[..., h, :] if y is None else y[..., h, :] for h, y in enumerate(heads)], dim=-2)
    if otherwise_NH is not None:
        action = torch.where(otherwise_NH[:, None, :, None], sampled, action)
    total = value(action.flatten(-2))
    if scored and otherwise_NH is not None:
        q = total.detach()[..., None]
        every_SNBH = relaxation.reinforce_surrogate(logits_SNBHK, sampled, q, q.mean(2, keepdim=True), mask)
        term = (every_SNBH * otherwise_NH[:, None]).sum(-1)
        total = total + (term - term.detach())
    for h, name in enumerate(estimator_H):
        if name in relaxation.PATHWISE:
            continue
        logits, onehot = logits_SNBHK[..., h, :], sampled[..., h, :]
        head_mask = mask.expand_as(logits_SNBHK)[..., h, :]
        if name == "reinforce":
            q = total.detach()
            term = relaxation.reinforce_surrogate(logits, onehot, q, q.mean(-1, keepdim=True), head_mask)
        else:
            term = relaxation.exact_surrogate(logits, _all_choices(value, sampled, h), head_mask)
        if otherwise_NH is not None:
            term = term * ~otherwise_NH[:, None, h]
        total = total + (term - term.detach())
    return total


def _all_choices(value: Callable[[Tensor], Tensor], sampled_SNBHK: Tensor, h: int) -> Tensor:
    """The value [S, N, B, K] of every choice of head h, the other heads as sampled."""
    values = []
    with torch.no_grad():
        for k in range(sampled_SNBHK.shape[-1]):
            action = sampled_SNBHK.clone()
            action[..., h, :].zero_()
            action[..., h, k].fill_(1.0)
            values.append(value(action.flatten(-2)))
    return torch.stack(values, dim=-1)


def logit_penalty(logits_SNBHK: Tensor, mask: Tensor, weight_SNB: Tensor | None = None) -> Tensor:
    """Mean squared logit over an agent's existing choices, [S, N].

    Source: openai/maddpg regularises its policies with 1e-3 times this; it acts as a floor of the entropy.
    """
    mask = mask.to(logits_SNBHK.dtype).expand_as(logits_SNBHK)
    squares = (logits_SNBHK.square() * mask).sum((-2, -1)) / mask.sum((-2, -1)).clamp(min=1.0)
    return weighted_mean(squares, weight_SNB)


def signalling_bonus(logits_SnBK: Tensor, mask_nK: Tensor, k: float, weight_SnB: Tensor | None = None) -> Tensor:
    """H(mean over the batch of pi(m|o)) - k * mean H(pi(m|o)) in nats, [S, n], for n message heads.

    With a weight both means are over the rows that count: being gone is nothing to talk about.

    With k = 1 the mutual information of message and observation, in [0, log K]. A smaller k pays for hesitation, so
    for synonyms: one meaning with two symbols while two meanings share the third is then a trap, whose way out has a
    vanishing gradient. A larger k pays for saying one thing always.
    Source: Eccles et al. 2019 (arXiv 1912.05676), section 3.1, positive signalling.
    Differs from source: no target entropy; both entropies enter linearly.
    """
    log_p = relaxation.log_probabilities(logits_SnBK, mask_nK[:, None])
    p = log_p.exp()
    mean_p = weighted_mean(p.transpose(2, 3), None if weight_SnB is None else weight_SnB[:, :, None])
    marginal = -(mean_p * mean_p.clamp(min=1e-12).log()).sum(-1)
    conditional = -weighted_mean((p * log_p).sum(-1), weight_SnB)
    return marginal - k * conditional


def listening_bonus(
    logits_SnBHK: Tensor, muted_SnBHK: Tensor, mask: Tensor, weight_SnB: Tensor | None = None
) -> Tensor:
    """Mean L1 distance between the policies with and without the received messages, [S, n], in [0, 2 H].

    Source: Eccles et al. 2019, section 3.2, positive listening.
    """
    heard = relaxation.probabilities(logits_SnBHK, mask)
    muted = relaxation.probabilities(muted_SnBHK, mask)
    return weighted_mean((heard - muted).abs().sum((-2, -1)), weight_SnB)


def telling_loss(logits_SBK: Tensor, mask_K: Tensor, told_SBK: Tensor, weight_SB: Tensor) -> Tensor:
    """Mean cross-entropy -sum_k told_k log pi_k of a message head and what it is to tell, in nats, [S].

    Its gradient at the logits is (pi - told) * weight / sum of the weights.

    Args:
        logits_SBK: of one message head.
        mask_K: bool, its symbols.
        told_SBK: what symbol k stands for, as probabilities; no gradient flows into them.
        weight_SB: 0 or 1, rows that count; where none does the loss is 0.
    """
    log_p = relaxation.log_probabilities(logits_SBK, mask_K)
    return weighted_mean(-(told_SBK.detach() * log_p).sum(-1), weight_SB)
