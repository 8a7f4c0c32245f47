"""Matches of competitive tasks: one party's team against another party's, both ways round.

A return against one's own opponent says little: both may be bad. Here a party is a set of players that know the same
environment (the replicas of a run), or a script.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from envs.spec import EnvSpec
from marl.errors import UserError
from marl.evaluate.anchors import is_competitive, sides
from marl.evaluate.results import Match
from marl.play.rollout import MAX_STEPS, Mixed, Player, play
from marl.stats import crossed_summary


@dataclass(frozen=True)
class Party:
    """Players under one name, and the agents that they can play (None: all)."""

    name: str
    players: Sequence[Player]
    agents: frozenset[str] | None = None

    def can_play(self, agents: Sequence[str]) -> bool:
        return self.agents is None or self.agents.issuperset(agents)


def team_names(spec: EnvSpec) -> dict[str, list[str]]:
    """{name of the team: its agents}: MPE's sides, or the agents' names joined."""
    known = sides(spec)
    teams = [[spec.agent_names[n] for n in team] for team in spec.teams]
    if sorted(map(sorted, known.values())) == sorted(map(sorted, teams)):
        return known
    return {"+".join(team): team for team in teams}


def play_matches(
    first: Party,
    second: Party,
    env_id: str,
    spec: EnvSpec,
    *,
    episodes: int,
    seed: int,
    env_args: dict[str, Any] | None = None,
    backend: str = "pettingzoo",
    make: Callable[..., Any] | None = None,
    max_steps: int = MAX_STEPS,
) -> list[Match]:
    """Every team of `first` with the other teams of `second`, and the other way round.

    Args:
        first: plays one team while `second` plays all others; then they change places.
        second: a match that a party cannot play (a script of one side) is left out.
        env_id: what is played.
        spec: of the environment, with at least two teams.
        episodes: of each pair of players; all matches play the same episodes.
        seed: episode i is reset with `seed + i`.
        env_args: keyword arguments of the environment.
        backend: "pettingzoo" or "torch".
        make: builds the environment in place of `env_id`.
        max_steps: steps after which an episode is stopped (`play`).

    Returns:
        One entry a match; the rows of its `pairs` are the players of `first`. Errors are over the players of either
        party and the episodes, which all pairs share (`stats.crossed_summary`).

    Raises:
        UserError: the task has one team only, or neither party can play a team against the other.
    """
    if not is_competitive(spec):
        raise UserError(
            f"{spec.id} has one team, so there is nobody to play against; expected a competitive task such as "
            f"simple_tag or simple_adversary. How agents of different runs work together shows "
            f"python -m marl.communication RUN --with RUN."
        )
    teams = team_names(spec)
    matches = []
    for team, members in teams.items():
        others = [name for name in spec.agent_names if name not in members]
        for one, two in ((first, second), (second, first)):
            # with two teams, `second`'s turn at this team is `first`'s turn at the other, played already
            if one is second and len(teams) == 2:
                continue
            if one.can_play(members) and two.can_play(others):
                names = {name: one.name if name == team else two.name for name in teams}
                match = _match(
                    names, one, two, members, env_id, spec, episodes, seed, env_args, backend, make, max_steps
                )
                if one is second:
                    turned = {name: tuple(zip(*rows, strict=True)) for name, rows in match.pairs.items()}
                    match = replace(match, pairs=turned)
                matches.append(match)
    if not matches:
        raise UserError(
            f"{second.name} plays {sorted(second.agents or [])} and {first.name} cannot play the rest of {spec.id}; "
            f"expected a party that plays one of the teams {list(teams.values())}."
        )
    return matches


def one_pair(first: Party, second: Party, spec: EnvSpec) -> Mixed:
    """The first match that `play_matches` would play, with the first player of each party."""
    for members in team_names(spec).values():
        others = [name for name in spec.agent_names if name not in members]
        if first.can_play(members) and second.can_play(others):
            mine, theirs = first.players[0], second.players[0]
            return Mixed({name: mine if name in members else theirs for name in spec.agent_names})
    raise UserError(f"{first.name} and {second.name} together cannot play all agents of {spec.id}.")


def _match(
    parties: dict[str, str],
    one: Party,
    two: Party,
    members: Sequence[str],
    env_id: str,
    spec: EnvSpec,
    episodes: int,
    seed: int,
    env_args: dict[str, Any] | None,
    backend: str,
    make: Callable[..., Any] | None,
    max_steps: int,
) -> Match:
    """`one` plays the agents `members`, `two` all others; every pair of their players."""
    returns = []  # [pairs][episodes, N]
    for mine in one.players:
        for theirs in two.players:
            mixed = Mixed({name: mine if name in members else theirs for name in spec.agent_names})
            returns.append(
                play(
                    env_id,
                    mixed,
                    episodes,
                    seed,
                    env_args=env_args,
                    backend=backend,
                    make=make,
                    spec=spec,
                    max_steps=max_steps,
                ).returns
            )
    shape = len(one.players), len(two.players), len(returns[0])
    of_agents = np.concatenate(returns).reshape(*shape, spec.num_agents)  # [first players, second players, episodes, N]
    columns = {team: [spec.agent_names.index(name) for name in names] for team, names in team_names(spec).items()}
    width = len(two.players)
    means = {team: [float(played[:, own].mean()) for played in returns] for team, own in columns.items()}
    return Match(
        parties=parties,
        returns={name: crossed_summary(of_agents[..., n]) for n, name in enumerate(spec.agent_names)},
        teams={team: crossed_summary(of_agents[..., own].mean(-1)) for team, own in columns.items()},
        pairs={
            team: tuple(tuple(values[i : i + width]) for i in range(0, len(values), width))
            for team, values in means.items()
        },
    )
