"""How well both sides of a competitive task play: each against one script, in the same episodes at every evaluation.

Shape suffixes: S replicas, E episodes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.competition.duels import Arena
from benchmarks.world_model.sample_tasks import EVALUATION_SEED
from marl.play.rollout import Player


@functools.cache
def arena(env: str, episodes: int) -> Arena:
    """Where the sides of `env` play these episodes; what scripts earn in it is played once."""
    return Arena(env, episodes, EVALUATION_SEED)


def scores(env: str, opponents: Mapping[str, str], players: Sequence[Player], episodes: int) -> np.ndarray:
    """What every player earns on each side, on the scale of the side's scripts against the same opponent.

    Args:
        env: a task of `benchmarks.competition.duels.SCRIPTS`.
        opponents: {side: the script of the other side that it plays against}.
        players: S of them, each of which plays every side.
        episodes: E, the same for all.

    Returns:
        float64 [S, sides], in the order of `opponents`: 0 as much as random play, 1 as much as the best script that
        decides on the side's own observations.
    """
    place = arena(env, episodes)
    columns = []
    for side, opponent in opponents.items():
        low, high = scale(env, side, opponent, episodes)
        script, other = place.script(opponent), place.other(side)
        earned = [float(place.play({side: player, other: script})[side].mean()) for player in players]
        columns.append((np.array(earned) - low) / (high - low))
    return np.stack(columns, axis=1)


@functools.cache
def scale(env: str, side: str, opponent: str, episodes: int) -> tuple[float, float]:
    """Mean returns of random play and of the best fair script of `side` against `opponent`."""
    place = arena(env, episodes)
    other = place.other(side)

    def earns(script: str) -> float:
        players = {side: place.script(script), other: place.script(opponent)}
        return float(place.play(players)[side].mean())

    fair = [script for script in place.scripts(side) if not place.informed(script)]
    return earns("random"), max(map(earns, fair))
