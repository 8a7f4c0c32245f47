"""BatchedEnv: the interface that the learner sees, whatever steps the environments."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from envs.continuous import check_rows, choices_of, from_array, rows_of, to_array
from envs.errors import UserError
from envs.spec import AgentSpec, EnvSpec

if TYPE_CHECKING:
    from envs.pettingzoo.reader import Reader


@dataclass
class Step:
    """What one joint step of all environments returns."""

    obs: Tensor
    """[N, E, O] the observation to act on next: already reset where an episode ended."""
    final_obs: Tensor
    """[N, E, O] the true next observation: the one a TD target uses."""
    reward: Tensor
    """[N, E] of this step."""
    terminated: Tensor
    """Bool [N, E] the agent's episode ended for good: no bootstrap."""
    truncated: Tensor
    """Bool [N, E] cut by a time limit: bootstrap."""
    active: Tensor | None = None
    """Bool [N, E] the agent was there to act in this step; None: always all."""
    final_active: Tensor | None = None
    """Bool [N, E] the others meet the agent at `final_obs`: it is there to act on it, or would be but for a time limit
    of all; not if it leaves while others go on. None: all that are not terminated."""
    mask: Tensor | None = None
    """Bool [N, E, H, K] choices allowed at `obs`; None: all."""
    final_mask: Tensor | None = None
    """Bool [N, E, H, K] choices allowed at `final_obs`; None: all."""
    done: Tensor | None = None
    """Bool [E] the environment was reset after this step; None: any agent's end of all."""

    @property
    def ended(self) -> Tensor:
        """Bool [E]: the environment was reset after this step."""
        return (self.terminated | self.truncated).all(0) if self.done is None else self.done


class BatchedEnv(ABC):
    """E environments stepped together, each reset by itself when its episode ends."""

    spec: EnvSpec
    num_envs: int
    device: torch.device
    dtype: torch.dtype
    mask: Tensor | None = None
    """Bool [N, E, H, K] choices allowed at the observation that `reset` returned."""

    @property
    def reader(self) -> Reader | None:
        """Reads what one of the real environments returns; None where that is rows of numbers already, as in MPE."""
        return None

    @abstractmethod
    def reset(self, seed: int | None = None) -> Tensor:
        """Start every environment's episode 0 of `seed` (None: of the seed given before, else 0); obs [N, E, O]."""

    @abstractmethod
    def step(self, actions: Tensor) -> Step:
        """Play integer actions [N, E, H], or, where a head is continuous, rows [N, E, A] of one-hots and numbers in
        [-1, 1] (envs/continuous.py); entries of absent heads and absent agents are ignored."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and numbers from which `load_state_dict` continues bit for bit.

        The first dimension of every tensor is the environments, so that states of parts can be joined and cut; all
        else is the same for every part.
        """

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def renewed(self, state: dict[str, Any]) -> Tensor:
        """Start the episodes that follow those which run in `state`, in place of going on with these; obs [N, E, O].

        Raises:
            UserError: these environments are restored exactly and have no use for it.
        """
        raise UserError(
            f"environment {self.spec.id!r}: these environments are saved whole, so there is no reason to begin new "
            f"episodes at a resume; leave out --resume-environment fresh."
        )

    def unrepeatable(self, rebuild: bool = False) -> str:
        """What is not the same when an episode is played again from its seed; "" where all is, or is known to be.

        Args:
            rebuild: with a new environment for every episode.
        """
        return ""

    # -------------------------------------------------------- recorded steps
    def pattern(self) -> Hashable | None:
        """What the host decides of the next step, for those who record steps and replay them (a CUDA graph).

        Steps of one pattern are the same work on the device, whatever its tensors hold. None: the host takes part in
        the step, which can not be recorded.
        """
        return None

    def replayed(self) -> None:
        """The device has replayed a step of the present `pattern` without a call of `step`: the host counts it."""
        raise NotImplementedError(f"steps of {type(self).__name__} can not be recorded")

    def close(self) -> None:  # noqa: B027 - most backends hold nothing to close
        """Release worker processes and windows; calling it twice is harmless."""

    # ------------------------------------------------------------ conversions
    def split_obs(self, obs_NEO: Tensor) -> dict[str, Tensor]:
        """Padded observations [N, E, O] to {agent: [E, that agent's own width]}."""
        return {agent.name: obs_NEO[n, :, : agent.obs_size] for n, agent in enumerate(self.spec.agents)}

    def encode_actions(self, actions: dict[str, Any]) -> Tensor:
        """PettingZoo actions {agent: ids [E]} (MultiDiscrete: [E, heads]; Box: [E, own width]) to what `step` takes;
        absent heads 0."""
        return encode_actions(self.spec, actions, self.device)

    def decode_actions(self, actions: Tensor) -> dict[str, Tensor]:
        """What `step` takes to PettingZoo actions {agent: ids [E]} (MultiDiscrete: [E, heads]; Box: [E, own width])."""
        return decode_actions(self.spec, actions)

    def check_actions(self, actions: Tensor) -> None:
        """Raise `UserError` unless `actions` is an integer [N, E, H] within every agent's range, or such rows."""
        if self.spec.continuous:
            check_rows(self.spec, self.num_envs, actions)
            return
        expected = (self.spec.num_agents, self.num_envs, self.spec.num_heads)
        if not isinstance(actions, Tensor) or actions.is_floating_point() or actions.dtype == torch.bool:
            got = actions.dtype if isinstance(actions, Tensor) else type(actions).__name__
            raise UserError(f"actions must be an integer tensor {list(expected)} [agents, envs, heads], got {got}.")
        if tuple(actions.shape) != expected:
            shape = list(actions.shape)
            raise UserError(f"actions must have shape {list(expected)} [agents, envs, heads], got {shape}.")
        for n, agent in enumerate(self.spec.agents):
            for h, head in enumerate(agent.heads):
                low, high = int(actions[n, :, h].min()), int(actions[n, :, h].max())
                if low < 0 or high >= head.size:
                    bad = low if low < 0 else high
                    raise UserError(
                        f"action of agent {agent.name!r}, head {head.name!r} must lie in "
                        f"[0, {head.size - 1}], got {bad}."
                    )


