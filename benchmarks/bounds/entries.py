"""Every task and side that has a bound: the bound, the best script, and the bound of each start that the script met.

The last takes the luck of the starts off the gap between script and bound: its mean over starts is the bound (without
the margin for drawn resets). Where the goal is drawn beside the start, terms of mean zero given the start are added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.bounds import goals, reach
from benchmarks.bounds.goals import Bound, drawn
from benchmarks.bounds.mover import STEPS, Array
from benchmarks.bounds.resets import Resets, resets
from benchmarks.bounds.silent import common_path
from marl.scripted.cooperative import geometric_median

ORACLE, SILENT = "oracle", "no_communication"
WAY = 6.0  # about how many of the 25 steps an agent is on its way; only the luck of the goals rests on it
SEED = 12_000_000  # of the episodes of the scripts and of the drawn starts


@dataclass(frozen=True)
class Entry:
    """One bound."""

    env: str
    kind: str
    """Of the anchor that it stands beside."""
    script: str
    bound: Callable[[float], Bound]
    """Of the share of all drawn samples to use, 1 by default."""
    costs: Callable[[Resets], Array]
    """Least cost [R] of each start."""


def _samples(count: int, share: float) -> int:
    return max(50, round(count * share))


def _rng() -> np.random.Generator:
    return np.random.default_rng(SEED)


# ------------------------------------------------------------------ one mover
def _simple(starts: Resets) -> Array:
    return goals.squared().start(starts.agents[:, 0] - starts.landmarks[:, 0])


def _listener(starts: Resets) -> Array:
    costs = goals.heard_late(goals.squared(), starts.agents[:, 1, None] - starts.landmarks, True)
    return _of_goal(costs, starts, 1)


def _silent_listener(starts: Resets) -> Array:
    middle = starts.landmarks.mean(1)
    way, apart = starts.agents[:, 1] - middle, starts.goals[:, 1] - middle
    cross = -2 * WAY * (way * apart).sum(-1)  # of |way - apart|^2, with mean zero over the goals
    return goals.squared().start(way) + STEPS * np.square(apart).sum(-1) + cross


def _reference(starts: Resets) -> Array:
    offsets = (starts.agents[:, i, None] - starts.landmarks for i in range(2))
    return np.mean(
        [_of_goal(goals.heard_late(goals.plain(), offset, False), starts, i) for i, offset in enumerate(offsets)], 0
    )


def _silent_reference(starts: Resets) -> Array:
    centre = geometric_median(starts.landmarks)
    costs = []
    for i in range(2):
        relative = starts.landmarks - starts.agents[:, i, None]
        luck = 0.0
        for place, weight in ((starts.agents[:, i], WAY), (centre, STEPS - WAY)):
            away = np.linalg.norm(starts.landmarks - place[:, None], axis=-1)
            luck = luck + weight * (_of_goal(away, starts, i) - away.mean(1))
        costs.append(common_path(relative) + luck)
    return np.mean(costs, 0)


def _of_goal(costs: Array, starts: Resets, agent: int) -> Array:
    """Of costs [R, L] by landmark that of the agent's goal [R]."""
    which = np.square(starts.landmarks - starts.goals[:, agent, None]).sum(-1).argmin(1)
    return np.take_along_axis(costs, which[:, None], 1)[:, 0]


# ------------------------------------------------------------------ teams
def _team(
    env: str, cost: Callable[[Array, Array], Array], count: int
) -> tuple[Callable[..., Bound], Callable[..., Array]]:
    def costs(starts: Resets) -> Array:
        parts = np.array_split(np.arange(len(starts.agents)), max(1, len(starts.agents) // 500))
        return np.concatenate([cost(starts.agents[part], starts.landmarks[part]) for part in parts])

    def bound(share: float) -> Bound:
        return drawn(costs(resets(env, SEED, _samples(count, share))), 0.0, "reach with contact forces, drawn resets")

    return bound, costs


ENTRIES = (
    Entry("simple_v3", ORACLE, "oracle", lambda share: goals.simple(), _simple),
    Entry(
        "simple_speaker_listener_v4", ORACLE, "oracle",
        lambda share: goals.speaker_listener(_samples(200_000, share), _rng()), _listener,
    ),
    Entry(
        "simple_speaker_listener_v4", SILENT, "silent", lambda share: goals.speaker_listener_silent(), _silent_listener
    ),
    Entry(
        "simple_reference_v3", ORACLE, "oracle",
        lambda share: goals.reference(_samples(200_000, share), _rng()), _reference,
    ),
    Entry(
        "simple_reference_v3", SILENT, "silent",
        lambda share: goals.reference_silent(_samples(5000, share), _rng()), _silent_reference,
    ),
    Entry("simple_spread_v3", ORACLE, "oracle", *_team("simple_spread", reach.spread, 20_000)),
    Entry("simple_line_v1", ORACLE, "oracle", *_team("simple_line", reach.line, 10_000)),
    Entry("simple_formation_v1", ORACLE, "oracle", *_team("simple_formation", reach.formation, 10_000)),
)  # fmt: skip
