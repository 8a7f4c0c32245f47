"""Transitions in and out of the world model, and how wrong its rollouts are.

Shape suffixes: S replicas, N agents, E environments, B batch, T frames, K steps, F joint observation, J predicted
entries of it, U joint action.
"""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from envs.streams import Stream
from marl.data.batch import Batch, Transitions
from marl.world_model.layout import Layout
from marl.world_model.protocol import WorldModel
from marl.world_model.sequences import Sequences, StepRows


def rows_of(layout: Layout, t: Transitions) -> StepRows:
    """A joint step as rows without padding. A time limit ends the episode but is no termination: alive stays 1."""
    return StepRows(
        obs=layout.join(t.obs),
        action=layout.join_action(t.action),
        reward=t.reward.transpose(1, 2),
        alive=(~t.terminated).to(t.reward.dtype).transpose(1, 2),
        next_obs=layout.join(t.next_obs),
        first=t.first,
        last=(t.terminated | t.truncated).all(1),
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


@torch.no_grad()
def rollout_errors(
    model: WorldModel, seq: Sequences, steps: int, layout: Layout, stream: Stream
) -> tuple[Tensor, Tensor]:
    """Root mean square errors of observation and reward after 1 .. K steps from every frame, each [S, K].

    In standard deviations of each entry, with the recorded actions, averaged over frames, entries and agents;
    infinite where no episode is long enough.
    """
    length, rows = seq.first.shape[1:]
    state = model.observe(seq, stream)
    going_STB = seq.valid
    errors = []
    for k in range(1, steps + 1):
        # frame t of the shifted tensors is frame t + k of the window; the last k frames have no such frame
        action, obs, reward, follows = (torch.roll(x, -k, 1) for x in (seq.action, seq.obs, seq.reward, seq.follows))
        inside_T = torch.arange(length, device=obs.device) < length - k
        going_STB = going_STB & follows & inside_T[:, None]
        state, seen = model.step(state, action.flatten(1, 2), stream.uniform(length * rows, model.noise_size))
        truth = obs[..., layout.dynamic_J].flatten(1, 2)
        off_obs = model.obs_scale.apply(seen.obs) - model.obs_scale.apply(truth)
        off_reward = model.reward_scale.apply(seen.reward) - model.reward_scale.apply(reward.flatten(1, 2))
        weight_Sn = going_STB.flatten(1, 2).float()
        count_S = weight_Sn.sum(1)
        both = [(x.square().mean(2) * weight_Sn).sum(1) / count_S for x in (off_obs, off_reward)]
        errors.append(torch.stack(both).sqrt().nan_to_num(nan=float("inf"), posinf=float("inf")))
    observation_SK, reward_SK = torch.stack(errors, dim=2)
    return observation_SK, reward_SK
