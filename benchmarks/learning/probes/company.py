"""Environments in which scripts play all agents but those that learn: the learner is alone in good company.

To those that learn, the scripts are a part of the environment: what these see and do is in no critic, the message slots
of scripted speakers and listeners are no routes.

Shape suffixes: N agents (of the learners n), E environments, H heads, O observation width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from envs.batched import BatchedEnv, Step
from envs.spec import EnvSpec
from marl.errors import UserError
from marl.play.rollout import Player


def narrowed(spec: EnvSpec, learners: Sequence[str]) -> EnvSpec:
    """The specification of some agents alone: their sizes, teams, and routes among them."""
    kept = [n for n, name in enumerate(spec.agent_names) if name in learners]
    new = {n: k for k, n in enumerate(kept)}
    teams = [tuple(new[n] for n in team if n in new) for team in spec.teams]
    routes = [
        replace(route, sender=new[route.sender], receiver=new[route.receiver])
        for route in spec.routes
        if route.sender in new and route.receiver in new
    ]
    agents = tuple(spec.agents[n] for n in kept)
    return replace(spec, agents=agents, routes=tuple(routes), teams=tuple(team for team in teams if team))


class InCompany(BatchedEnv):
    """The environments of `env` as those of `learners`, beside a player of all other agents.

    Args:
        env: environments on the CPU whose episodes all end together, without masks and with discrete actions.
        player: acts for everybody; what it does for the learners is not looked at. It is reset with the episodes.
        learners: names of the agents whose actions `step` takes.
    """

    def __init__(self, env: BatchedEnv, player: Player, learners: Sequence[str]) -> None:
        self.env, self.player = env, player
        self.spec = narrowed(env.spec, learners)
        self.num_envs, self.device, self.dtype = env.num_envs, env.device, env.dtype
        self._kept = torch.tensor([n for n, name in enumerate(env.spec.agent_names) if name in learners])
        self._seen_NEO = torch.empty(0)

    def reset(self, seed: int | None = None) -> Tensor:
        self.player.reset(self.num_envs)
        self._seen_NEO = self.env.reset(seed)
        return self._own(self._seen_NEO)

    def step(self, actions: Tensor) -> Step:
        observations = {name: obs.numpy() for name, obs in self.env.split_obs(self._seen_NEO).items()}
        joint_NEH = self.env.encode_actions(dict(self.player.act(observations)))
        joint_NEH[self._kept, :, : actions.shape[-1]] = actions.to(joint_NEH.dtype)
        step = self.env.step(joint_NEH)
        ended_E = step.ended
        if bool(ended_E.any()):
            assert bool(ended_E.all()), "a script is reset for all environments at once"
            self.player.reset(self.num_envs)
        self._seen_NEO = step.obs
        return Step(
            self._own(step.obs),
            self._own(step.final_obs),
            step.reward[self._kept],
            step.terminated[self._kept],
            step.truncated[self._kept],
            done=ended_E,
        )

    def _own(self, obs_NEO: Tensor) -> Tensor:
        return obs_NEO[self._kept, :, : self.spec.obs_size]

    def state_dict(self) -> dict[str, Any]:
        raise UserError("environments with scripts in them cannot be saved: a script's memory is not.")

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise UserError("environments with scripts in them cannot be restored: a script's memory was not saved.")
