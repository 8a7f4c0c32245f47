"""Imagined rollouts of the current actors, and transitions in and out of the world model.

Rollouts start at posterior states of stored episodes, the first observation is real, the current actors act on their
own (decoded) observation with hard sampled actions, messages are copied to their slots by the spec's routes. The actors
never see the model's state: execution stays decentralised, and a trained actor needs no model.

Shape suffixes: S replicas, N agents, E environments, B batch, R rollouts, K steps, X rows of all of them, O
observation, A action, F joint observation, U joint action, V flags.

Source: Janner et al. 2019 (MBPO, arXiv 1906.08253) for short branched rollouts; Willemsen et al. 2021 (MAMBPO,
2108.05308) with central-critic agents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from envs.streams import Stream
from marl.config.world_model import WorldModelConfig
from marl.data.batch import Batch, Transitions
from marl.learner import relaxation
from marl.world_model.imagination.starts import Starts
from marl.world_model.layout import Layout
from marl.world_model.protocol import WorldModel
from marl.world_model.sequences import StepRows

Policy = Callable[[Tensor], Tensor]
"""Padded observations [S, N, B, O] to logits [S, N, B, H, K]."""


@dataclass
class Imagined:
    """K steps of R rollouts of every replica; row k * R + r of X = K * R is step k of rollout r."""

    transitions: Transitions  # with X environments
    uncertainty: Tensor  # [S, X] disagreement of the ensemble
    valid: Tensor  # bool [S, X] the rollout had not ended before, and may be this long


class Rollouts:
    """The current actors in the model's world.

    Args:
        model: imagines.
        policy: the current actors.
        starts: where rollouts begin.
        layout: of the joint observation.
        config: how many rollouts, and of how many steps.
        gamma: the learner's discount.
        stream: of all that is drawn; its rows are the replicas.
    """

    def __init__(
        self,
        model: WorldModel,
        policy: Policy,
        starts: Starts,
        layout: Layout,
        config: WorldModelConfig,
        gamma: float,
        stream: Stream,
    ) -> None:
        self.model, self.policy, self.starts, self.layout = model, policy, starts, layout
        self.config, self.gamma, self.stream, self.flags = config, gamma, stream, layout.flags
        self.head_mask = layout.spec.head_mask.to(stream.key_R.device)[:, None]  # [N, 1, H, K]

    @torch.no_grad()
    def imagine(self, length_S: Tensor) -> Imagined:
        """Fresh rollouts, of which the first `length_S` steps of a replica are valid."""
        state, obs, prev_obs, first, alive, flags, _ = self.starts.draw()
        steps, uncertainty, valid = [], [], []
        for k in range(self.config.rollout):
            action = self._act(obs, flags)
            rows = self.layout.join_action(action)
            noise = self.stream.uniform(self.config.size("starts"), self.model.noise_size)
            state, prediction = self.model.step(state, rows, noise)
            next_obs = self.layout.assemble(prediction.obs, rows)
            # the discount head's more probable outcome: exact targets wherever an episode goes on
            ended = (prediction.discount < 0.5 * self.gamma).transpose(1, 2)
            reward = prediction.reward.transpose(1, 2)
            none = torch.zeros_like(ended)
            step = Transitions(obs, prev_obs, first, action, reward, ended, none, next_obs)
            if self.flags.size:
                before, flags = flags, flags if prediction.flags is None else prediction.flags
                step = self.flags.joined(step, before, flags)
            steps.append(step)
            uncertainty.append(prediction.uncertainty)
            valid.append(alive & (k < length_S[:, None]))
            alive = alive & self.flags.going(ended, flags)
            obs, prev_obs, first = self.flags.seen(step.next_obs, flags), obs, torch.zeros_like(first)
        return Imagined(joined(steps), torch.cat(uncertainty, 1), torch.cat(valid, 1))

    def masks(self, flags_SRV: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """Who acts, bool [S, N, R] (None: all); and what is allowed, bool that broadcasts to [S, N, R, H, K]."""
        if flags_SRV is None:
            return None, self.head_mask
        there = self.flags.there(flags_SRV)
        allowed = self.flags.allowed(flags_SRV, there)
        return there, self.head_mask if allowed is None else allowed

    def _act(self, obs_SNRO: Tensor, flags_SRV: Tensor) -> Tensor:
        """Hard one-hots [S, N, R, A] of the current actors, sampled from what is allowed; zeros of who is gone."""
        logits = self.policy(obs_SNRO)
        noise = self.stream.gumbel(*logits.shape[1:])
        there, allowed = self.masks(flags_SRV)
        onehot = relaxation.sample_onehot(logits, noise, allowed).flatten(-2)
        return onehot if there is None else onehot * there[..., None]


def rows_of(layout: Layout, t: Transitions) -> StepRows:
    """A joint step as rows without padding. A time limit ends the episode but is no termination: alive stays 1."""
    flags, next_flags = layout.flags.of_step(t) if layout.flags.size else (None, None)
    return StepRows(
        obs=layout.join(t.obs),
        action=layout.join_action(t.action),
        reward=t.reward.transpose(1, 2),
        alive=(~t.terminated).to(t.reward.dtype).transpose(1, 2),
        next_obs=layout.join(t.next_obs),
        first=t.first,
        last=(t.terminated | t.truncated).all(1),
        flags=flags,
        next_flags=next_flags,
    )


def joined(steps: list[Transitions]) -> Transitions:
    """K joint steps of R environments as one of K * R."""

    def cat(name: str) -> Tensor:
        dim = 1 if name == "first" else 2
        return torch.cat([getattr(step, name) for step in steps], dim=dim)

    present = [field.name for field in fields(Transitions) if getattr(steps[0], field.name) is not None]
    return Transitions(**{name: cat(name) for name in present})


def mixed(real: Batch, imagined: Batch, use_S: Tensor) -> Batch:
    """`real` with its last transitions replaced by `imagined` in the replicas of `use_S`."""

    def change(old: Tensor, new: Tensor, dim: int) -> Tensor:
        kept = old.shape[dim] - new.shape[dim]
        tail = old.narrow(dim, kept, new.shape[dim])
        use = use_S.view(-1, *([1] * (old.dim() - 1)))
        return torch.cat([old.narrow(dim, 0, kept), torch.where(use, new, tail)], dim=dim)

    return real.mapped(change, imagined)
