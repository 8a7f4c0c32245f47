"""Actions in which some heads are real numbers: rows of one-hots and numbers, and PettingZoo's own arrays.

A row [A] holds every head of an agent side by side, each padded to K, as the critic sees them: the one-hot of a choice,
or the D <= K numbers of a continuous head on the scale of [-1, 1], where -1 and 1 stand for its bounds.

Shape suffixes: N agents, E environments, H heads, K choices or numbers, A = H * K, U sizes of an agent's own heads,
added up (`AgentSpec.choices`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from envs.errors import UserError
from envs.spec import AgentSpec, EnvSpec, Head


def row_shape(spec: EnvSpec) -> tuple[int, ...]:
    """What of an action comes behind [N, E]: (A,) numbers of a row, or (H,) integers where no head is continuous."""
    return (spec.action_size,) if spec.continuous else (spec.num_heads,)


def rows_of(spec: EnvSpec, n: int, choices_EH: Tensor) -> Tensor:
    """Agent n's integers [E, H] as float64 rows [E, A]; entries of absent and continuous heads are zero."""
    onehot_EHK = choices_EH[..., None] == torch.arange(spec.head_size, device=choices_EH.device)
    row_EA: Tensor = (onehot_EHK & spec.head_mask[n].to(choices_EH.device)).to(torch.float64).flatten(1)
    return row_EA


def choices_of(spec: EnvSpec, actions: Tensor) -> Tensor:
    """Integers [N, E, H] of actions of either form; 0 for absent and continuous heads."""
    if not actions.is_floating_point():
        return actions
    onehot_NEHK = actions.unflatten(2, (spec.num_heads, spec.head_size))
    choices_NEH: Tensor = (onehot_NEHK * spec.head_mask.to(actions.device)[:, None]).argmax(-1)
    return choices_NEH


def to_array(agent: AgentSpec, row_EA: Tensor, head_size: int) -> Tensor:
    """An agent's own array [E, U] from its rows: numbers between the bounds of the environment, one-hots as they are.

    A number u in [-1, 1] becomes low + (u + 1) / 2 * (high - low).
    """
    parts = []
    for h, head in enumerate(agent.heads):
        part_EU = row_EA[:, h * head_size : h * head_size + head.size]
        if head.continuous:
            low_U, high_U = _bounds(head, row_EA)
            part_EU = torch.clamp(low_U + (part_EU + 1) / 2 * (high_U - low_U), low_U, high_U)
        parts.append(part_EU)
    return torch.cat(parts, 1)


def from_array(agent: AgentSpec, array_EU: Tensor, head_size: int, width: int) -> Tensor:
    """Rows [E, width] from an agent's own arrays; the inverse of `to_array`. A message is its largest entry.

    Raises:
        UserError: an array of another width, or numbers outside of their bounds.
    """
    if array_EU.ndim != 2 or array_EU.shape[1] != agent.choices:
        raise UserError(
            f"actions of agent {agent.name!r} must have shape [environments, {agent.choices}], "
            f"got {list(array_EU.shape)}."
        )
    row_EA, start = array_EU.new_zeros(len(array_EU), width), 0
    for h, head in enumerate(agent.heads):
        part_EU = array_EU[:, start : start + head.size]
        start += head.size
        if head.continuous:
            low_U, high_U = _bounds(head, array_EU)
            if not bool(((part_EU >= low_U) & (part_EU <= high_U)).all()):
                raise UserError(
                    f"action of agent {agent.name!r}, head {head.name!r} must lie in [{list(head.low or ())}, "
                    f"{list(head.high or ())}], got {part_EU.tolist()[:4]}."
                )
            part_EU = (part_EU - low_U) / (high_U - low_U) * 2 - 1
        else:
            part_EU = torch.nn.functional.one_hot(part_EU.argmax(1), head.size).to(row_EA.dtype)
        row_EA[:, h * head_size : h * head_size + head.size] = part_EU
    return row_EA


def check_rows(spec: EnvSpec, num_envs: int, actions: Tensor, there_NE: Tensor | None = None) -> None:
    """Raise `UserError` unless `actions` are floating rows [N, E, A] with numbers in [-1, 1] and one-hots.

    Args:
        spec, num_envs: of the environments.
        actions: what they are to play.
        there_NE: bool, agents whose actions are looked at; None: all.
    """
    expected = [spec.num_agents, num_envs, spec.action_size]
    if not isinstance(actions, Tensor) or not actions.is_floating_point():
        got = actions.dtype if isinstance(actions, Tensor) else type(actions).__name__
        raise UserError(f"actions must be a floating tensor {expected} of one-hots and numbers in [-1, 1], got {got}.")
    if list(actions.shape) != expected:
        raise UserError(
            f"actions must have shape {expected} [agents, envs, one-hots and numbers side by side], "
            f"got {list(actions.shape)}."
        )
    for n, agent in enumerate(spec.agents):
        row_EA = actions[n] if there_NE is None else actions[n, there_NE[n]]
        for h, head in enumerate(agent.heads):
            part_EU = row_EA[:, h * spec.head_size : h * spec.head_size + head.size]
            if head.continuous:
                wrong_E = ~((part_EU >= -1) & (part_EU <= 1)).all(1)
                what = "hold numbers in [-1, 1], which stand for the bounds of the environment"
            else:
                wrong_E = ~((part_EU == 1).sum(1) == 1) | ~((part_EU == 0).sum(1) == head.size - 1)
                what = "be a one-hot"
            if bool(wrong_E.any()):
                raise UserError(
                    f"action of agent {agent.name!r}, head {head.name!r} must {what}, "
                    f"got {part_EU[wrong_E][0].tolist()}."
                )


def _bounds(head: Head, like: Tensor) -> tuple[Tensor, Tensor]:
    return like.new_tensor(head.low), like.new_tensor(head.high)
