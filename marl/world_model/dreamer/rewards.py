"""By what DreamerV2's model tells rewards from a decoded observation and an action, replica by replica.

The head of products learns from single frames, several cheap updates for each of the state space's. What an agent is
paid once it plays well is small beside what the first, untrained policies are paid: those fly away, and squared
distances grow. A squared error spends the head on these; so an error counts relative to the reward's own size where
that is above a deviation. And the head learns slowly but costs little, as it reads the observation and the action and
not a sequence; frames drawn independently of one another teach it several times as much as those of windows.

Where rewards are what the small model's closed form can express, that knows them from a few dozen episodes; so
held-out episodes tell whether it stands for the head, and whether the state adds to either.

Shape suffixes: S replicas, n rows, J predicted observation entries, U joint action, N agents.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from marl.config.world_model import WorldModelConfig
from marl.errors import UserError
from marl.world_model import losses
from marl.world_model.dreamer.heads import RewardHead
from marl.world_model.optimiser import ReplicaAdam
from marl.world_model.small.closed_form import ClosedForm

FRAMES = 256  # of an update, in each replica


class Rewards:
    """The head, its optimiser and its average; the solution; and which of them tells rewards.

    Args:
        head: of standardised observations and actions.
        solved: the closed form, which is given all transitions; None: the head alone.
        replicas: S.
        config: step sizes, the penalty, and how many updates.
    """

    def __init__(self, head: RewardHead, solved: ClosedForm | None, replicas: int, config: WorldModelConfig) -> None:
        self.head, self.solved, self._config = head, solved, config
        self.optimiser = ReplicaAdam(head, replicas, config.lr, config.max_grad_norm, config.lr_warmup, config.average)
        self.optimiser.shrink(head, config.sparse)
        self.averaged = self.optimiser.averaged
        device = self.optimiser.flat_P.device
        self.by_solution_S = torch.zeros(replicas, dtype=torch.bool, device=device)  # in place of the head
        self.by_state_S = torch.zeros(replicas, dtype=torch.bool, device=device)  # added to either
        self._solved_in = 0  # of the replicas, how many are in by_solution_S, on the host

    @property
    def updates(self) -> int:
        """Of the head, in an update of the model: one where no replica asks it now."""
        return 1 if self._solved_in == len(self.by_solution_S) else self._config.reward_updates

    @property
    def frames(self) -> int:
        """Independent frames that these updates want."""
        return FRAMES * self.updates

    def update(self, obs_SnJ: Tensor, action_SnU: Tensor, reward_SnN: Tensor, follows_Sn: Tensor) -> Tensor:
        """`updates` Adam steps of the head, each on its part of these rows; the mean of their log-likelihoods, [S].

        Args:
            obs_SnJ: standardised observations.
            action_SnU: the actions that led to them.
            reward_SnN: standardised rewards.
            follows_Sn: bool, rows that an action led to; the others do not count.
        """
        if self.solved is not None:
            self.solved.solve()
        count = self.updates
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

    def __call__(self, standardised_SnJ: Tensor, obs_SnJ: Tensor, action_SnU: Tensor) -> Tensor:
        """Standardised rewards [S, n, N], without what the state adds.

        Args:
            standardised_SnJ: observations as the head reads them.
            obs_SnJ: the same in the environment's units.
            action_SnU: the actions that led to them.
        """
        if self.solved is None or not self._solved_in:
            return self.averaged(standardised_SnJ, action_SnU)
        solved = self.solved.paid_for(obs_SnJ)
        if self._solved_in == len(solved):
            return solved
        return torch.where(self.by_solution_S[:, None, None], solved, self.averaged(standardised_SnJ, action_SnU))

    @torch.no_grad()
    def choose(
        self,
        obs: tuple[Tensor, Tensor],
        action_SnU: Tensor,
        rest_SnN: Tensor,
        reward_SnN: Tensor,
        follows_Sn: Tensor,
    ) -> None:
        """Choose by held-out rows: the solution or the head, then whether `rest_SnN`, what the state adds, is added.

        Args:
            obs: standardised, and in the environment's units.
            action_SnU, reward_SnN, follows_Sn: as of `update`.
            rest_SnN: standardised.
        """
        if self.solved is not None:
            learned, solved = self.averaged(obs[0], action_SnU), self.solved.paid_for(obs[1])
            self.by_solution_S = better(solved, learned, reward_SnN, follows_Sn)
            self._solved_in = int(self.by_solution_S.sum())
        own = self(*obs, action_SnU)
        self.by_state_S = better(own + rest_SnN, own, reward_SnN, follows_Sn)

    def state_dict(self) -> dict[str, Any]:
        solved = {} if self.solved is None else {"solved": self.solved.state_dict(), "by_solution": self.by_solution_S}
        return {"rewards": self.optimiser.state_dict(), "by_state": self.by_state_S, **solved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue bit for bit.

        Raises:
            UserError: a solution is expected and the state has none.
        """
        self.optimiser.load_state_dict(state["rewards"])
        device = self.by_state_S.device
        self.by_state_S = state["by_state"].to(device)
        if self.solved is None:
            return
        if "solved" not in state:
            raise UserError(
                "the checkpoint's world model has no rewards in closed form: it is of an earlier version, or of a run "
                "without them. Train anew, or resume with --wm.no-solved-rewards."
            )
        self.solved.load_state_dict(state["solved"])
        self.by_solution_S = state["by_solution"].to(device)
        self._solved_in = int(self.by_solution_S.sum())


@torch.no_grad()
def better(one_SnN: Tensor, other_SnN: Tensor, reward_SnN: Tensor, follows_Sn: Tensor) -> Tensor:
    """Bool [S]: replicas in which `one` is nearer to the rewards than `other`, by a twentieth of the error."""
    one_S, other_S = (
        (losses.relative_error(reward_SnN, mean).square().mean(2) * follows_Sn).sum(1).sqrt()
        for mean in (one_SnN, other_SnN)
    )
    return one_S < 0.95 * other_S
