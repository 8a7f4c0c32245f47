"""What of an environment can be solved for: linear dynamics, pushes of bodies that touch, rewards of distances.

Shape suffixes: S replicas, E environments, n rows, J predicted observation entries, U joint action, N agents, P inputs
of the linear part, Q those and the pushes, F features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from marl.world_model.layout import Layout
from marl.world_model.sequences import Normaliser, StepRows
from marl.world_model.small.pushes import Pushes
from marl.world_model.small.regression import Features, LeastSquares, Ridge
from marl.world_model.small.sample import Sample

GROWTH = 1.02  # of the data, after which what is linear is solved anew
SEARCH_GROWTH = 1.5  # of the data, after which pushes are looked for anew
SAMPLE = 4096  # transitions in which they are looked for
FARTHEST = 10.0  # deviations from the mean, to which rewards are cut


class ClosedForm:
    """Least squares of dynamics and rewards over all transitions seen.

    Args:
        layout: how the environment's joint observation is laid out.
        pushing: whether the dynamics have pushes; rewards have them where they may depend on who touches whom.
        replicas: S.
    """

    def __init__(self, layout: Layout, pushing: bool, replicas: int) -> None:
        self._dynamic_J, device = layout.dynamic_J, layout.dynamic_J.device
        agents, j, u = layout.spec.num_agents, layout.obs_size, layout.action_size
        self.features = Features(layout, replicas)
        inputs, pairs = j + u + 1, self.features.pairs_L
        self.linear = LeastSquares(inputs, j, replicas, device)
        self.pushing = pushing and len(pairs) > 0
        self.paid = len(pairs) > 0 and not self.features.multiply  # rewards may depend on who touches whom
        searched = self.pushing or self.paid
        self.pushes = Pushes(pairs, inputs, j, replicas, device) if searched else None
        self.sample = Sample(SAMPLE if searched else 0, (j, u, agents), replicas, device)
        self.rewards = Ridge(self.features.reward_size + self.paid * Pushes.MOST, agents, replicas, device)
        self.reward_scale = Normaliser(replicas, agents, device)
        self._absorbed, self._solved, self._searched = 0, 0, 0  # joint steps

    def absorb(self, step: StepRows, mask_SE: Tensor) -> None:
        """Add one joint step to all problems."""
        obs, after = step.obs[..., self._dynamic_J], step.next_obs[..., self._dynamic_J]
        self._absorbed += 1
        self.linear.add(with_one(obs, step.action), after, mask_SE)
        if self.pushes is not None:
            self.sample.add(obs, step.action, after, step.reward, mask_SE)
        raw = self.features.raw(after)
        self.rewards.add(self._paying(after, raw), step.reward, mask_SE)
        self.features.scale.add(raw, mask_SE)
        self.reward_scale.add(step.reward, mask_SE)

    def solve(self) -> None:
        """New solutions, where there is more to learn from than for the last ones."""
        if self._absorbed <= GROWTH * self._solved:
            return
        self._solved = self._absorbed
        self.linear.solve()
        if self.pushes is not None and self._absorbed > SEARCH_GROWTH * self._searched:
            self._searched = self._absorbed
            self._search(self.pushes)
        self.rewards.solve()

    def _search(self, pushes: Pushes) -> None:
        """Look for pushes anew; rewards by whether they touch are then learned from the sample."""
        rows = self.sample.rows()
        pushes.fit(rows, self.linear)
        if self.paid:
            inputs, agents = self.rewards.cross_SPJ.shape[1:]
            self.rewards = Ridge(inputs, agents, len(rows.weight), rows.weight.device)
            self.rewards.add(self._paying(rows.after, None), rows.reward, rows.weight)

    # -------------------------------------------------------------- dynamics
    @property
    def dynamics(self) -> LeastSquares:
        """All of the dynamics, of `inputs`."""
        return self.pushes.fitted if self.pushing and self.pushes is not None else self.linear

    def inputs(self, obs_SnJ: Tensor, action_SnU: Tensor) -> Tensor:
        """Observation, action, one, and the pushes if there are any, [S, n, Q]."""
        inputs = with_one(obs_SnJ, action_SnU)
        if not self.pushing:
            return inputs
        assert self.pushes is not None
        return torch.cat([inputs, self.pushes.features(obs_SnJ)], dim=2)

    # --------------------------------------------------------------- rewards
    def _paying(self, after_SnJ: Tensor, raw_SnF: Tensor | None) -> Tensor:
        """Inputs of the rewards, from observations and their features."""
        rewards = self.features.rewards(after_SnJ, raw_SnF)
        if not self.paid:
            return rewards
        assert self.pushes is not None
        return torch.cat([rewards, self.pushes.touching(after_SnJ)], dim=2)

    def paid_for(self, after_SnJ: Tensor, raw_SnF: Tensor | None = None) -> Tensor:
        """Rewards [S, n, N] of the observations that a step led to, in deviations from their mean, at most `FARTHEST`.

        Args:
            after_SnJ: in the environment's units.
            raw_SnF: their features, where they are known already.
        """
        return self.reward_scale.apply(self.rewards(self._paying(after_SnJ, raw_SnF))).clamp(-FARTHEST, FARTHEST)

    # ----------------------------------------------------------------- state
    def _parts(self) -> dict[str, Any]:
        return {
            "linear": self.linear,
            "sample": self.sample,
            **({} if self.pushes is None else {"pushes": self.pushes}),
            "rewards": self.rewards,
            "features": self.features.scale,
            "reward_scale": self.reward_scale,
        }

    def state_dict(self) -> dict[str, Any]:
        counts = {"absorbed": self._absorbed, "solved": self._solved, "searched": self._searched}
        return {**{name: part.state_dict() for name, part in self._parts().items()}, **counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self._absorbed, self._solved, self._searched = state["absorbed"], state["solved"], state["searched"]


def with_one(obs_SnJ: Tensor, action_SnU: Tensor) -> Tensor:
    """Observation, action and a one, [S, n, J + U + 1]."""
    return torch.cat([obs_SnJ, action_SnU, torch.ones_like(obs_SnJ[..., :1])], dim=2)
