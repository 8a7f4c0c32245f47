"""What an evaluation measures, as records: a replica, all of them, and matches of one party against another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from marl.evaluate.anchors import AnchorReturns
from marl.results import INLINE, LEFT_OUT, Record, key
from marl.stats import Estimate


@dataclass(frozen=True)
class ReplicaReturns(Record):
    """What one replica earned; errors are over episodes."""

    replica: int
    """Its number in the run, from 0."""
    returns: Mapping[str, Estimate] = field(metadata=key("return"))
    """{agent: return of one episode, undiscounted}."""
    sides: Mapping[str, Estimate]
    """{side: mean return of its agents}; the one side "all" where all are paid alike."""
    mean_return: float
    """Mean over agents and episodes."""
    mean_return_se: float | None
    """Standard error of it; None of one episode."""
    score: float | None
    """(return - random) / (oracle - random); None where the task has no such anchors."""
    gain: float | None
    """(return - no communication) / (oracle - no communication); None where the task has no such anchors."""
    unfinished: int | None = field(default=None, metadata=LEFT_OUT)
    """Episodes that were stopped at the limit of steps; None where all ended."""
    episodes: int | None = field(default=None, metadata=LEFT_OUT)
    """Episodes that it played, where these are fewer than were asked for; else None."""


@dataclass(frozen=True)
class Setting(Record):
    """What was played, and how."""

    env: str
    """Id of the environment with its version."""
    env_args: Mapping[str, Any]
    """Keyword arguments of the environment, as they were given."""
    episodes: int
    """That each player, or each pair of players, has played; the most that one has."""
    seed: int
    """Episode i is reset with `seed + i`."""
    mode: str
    """"greedy" or "sampled"."""
    backend: str
    """"pettingzoo" (the real environment) or "torch" (the batched port)."""
    max_steps: int | None = field(default=None, metadata=LEFT_OUT)
    """Steps after which an episode was stopped; None where all ended."""
    asked: int | None = field(default=None, metadata=LEFT_OUT)
    """Episodes that were asked for, where fewer were played; else None."""
    channel: str | None = field(default=None, metadata=LEFT_OUT)
    """The run's `--channel` where it is another than gumbel, as noisy:0.1; else None."""


@dataclass(frozen=True)
class Evaluation(Record):
    """What `evaluate` finds, and evaluation.json holds.

    Errors are over replicas where there are several, else over the episodes of the only one; intervals of several
    replicas are over both, since the luck of the common episodes moves all replicas together.
    """

    setting: Setting = field(metadata=INLINE)
    """What was played, and how."""
    competitive: bool
    """Whether teams play against each other."""
    replicas: tuple[ReplicaReturns, ...]
    """One for each player, in their order."""
    returns: Mapping[str, Estimate] = field(metadata=key("return"))
    """{agent: return of one episode}."""
    sides: Mapping[str, Estimate]
    """{side: mean return of its agents}."""
    mean_return: float
    """Mean over agents and replicas."""
    interval: tuple[float, float] | None
    """95 % interval of it: Student's over replicas with the episodes' luck, or normal over the episodes of the only
    replica; None of one episode of one replica."""
    score: float | None
    """As of a replica."""
    gain: float | None
    """As of a replica."""
    iqm: float | None
    """Interquartile mean of the replicas' `mean_return`; None of one replica."""
    iqm_interval: tuple[float, float] | None
    """95 % interval of it, a bootstrap over replicas with the episodes' luck; None of one replica."""
    anchors: AnchorReturns
    """The floors and ceilings that score and gain are measured by."""


@dataclass(frozen=True)
class Match(Record):
    """One party's team against another's, every pair of their players."""

    parties: Mapping[str, str]
    """{team: name of the party that plays it}."""
    returns: Mapping[str, Estimate] = field(metadata=key("return"))
    """{agent: return of one episode} in the mean over all pairs; the error holds the players of either party, of which
    there are several, and the episodes, which all pairs share."""
    teams: Mapping[str, Estimate]
    """{team: mean return of its agents}, likewise."""
    pairs: Mapping[str, tuple[tuple[float, ...], ...]]
    """{team: its mean return `[players of the first party][players of the second]`}."""


@dataclass(frozen=True)
class Matches(Record):
    """Everything that two parties played against each other: what `python -m marl.evaluate --against` finds."""

    setting: Setting = field(metadata=INLINE)
    """What was played, and how."""
    against: str
    """Name of the other party."""
    matches: tuple[Match, ...]
    """Both ways round, as far as both parties can play."""
    anchors: AnchorReturns
    """The floors and ceilings of the task."""
