"""How the head of products learns rewards: from single frames, several cheap updates for each of the state space's.

What an agent is paid once it plays well is small beside what the first, untrained policies are paid: those fly away,
and squared distances grow. A squared error spends the head on these; so an error counts relative to the reward's own
size where that is above a deviation. And the head learns slowly but costs little, as it reads the observation and the
action and not a sequence; frames drawn independently of one another teach it several times as much as those of windows.

Shape suffixes: S replicas, n rows, J predicted observation entries, U joint action, N agents.
"""

from __future__ import annotations

import torch
from torch import Tensor

from marl.config.schema import WorldModelConfig
from marl.world_model import losses
from marl.world_model.dreamer.heads import RewardHead
from marl.world_model.optimiser import ReplicaAdam

FRAMES = 256  # of an update, in each replica


class RewardTraining:
    """The head, its optimiser and its average.

    Args:
        head: of standardised observations and actions.
        replicas: S.
        config: step sizes, the penalty, and how many updates.
    """

    def __init__(self, head: RewardHead, replicas: int, config: WorldModelConfig) -> None:
        self.head, self._config = head, config
        self.optimiser = ReplicaAdam(head, replicas, config.lr, config.max_grad_norm, config.lr_warmup, config.average)
        self.optimiser.shrink(head, config.sparse)
        self.averaged = self.optimiser.averaged

    @property
    def frames(self) -> int:
        """Independent frames that the updates beside one of the model want."""
        return FRAMES * self._config.reward_updates

    def update(self, obs_SnJ: Tensor, action_SnU: Tensor, reward_SnN: Tensor, follows_Sn: Tensor) -> Tensor:
        """`wm.reward_updates` Adam steps, each on its part of these rows; the mean of their log-likelihoods, [S].

        Args:
            obs_SnJ: standardised observations.
            action_SnU: the actions that led to them.
            reward_SnN: standardised rewards.
            follows_Sn: bool, rows that an action led to; the others do not count.
        """
        count = self._config.reward_updates
        parts = zip(*(x.tensor_split(count, 1) for x in (obs_SnJ, action_SnU, reward_SnN, follows_Sn)), strict=True)
        total_S = obs_SnJ.new_zeros(len(obs_SnJ))
        for obs, action, reward, follows in parts:
            self.optimiser.zero_grad()
            log_r = losses.relative_log_prob(reward, self.head(obs, action)) * follows
            mean_S = log_r.sum(1) / follows.sum(1).clamp(min=1)
            (-self._config.nr * mean_S).sum().backward()
            self.optimiser.step()
            total_S += mean_S.detach()
        return total_S / count


@torch.no_grad()
def better(one_SnN: Tensor, other_SnN: Tensor, reward_SnN: Tensor, follows_Sn: Tensor) -> Tensor:
    """Bool [S]: replicas in which `one` is nearer to the rewards than `other`, by a twentieth of the error."""
    one_S, other_S = (
        (losses.relative_error(reward_SnN, mean).square().mean(2) * follows_Sn).sum(1).sqrt()
        for mean in (one_SnN, other_SnN)
    )
    return one_S < 0.95 * other_S
