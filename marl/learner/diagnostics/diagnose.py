"""The used estimator's gradient against the exact one, on a batch of the running learner.

Shape suffixes: S replicas, N agents, b rows of the batch, H heads, K choices, A = H * K.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from envs.streams import Stream
from marl.data.batch import Batch
from marl.learner import relaxation
from marl.learner.diagnostics.gradient_error import gradient_statistics
from marl.learner.maddpg import INNER_DRAWS, MADDPG

ROWS = 64  # of the batch
DRAWS = 16  # of the estimator


def diagnose(learner: MADDPG, batch: Batch, progress: float, noise: Stream) -> dict[str, Tensor]:
    """Cosine, relative bias and relative deviation of every head's estimator, each [S].

    The gradient is that of an agent's mean value with respect to its logits, over the first 64 rows of `batch`, its
    other heads and the other agents held as they were. It costs K + 16 passes of the critics on 64 rows a head.

    Args:
        learner: its critics and actors are read, nothing is changed.
        batch: what the learner was last updated on.
        progress: share of the run that is over, for the temperature.
        noise: a stream of the diagnostics' own, so that training draws the same numbers without them.

    Returns:
        estimator/AGENT/HEAD/cosine, .../relative_bias, .../relative_sd; see `estimator_diagnostics.compare_gradients`.
    """
    cfg, spec = learner.config, learner.spec
    mask = learner.head_mask if batch.mask is None else learner.head_mask & batch.mask[:, :, :ROWS]
    with torch.no_grad():
        logits, value = learner.looked_at(batch, ROWS)
        value = value if learner.numbers is None else learner.numbers.beside(value, logits, noise)
        sampled = relaxation.sample_onehot(logits, noise.gumbel(*logits.shape[1:]), mask)
    temperature = relaxation.temperature_at(progress, cfg.temperature, cfg.temperature_final)
    metrics: dict[str, Tensor] = {}
    # heads that no estimator teaches: there is nothing to compare
    otherwise = None if learner.otherwise_NH is None else learner.otherwise_NH.tolist()
    for h, estimator in enumerate(learner.estimator_H):
        named = [(n, agent) for n, agent in enumerate(spec.agents) if h < len(agent.heads)]
        named = [(n, agent) for n, agent in named if not agent.heads[h].continuous]
        if not named:
            continue
        head = logits[..., h, :]
        inner = None
        if estimator == "rao_blackwell":
            inner = noise.uniform(DRAWS, INNER_DRAWS, *head.shape[1:]).movedim(0, 2)
        result = gradient_statistics(
            estimator,
            head,
            _of_head(value, sampled, h),
            noise.gumbel(DRAWS, *head.shape[1:]).movedim(0, 1),
            temperature,
            mask.expand_as(logits)[..., h, :],
            inner,
            keep=2,
        )
        for n, agent in named:
            if otherwise is None or not otherwise[n][h]:
                name = f"estimator/{agent.name}/{agent.heads[h].name}"
                metrics |= {f"{name}/{what}": value_SN[:, n] for what, value_SN in result.items()}
    return metrics


def _of_head(value: Callable[[Tensor], Tensor], sampled: Tensor, h: int) -> Callable[[Tensor], Tensor]:
    """The value as a function of head h's choice [S, N, b, K], the other heads as sampled."""

    def function(choice: Tensor) -> Tensor:
        heads = [choice if k == h else sampled[..., k, :] for k in range(sampled.shape[-2])]
        return value(torch.stack(heads, dim=-2).flatten(-2))

    return function
