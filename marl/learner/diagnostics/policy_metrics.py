"""What is recorded of the policies in an update."""

from __future__ import annotations

from torch import Tensor

from envs.spec import EnvSpec
from marl.learner import relaxation


def policy_metrics(spec: EnvSpec, logits_SNBHK: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Entropy of each head and, for message heads, the perplexity of the symbols in use; all [S].

    Of a continuous head the mean size of its numbers instead, in [0, 1]; near 1 they stand at their bounds, where
    tanh passes no gradient.

    Args:
        spec: of the environment.
        logits_SNBHK: of the policies, without gradient.
        mask: bool, broadcastable to the logits, True where a choice exists.
    """
    entropy_SNH = relaxation.entropy(logits_SNBHK, mask).mean(2)
    mean_p = relaxation.probabilities(logits_SNBHK, mask).mean(2)
    usage_SNH = (-(mean_p * mean_p.clamp(min=1e-12).log()).sum(-1)).exp()
    metrics = {}
    for n, agent in enumerate(spec.agents):
        for h, head in enumerate(agent.heads):
            if head.continuous:
                numbers = logits_SNBHK[:, n, :, h, : head.size].tanh().abs()
                metrics[f"numbers/{agent.name}/{head.name}"] = numbers.mean((1, 2))
                continue
            metrics[f"entropy/{agent.name}/{head.name}"] = entropy_SNH[:, n, h]
            if head.is_message:
                metrics[f"message_usage/{agent.name}/{head.name}"] = usage_SNH[:, n, h]
    return metrics


def gradient_norms(name: str, norm_SG: Tensor, sets: int, agents: int) -> dict[str, Tensor]:
    """{name/grad_norm: [S, N]}, the mean over `sets` of networks; nothing where agents share networks."""
    if norm_SG.shape[1] != sets * agents:
        return {}
    return {f"{name}/grad_norm": norm_SG.unflatten(1, (sets, agents)).mean(1)}
