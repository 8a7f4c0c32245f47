"""What the learner derives from the specification of the agents: shares of step sizes, teams, estimators."""

from __future__ import annotations

import torch
from torch import Tensor

from envs.spec import EnvSpec, Route
from marl.config.schema import MADDPGConfig
from marl.errors import UserError


def owners(spec: EnvSpec, shared: bool) -> list[list[str]]:
    """Names of the agents of every network, in the networks' order; with `shared`, interchangeable agents have one."""
    if not shared:
        return [[name] for name in spec.agent_names]
    kinds = range(max(spec.kinds) + 1)
    return [[name for name, k in zip(spec.agent_names, spec.kinds, strict=True) if k == kind] for kind in kinds]


def frozen_shares(spec: EnvSpec, config: MADDPGConfig, device: torch.device) -> Tensor | None:
    """Share of every actor's steps that is not taken, [G, 1]; None: all are whole.

    Source: two time scales, Heusel et al. 2017 (arXiv 1706.08500), section 2; there two networks, here all actors.
    """
    shares, names = config.actor_lr_shares, spec.agent_names
    unknown = sorted(set(shares) - set(names))
    if unknown:
        raise UserError(f"maddpg.actor_lr_shares names {unknown[0]!r}; expected one of {', '.join(names)}.")
    if not shares:
        return None
    by_group = [{shares.get(name, 1.0) for name in group} for group in owners(spec, config.share_actors)]
    if any(len(group) > 1 for group in by_group):
        raise UserError("maddpg.actor_lr_shares differ between agents that share one actor (maddpg.share_actors).")
    return torch.tensor([[1.0 - group.pop()] for group in by_group], device=device)


def corrected_routes(spec: EnvSpec, config: MADDPGConfig) -> tuple[Route, ...]:
    """Routes on which the communication correction relabels: what arrives is what was said, by a sender that learns.

    A sender whose share of the steps is 0 says today what it would have said then: nothing is to be corrected, and a
    message drawn anew would not be the one upon which its listener acted.
    """
    shares, names = config.actor_lr_shares, spec.agent_names
    return tuple(route for route in spec.routes if route.exact and shares.get(names[route.sender], 1.0) > 0.0)


def team_matrix(spec: EnvSpec, device: torch.device) -> Tensor:
    """Weights [N, N] of the team-mean reward: row n holds 1 / (size of its team) for every agent of agent n's team."""
    matrix = torch.eye(spec.num_agents, device=device)
    for team in spec.teams:
        for agent in team:
            matrix[agent, list(team)] = 1.0 / len(team)
    return matrix


def team_rewards(spec: EnvSpec, config: MADDPGConfig, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
    """`team_matrix` as the update takes it, or as the replay does: where agents may leave, sums of n steps end for each
    by itself, so that the mean of a team comes before them. None: elsewhere, or rewards are each agent's own."""
    matrix = team_matrix(spec, device) if config.team_reward else None
    return (matrix, None) if spec.fixed_agents else (None, matrix)


def message_positions(spec: EnvSpec) -> tuple[bool, ...]:
    """Of each head position whether every agent's head there is a message."""
    result = []
    for h in range(spec.num_heads):
        heads = [agent.heads[h] for agent in spec.agents if h < len(agent.heads) and not agent.heads[h].continuous]
        result.append(bool(heads) and all(head.is_message for head in heads))
    return tuple(result)


def estimators(spec: EnvSpec, config: MADDPGConfig) -> tuple[str, ...]:
    """The estimator of each head position: that of messages where every agent's head there is a message."""
    return tuple((message and config.message_estimator) or config.estimator for message in message_positions(spec))
