"""Environments whose observations hold the last few ones and the actions between: memory for actors without any.

Shape suffixes: F frames, N agents, E environments, O padded width of one observation, H heads, K choices,
X = O + H * K.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from envs.batched import BatchedEnv, Step
from envs.errors import UserError
from envs.spec import EnvSpec

if TYPE_CHECKING:
    from envs.pettingzoo.reader import Reader


class Frames:
    """The last F observations, newest first, and behind them the agent's own last F - 1 actions as one-hots.

    Where the spec says so (`own_action`), the last action is there with a single observation too.

    At the start of an episode the first observation stands in for those before it, and zeros for actions. Where agents
    may leave or come late, all they see while they are not there is zeros, and behind such an observation no action is
    remembered, which a policy in play can tell as well as the environment; `History` keeps no older observation of one
    that has left either, so that critics see nothing of it. Where an action moves an agent one step later, as in MPE,
    two relative positions and the action between them tell the velocity, which simple_adversary shows to nobody (frame
    stacking: Mnih et al. 2015, "Human-level control through deep reinforcement learning", Methods, with F = 4 images
    and no actions).

    Args:
        spec: of the environment, with frames (`EnvSpec.stacked`).
        device: of observations.
    """

    def __init__(self, spec: EnvSpec, device: torch.device | str = "cpu") -> None:
        own = spec.single()
        self.frames, self.entry_size = spec.frames, own.obs_size + own.action_size
        self.earlier = spec.actions > 0  # whether anything from before the newest observation is in it
        self._obs_size, self._may_be_away = own.obs_size, not own.fixed_agents
        self._choices_K = torch.arange(own.head_size, device=device)
        self._columns_N1W = _columns(own, spec).to(device)

    def first(self, obs_NEO: Tensor) -> Tensor:
        """[F, N, E, X] at the start of episodes."""
        no_action = obs_NEO.new_zeros(*obs_NEO.shape[:2], self.entry_size - obs_NEO.shape[2])
        return torch.cat([obs_NEO, no_action], dim=2).expand(self.frames, -1, -1, -1)

    def after(self, kept_FNEX: Tensor, actions: Tensor, obs_NEO: Tensor) -> Tensor:
        """[F, N, E, X] once `actions` led to `obs_NEO`: integers [N, E, H], those of absent heads do not count, or rows
        [N, E, H * K] of one-hots and numbers."""
        if actions.is_floating_point():
            rows_NEA = actions.to(obs_NEO)
        else:
            rows_NEA = (actions[..., None].to(obs_NEO.device) == self._choices_K).flatten(2)
        if self._may_be_away:
            rows_NEA = rows_NEA * (kept_FNEX[0, ..., : self._obs_size] != 0).any(-1)[..., None]
        newest = torch.cat([obs_NEO, rows_NEA.to(obs_NEO.dtype)], dim=2)
        return torch.cat([newest[None], kept_FNEX[:-1]])

    def wide(self, kept_FNEX: Tensor) -> Tensor:
        """[F, N, E, X] to [N, E, padded width]: each agent's own columns side by side, zeros behind them."""
        side_by_side = kept_FNEX.movedim(0, 2).flatten(2)
        zero = side_by_side.new_zeros(*side_by_side.shape[:2], 1)
        columns = self._columns_N1W.expand(-1, side_by_side.shape[1], -1)
        return torch.cat([side_by_side, zero], dim=2).gather(2, columns)


class History(BatchedEnv):
    """The environments of `env`, whose observations are the last `frames` ones and the actions between (`Frames`).

    What stands between steps is written in place, so that steps can be recorded in a CUDA graph where those of `env`
    can.

    Args:
        env: any environments.
        frames: F, at least 2, or 1 with `own_action`.
        own_action: show the last action with a single observation too.

    Raises:
        UserError: `frames` are fewer.
    """

    def __init__(self, env: BatchedEnv, frames: int, own_action: bool = False) -> None:
        if frames < 2 - own_action:
            raise UserError(f"frames must be at least {2 - own_action}, got {frames}.")
        self.env, self.spec = env, env.spec.stacked(frames, own_action)
        self.num_envs, self.device, self.dtype = env.num_envs, env.device, env.dtype
        self._frames = Frames(self.spec, env.device)
        shape = frames, env.spec.num_agents, env.num_envs, self._frames.entry_size
        self._kept_FNEX = torch.zeros(shape, dtype=env.dtype, device=env.device)

    @property
    def reader(self) -> Reader | None:
        return self.env.reader

    def reset(self, seed: int | None = None) -> Tensor:
        self._kept_FNEX.copy_(self._frames.first(self.env.reset(seed)))
        self.mask = self.env.mask
        return self._frames.wide(self._kept_FNEX)

    def step(self, actions: Tensor) -> Step:
        step, frames = self.env.step(actions), self._frames
        final_obs = frames.wide(frames.after(self._kept_FNEX, actions, step.final_obs))
        going_on = frames.after(self._kept_FNEX, actions, step.obs)
        if step.final_active is not None:  # of who has left nothing is kept, older frames neither
            going_on = going_on.masked_fill(~step.final_active[None, :, :, None], 0.0)
        self._kept_FNEX.copy_(torch.where(step.ended[:, None], frames.first(step.obs), going_on))
        return replace(step, obs=frames.wide(self._kept_FNEX), final_obs=final_obs)

    def state_dict(self) -> dict[str, Any]:
        return {"env": self.env.state_dict(), "frames": self._kept_FNEX.movedim(2, 0).clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.env.load_state_dict(state["env"])
        self._kept_FNEX.copy_(state["frames"].movedim(0, 2))

    def renewed(self, state: dict[str, Any]) -> Tensor:
        self._kept_FNEX.copy_(self._frames.first(self.env.renewed(state["env"])))
        self.mask = self.env.mask
        return self._frames.wide(self._kept_FNEX)

    def pattern(self) -> Hashable | None:
        return self.env.pattern()

    def replayed(self) -> None:
        self.env.replayed()

    def close(self) -> None:
        self.env.close()


def _columns(own: EnvSpec, stacked: EnvSpec) -> Tensor:
    """Int [N, 1, W]: where in frames of width X, side by side, each number of an agent's stacked observation stands."""
    width = own.obs_size + own.action_size
    nowhere = stacked.frames * width  # a column of zeros
    columns = []
    for agent in own.agents:
        seen = [f * width + k for f in range(stacked.frames) for k in range(agent.obs_size)]
        acted = [
            f * width + own.obs_size + h * own.head_size + k
            for f in range(stacked.actions)
            for h, head in enumerate(agent.heads)
            for k in range(head.size)
        ]
        columns.append([*seen, *acted] + [nowhere] * (stacked.obs_size - len(seen) - len(acted)))
    return torch.tensor(columns)[:, None]
