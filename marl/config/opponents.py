"""Settings of the pool of frozen opponents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from marl.config.ranges import Positive, Range


@dataclass(frozen=True)
class OpponentsConfig:
    """Opponents of competitive tasks: --opponents pool. Sources in marl/data/opponents.py."""

    kind: Literal["current", "pool"] = "current"
    """Who plays against a team: the other teams' present policies; or, in some environments, one of the teams is played
    by a frozen policy drawn from a pool of earlier ones. `--opponents pool` is short for it."""
    share: Annotated[float, Range(0.0, 1.0, above=True)] = 0.5
    """Share of a replica's environments that play against the pool, at least one environment; the rest plays against
    present policies."""
    draw: Literal["uniform", "latest", "prioritised"] = "uniform"
    """How a member of the pool is drawn for an episode: all alike (fictitious self-play), always the newest, or the
    rather the less it is beaten (prioritised fictitious self-play)."""
    every: Positive | None = None
    """Environment steps of a replica between snapshots of its policies for the pool; unset: a twentieth of the run."""
    size: Positive = 20
    """Snapshots of a replica that are drawn from: the newest."""
    replicas: bool = False
    """Draw from the snapshots of all replicas of the run; their results then depend on each other."""
