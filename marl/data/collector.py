"""Environments x policy -> transitions.

Shape suffixes: S replicas, N agents, E environments of a replica, R = S * E rows, G networks of a replica,
W width of their states, O observation, A = H * K action, H heads, K choices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from envs.batched import BatchedEnv
from marl.data.batch import Transitions
from marl.data.opponents import Opponents
from marl.data.partners import Partners


class Memory(Protocol):
    """What recurrent networks remember of the running episodes."""

    state: Tensor  # [S, G, E, W] of all networks of a replica; written in place

    def act(self, obs_SNEO: Tensor, mask: Tensor | None) -> Tensor:
        """One-hot actions [S, N, E, H, K]; the actors then remember the observations."""

    def remember(self, obs_SNEO: Tensor, action_SNEA: Tensor) -> None:
        """What was done at these observations; the critics then remember both."""


class Collector:
    """Steps the environments of all replicas with the current sampled policies; row s * E + e is replica s's.

    What a step leaves for the next one is written in place, so that steps can be recorded in a CUDA graph.

    Args:
        env: of all replicas.
        act: observations [S, N, E, O] and masks [S, N, E, H, K] (None: all choices allowed) to one-hot actions
            [S, N, E, H, K], with numbers in [-1, 1] where a head is continuous; absent heads are zero.
        num_replicas: S.
        memory: of recurrent networks, whose `act` is given; None: they remember nothing.
        partners: who plays each agent, which `act` follows; None: every replica plays all agents of its environments.
        opponents: who plays in place of `act` where a team is frozen; None: nobody.
    """

    def __init__(
        self,
        env: BatchedEnv,
        act: Callable[[Tensor, Tensor | None], Tensor],
        num_replicas: int,
        memory: Memory | None = None,
        partners: Partners | None = None,
        opponents: Opponents | None = None,
    ) -> None:
        self.env, self.act, self.num_replicas, self.memory, self.partners = env, act, num_replicas, memory, partners
        self.opponents = opponents
        self.obs_SNEO = self.grouped(env.reset()).to(torch.float32, copy=True)
        self.mask = None if env.mask is None else self.grouped(env.mask)
        self.prev_SNEO = torch.zeros_like(self.obs_SNEO)
        envs = env.num_envs // num_replicas
        self.first_SE = torch.ones(num_replicas, envs, dtype=torch.bool, device=env.device)
        self.return_SNE = torch.zeros(num_replicas, env.spec.num_agents, envs, device=env.device)

    def grouped(self, x_NR: Tensor) -> Tensor:
        """[N, S * E, ...] to [S, N, E, ...]."""
        return x_NR.unflatten(1, (self.num_replicas, -1)).transpose(0, 1)

    def collect(self) -> tuple[Transitions, tuple[Tensor, Tensor]]:
        """One joint step of every environment; and of the episodes that ended with it, but for those with a frozen
        team, the sum of returns [S, N] and the number [S]."""
        opponents, learns, seats = self.opponents, None, None
        before = None if self.memory is None else self.memory.state.clone()
        onehot = self.act(self.obs_SNEO, self.mask)  # [S, N, E, H, K], numbers where a head is continuous
        if opponents is not None:
            seats, learns = opponents.seats(), opponents.learns_SNE.clone()
            onehot = opponents.act(seats, onehot, self.obs_SNEO, self.mask)
        if self.partners is not None:
            learns = self.partners.learns_SNE.clone()
        played = onehot.flatten(-2) if self.env.spec.continuous else onehot.argmax(-1)
        step = self.env.step(played.transpose(0, 1).flatten(1, 2))
        active = None if step.active is None else self.grouped(step.active)
        if active is not None:
            onehot = onehot * active[..., None, None]
        next_mask = None if step.final_mask is None else self.grouped(step.final_mask)
        transitions = Transitions(
            obs=self.obs_SNEO.clone(),
            prev_obs=self.prev_SNEO.clone(),
            first=self.first_SE.clone(),
            action=onehot.flatten(-2),
            reward=self.grouped(step.reward).to(torch.float32),
            terminated=self.grouped(step.terminated),
            truncated=self.grouped(step.truncated),
            next_obs=self.grouped(step.final_obs).to(torch.float32),
            active=active,
            next_active=None if step.final_active is None else self.grouped(step.final_active),
            mask=self.mask,
            next_mask=next_mask,
            memory=before,
            member=None if self.partners is None else self.partners.member_SNE.clone(),
            learns=learns,
        )
        if opponents is not None:
            transitions.next_action = opponents.ahead(seats, transitions.next_obs, next_mask)
        done_SE = step.ended.unflatten(0, (self.num_replicas, -1))
        self.return_SNE += transitions.reward
        counted_SE = done_SE if opponents is None else done_SE & ~opponents.faced_SE
        finished = (self.return_SNE * counted_SE[:, None]).sum(-1), counted_SE.sum(-1)
        keep = (~done_SE)[:, None]
        if self.memory is not None:
            self.memory.remember(transitions.obs, transitions.action)
            self.memory.state *= keep[..., None]
        if self.partners is not None:
            self.partners.draw(done_SE)
        if opponents is not None:
            opponents.turn(self.return_SNE, done_SE)
        torch.mul(self.obs_SNEO, keep[..., None], out=self.prev_SNEO)
        self.obs_SNEO.copy_(self.grouped(step.obs))
        self.mask = None if step.mask is None else self.grouped(step.mask)
        self.first_SE.copy_(done_SE)
        self.return_SNE *= keep
        return transitions, finished

    # ------------------------------------------------------------------ state
    def state_dict(self) -> dict[str, Any]:
        return {
            "env": self.env.state_dict(),
            "obs": self.obs_SNEO.clone(),
            "prev": self.prev_SNEO.clone(),
            "first": self.first_SE.clone(),
            "mask": None if self.mask is None else self.mask.clone(),
            "returns": self.return_SNE.clone(),
            **({} if self.memory is None else {"memory": self.memory.state.clone()}),
            **({} if self.partners is None else {"partners": self.partners.state_dict()}),
            **({} if self.opponents is None else {"opponents": self.opponents.state_dict()}),
        }

    def begin_anew(self, state: dict[str, Any]) -> None:
        """In place of `load_state_dict`: new episodes, those behind the ones that run in the state."""
        self.obs_SNEO.copy_(self.grouped(self.env.renewed(state["env"])))
        self.mask = None if self.env.mask is None else self.grouped(self.env.mask)
        self.prev_SNEO.zero_()
        self.first_SE.fill_(True)
        self.return_SNE.zero_()
        if self.memory is not None:
            self.memory.state.zero_()
        if self.partners is not None:
            self.partners.load_state_dict(state["partners"])
            self.partners.draw(self.first_SE)
        if self.opponents is not None:
            self.opponents.load_state_dict(state["opponents"])
            self.opponents.draw(self.first_SE)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.env.load_state_dict(state["env"])
        for mine, saved in (
            (self.obs_SNEO, "obs"), (self.prev_SNEO, "prev"), (self.first_SE, "first"), (self.return_SNE, "returns")
        ):  # fmt: skip
            mine.copy_(state[saved])
        self.mask = None if state["mask"] is None else state["mask"].to(self.env.device)
        if self.memory is not None:
            self.memory.state.copy_(state["memory"])
        if self.opponents is not None:
            self.opponents.load_state_dict(state["opponents"])
        if self.partners is not None:
            self.partners.load_state_dict(state["partners"])