def encode_actions(spec: EnvSpec, actions: dict[str, Any], device: torch.device | str = "cpu") -> Tensor:
    """PettingZoo actions {agent: ids [E], of a Box an array [E, own width]} to what `BatchedEnv.step` takes.

    The first head runs fastest: id = h0 + n0 * h1. Rows are float64.

    Raises:
        UserError: an agent is missing, its actions have another shape or type, or are outside of its range.
    """
    missing = [name for name in spec.agent_names if name not in actions]
    if missing:
        raise UserError(f"actions for {missing} are missing; expected the agents {list(spec.agent_names)}.")
    columns = []
    for n, agent in enumerate(spec.agents):
        given = actions[agent.name]
        given = torch.as_tensor(given if isinstance(given, Tensor) else np.asarray(given), device=device)
        if agent.box:
            row_EA = from_array(agent, given.to(torch.float64), spec.head_size, spec.action_size)
            columns.append(
                row_EA if spec.continuous else row_EA.unflatten(1, (spec.num_heads, spec.head_size)).argmax(-1)
            )
            continue
        choices_EH = _choices(spec, agent, given)
        columns.append(rows_of(spec, n, choices_EH) if spec.continuous else choices_EH)
    counts = [len(column) for column in columns]
    if len(set(counts)) > 1:
        given_of = dict(zip(spec.agent_names, counts, strict=True))
        raise UserError(f"expected actions of every agent in the same number of environments, got {given_of}.")
    return torch.stack(columns)


def _choices(spec: EnvSpec, agent: AgentSpec, ids: Tensor) -> Tensor:
    """Integers [E, H] of an agent's ids [E] (MultiDiscrete: [E, heads])."""
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise UserError(f"actions of agent {agent.name!r} must be integers, got {ids.dtype}.")
    own = [len(agent.heads)] if agent.multi_discrete else []
    if not ids.ndim or list(ids.shape[1:]) != own:
        expected = ", ".join(map(str, ["environments", *own]))
        raise UserError(f"actions of agent {agent.name!r} must have shape [{expected}], got {list(ids.shape)}.")
    ids = ids.to(torch.int64)
    heads = ids.new_zeros(len(ids), spec.num_heads)
    if agent.multi_discrete:
        sizes = ids.new_tensor([head.size for head in agent.heads])
        if bool(((ids < 0) | (ids >= sizes)).any()):
            raise UserError(
                f"actions of agent {agent.name!r} must be at least 0 and below {sizes.tolist()}, "
                f"got {ids.tolist()[:8]}."
            )
        heads[:, : len(agent.heads)] = ids
        return heads
    rest = ids - agent.start
    if bool(((rest < 0) | (rest >= agent.num_actions)).any()):
        raise UserError(
            f"action of agent {agent.name!r} must lie in "
            f"[{agent.start}, {agent.start + agent.num_actions - 1}], got {ids.tolist()[:8]}."
        )
    for h, head in enumerate(agent.heads):
        heads[:, h] = rest % head.size
        rest = rest // head.size
    return heads


def decode_actions(spec: EnvSpec, actions: Tensor) -> dict[str, Tensor]:
    """Integers [N, E, H] or rows [N, E, A] to PettingZoo actions {agent: ids [E]} (MultiDiscrete: [E, heads]; Box:
    [E, own width]); the inverse of `encode_actions`."""
    choices_NEH = choices_of(spec, actions)
    decoded = {}
    for n, agent in enumerate(spec.agents):
        if agent.box:
            row_EA = actions[n] if actions.is_floating_point() else rows_of(spec, n, choices_NEH[n])
            decoded[agent.name] = to_array(agent, row_EA, spec.head_size)
            continue
        if agent.multi_discrete:
            decoded[agent.name] = choices_NEH[n, :, : len(agent.heads)]
            continue
        ids = torch.zeros_like(choices_NEH[n, :, 0])
        for h in reversed(range(len(agent.heads))):
            ids = ids * agent.heads[h].size + choices_NEH[n, :, h]
        decoded[agent.name] = ids + agent.start
    return decoded
