"""Transitions as they are collected, batches as they are learned from, and where batches come from.

Shape suffixes: S replicas, N agents, n senders, E environments of a replica, B minibatch, b windows, O observation,
A action one-hots, H heads, K choices, G networks of a replica, W width of their states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Protocol

from torch import Tensor


@dataclass
class Transitions:
    """One joint step of all environments of all replicas, as the collector makes it."""

    obs: Tensor  # [S, N, E, O] acted on
    prev_obs: Tensor  # [S, N, E, O] observation of the step before in the same episode; zeros at the first
    first: Tensor  # bool [S, E] obs is the first of its episode
    action: Tensor  # [S, N, E, A] executed one-hots
    reward: Tensor  # [S, N, E]
    terminated: Tensor  # bool [S, N, E]
    truncated: Tensor  # bool [S, N, E]
    next_obs: Tensor  # [S, N, E, O] true next observation
    active: Tensor | None = None  # bool [S, N, E] the agent was there to act; None: always
    next_active: Tensor | None = None  # bool [S, N, E] `Step.final_active`; None: where it is not terminated
    mask: Tensor | None = None  # bool [S, N, E, H, K] choices allowed at obs
    next_mask: Tensor | None = None  # bool [S, N, E, H, K] choices allowed at next_obs
    memory: Tensor | None = None  # [S, G, E, W] states of recurrent networks before obs
    member: Tensor | None = None  # int64 [S, N, E] which member of a population played the agent; None: no populations
    learns: Tensor | None = None  # bool [S, N, E] the replica's own policy played the agent, which learns from this
    next_action: Tensor | None = None  # [S, N, E, A] of frozen agents at next_obs, 0 of others; None: no pool


@dataclass
class Batch:
    """What the learner sees of B transitions per replica."""

    joint: Tensor  # [S, B, N*O + N*A] all observations, then all executed one-hots
    prev_obs: Tensor  # [S, n, B, O] of the senders (spec.senders) in their order
    first: Tensor  # bool [S, B]
    reward: Tensor  # [S, N, B] summed over n steps, discounted
    discount: Tensor  # [S, N, B] gamma^m (1 - terminated): weight of the bootstrap
    next_obs: Tensor  # [S, N, B, O]
    active: Tensor | None = None  # [S, N, B] 0 or 1; None: always 1
    next_active: Tensor | None = None  # [S, N, B] 0 or 1, whether the others meet the agent at next_obs; None: always 1
    mask: Tensor | None = None  # bool [S, N, B, H, K]
    next_mask: Tensor | None = None  # bool [S, N, B, H, K]
    member: Tensor | None = None  # int64 [S, N, B] which member of a population played the agent; None: no populations
    learns: Tensor | None = None  # [S, N, B] 0 or 1: whether the agent learns from this; None: always 1
    next_action: Tensor | None = None  # [S, N, B, A] of frozen agents at next_obs, 0 of others; None: no pool

    @property
    def weight(self) -> Tensor | None:
        """[S, N, B] 0 or 1: an agent learns where it was there and its own replica played it; None: everywhere."""
        if self.active is None or self.learns is None:
            return self.learns if self.active is None else self.active
        return self.active * self.learns

    @property
    def leaving(self) -> Tensor:
        """Bool [S, N, B]: truncated while others go on, who do not meet the agent again; its own value goes on."""
        assert self.next_active is not None, "nobody leaves where all agents stay"
        return (self.discount > 0) & (self.next_active < 0.5)

    @property
    def frozen(self) -> Tensor:
        """Bool [S, N, B]: the agent was played by a policy of the pool (marl/data/opponents.py)."""
        assert self.learns is not None and self.next_action is not None, "a batch of a run against a pool says who"
        return self.learns < 0.5

    @property
    def frozen_action(self) -> Tensor:
        """[S, N, B, A] what frozen agents would do at the next observation, those that are not there then: nothing."""
        assert self.next_action is not None, "a batch of a run against a pool says what"
        return self.next_action if self.next_active is None else self.next_action * self.next_active[..., None]

    @property
    def obs(self) -> Tensor:
        """[S, N, B, O], a view of `joint`: what is written into it stands there too."""
        return self._per_agent(0, self.next_obs.shape[3])

    @property
    def action(self) -> Tensor:
        """[S, N, B, A], a view of `joint`."""
        agents, width = self.next_obs.shape[1], self.next_obs.shape[3]
        return self._per_agent(agents * width, self.joint.shape[2] // agents - width)

    def _per_agent(self, start: int, width: int) -> Tensor:
        agents = self.next_obs.shape[1]
        return self.joint[..., start : start + agents * width].unflatten(2, (agents, width)).transpose(1, 2)

    def rows(self, part: slice) -> Batch:
        """Some of the B transitions, as views."""
        return self.mapped(lambda x, dim: x[(slice(None),) * dim + (part,)])

    def mapped(self, change: Callable[..., Tensor], *others: Batch) -> Batch:
        """`change(tensor, ..., dim of B)` of every field that is there, with the same fields of `others` between."""
        parts = {}
        for field in fields(Batch):
            every = [getattr(batch, field.name) for batch in (self, *others)]
            if every[0] is not None:
                parts[field.name] = change(*every, 1 if field.name in ("joint", "first") else 2)
        return Batch(**parts)


@dataclass(kw_only=True)
class Windows(Batch):
    """Windows of consecutive steps: row t * b + i of a batch is step t of window i. Rewards are those of single steps.

    Nothing of a window is relabelled: its messages are those that were heard.
    """

    lead: Batch  # the rows of the burn-in before these, in the same order
    memory: Tensor  # [S, G, b, W] states of the networks before the first of all steps
    going_on: Tensor  # [S, N, B] 1 where the agent's next step in the episode is the next one of the window, else 0


class BatchSource(Protocol):
    """Where the learner's batches come from: the replay buffer, or a world model around it."""

    @property
    def ready(self) -> bool:
        """Whether `add` and `sample` are from now on the same work on the device every time, without the host."""

    def add(self, transitions: Transitions) -> None: ...
    def sample(self, batch_size: int) -> Batch: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...
    def interrupt(self) -> None:
        """The running episodes do not go on with the next step."""

    def metrics(self) -> dict[str, Tensor]: ...
    def warnings(self) -> list[str]: ...
