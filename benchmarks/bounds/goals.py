"""Upper bounds of simple, simple_speaker_listener and simple_reference: one mover, one goal, known when it can be.

In all three an agent moves without contact and its cost is the sum over 25 positions of its distance (reference) or
squared distance (the others) from its own goal. simple_reference pays each agent .25 and .75 of both agents' distances,
so the mean over its agents is minus the mean cost of a mover.

- *simple*: the goal is known. Bound: minus the mean over starts of `Tables.start`; both coordinates of the offset are
  differences of two uniform variables, a triangular density.
- *With messages*: the first move is chosen before anything was heard, and whatever is known then (all landmarks) does
  not depend on which of the three the goal is. From the second move on let the agent know the goal. So the cost is at
  least E[c(first position) + min over first moves of the mean over goals of `Tables.pushed`]. Its excess over the mean
  of `Tables.start`, which is integrated exactly, is a mean over drawn resets.
- *Without messages, squared distances*: nothing that the listener ever observes depends on the goal, so its moves do
  not either, and the mean over goals of |p - g|^2 is |p - m|^2 + (mean of |g - m|^2), m the landmarks' mean. Bound: the
  mean of `Tables.start` over p_0 - m, whose coordinates have the density of one uniform variable and a third of three,
  and 25 (4/9) for the second part. Exact, without sampling.
- *Without messages, distances*: `silent.common_path`.

Policies may draw their moves: a mean over deterministic ones. Positions are float64 in `mpe2`, so that its float32
observations only take information away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from benchmarks.bounds.mover import STEPS, Array, Stage
from benchmarks.bounds.prices import library, offsets
from benchmarks.bounds.silent import common_path
from benchmarks.bounds.tables import Tables, nodes, tables
from marl.scripted.cooperative import geometric_median

ROUNDING = 0.02  # of |x| at 0
APART = 2 * (2 + math.sqrt(2) + 5 * math.log(1 + math.sqrt(2))) / 15  # mean distance of two points in a square of 2
CONFIDENT = 3.0902  # standard normal quantile of 0.999


@dataclass(frozen=True)
class Bound:
    """An upper bound of the expected return per agent."""

    value: float
    """Includes `margin`."""
    margin: float
    """How much of it is for drawn resets: 3.09 standard errors (one-sided 99.9 %, normal); 0 where all is exact."""
    method: str


def certain(cost: float, method: str) -> Bound:
    """Of a mean cost that was integrated exactly."""
    return Bound(-cost, 0.0, method)


def drawn(costs: Array, exact: float, method: str) -> Bound:
    """Of a mean cost `exact` plus the mean of `costs` [n], drawn independently."""
    error = float(costs.std(ddof=1)) / math.sqrt(len(costs))
    return Bound(-exact - float(costs.mean()) + CONFIDENT * error, CONFIDENT * error, method)


@cache
def squared(count: int = 12, rounds: int = 120) -> Tables:
    """Tables of the squared distance."""
    stage = Stage(None)
    return tables(library(offsets(count), stage, rounds, 24), stage, 12, 100)


@cache
def plain(count: int = 12, rounds: int = 120) -> Tables:
    """Tables of the distance."""
    stage = Stage(ROUNDING)
    return tables(library(offsets(count), Stage(2 * ROUNDING), rounds, 48), stage, 36, 100)


def triangular(width: float) -> Array:
    """Density [N, 3] at the Gauss nodes of |a - b| for a, b uniform in (-1, 1)."""
    return (2 - nodes(width)) / 2


def to_the_mean(width: float) -> Array:
    """Density [N, 3] at the Gauss nodes of |a - (b + c + d) / 3| for four variables uniform in (-1, 1).

    The sum of four boxes of half widths 1, 1/3, 1/3, 1/3: the signed sum over their corners of (x + corner)_+^3 / 3!,
    divided by the product of the widths. `width` must divide 2/3, where the pieces meet.
    """
    x = nodes(width)
    halves = (1.0, 1 / 3, 1 / 3, 1 / 3)
    total = np.zeros_like(x)
    for signs in np.ndindex(2, 2, 2, 2):
        corner = sum(half if sign == 0 else -half for half, sign in zip(halves, signs, strict=True))
        total += (-1) ** sum(signs) * np.maximum(x + corner, 0) ** 3 / 6
    return 2 * total / np.prod([2 * half for half in halves])


def simple() -> Bound:
    """Of `simple`."""
    of = squared()
    return certain(of.mean(triangular(of.width)), "priced axes, exact mean")


def speaker_listener(samples: int, rng: np.random.Generator) -> Bound:
    """Of `simple_speaker_listener` with messages."""
    return _heard_late(squared(), True, samples, rng)


def reference(samples: int, rng: np.random.Generator) -> Bound:
    """Of `simple_reference` with messages."""
    return _heard_late(plain(), False, samples, rng)


def speaker_listener_silent() -> Bound:
    """Of `simple_speaker_listener` without messages."""
    of = squared()
    spread = 2 * (1 / 3) * (1 - 1 / 3)  # mean of |g - m|^2: two axes, variance 1/3, three landmarks
    return certain(of.mean(to_the_mean(of.width)) + STEPS * spread, "priced axes to the landmarks' mean, exact mean")


def reference_silent(samples: int, rng: np.random.Generator) -> Bound:
    """Of `simple_reference` without messages: `silent.common_path` in drawn resets.

    Three quantities take most of the resets' luck off: the mean distances from the start to the landmarks and between
    the landmarks, both of known mean, and the mean distance from the landmarks' geometric median, whose mean comes from
    many more draws. Their factors are fitted to a part of the draws that is not used otherwise.
    """
    start, landmarks = rng.uniform(-1, 1, (samples, 1, 2)), rng.uniform(-1, 1, (samples, 3, 2))
    cost = np.concatenate([common_path(part) for part in np.array_split(landmarks - start, max(1, samples // 500))])
    away = np.linalg.norm(landmarks - start, axis=-1).mean(1) - APART
    between = np.linalg.norm(landmarks - np.roll(landmarks, 1, 1), axis=-1).mean(1) - APART
    more = _to_median(rng.uniform(-1, 1, (100 * samples, 3, 2)))
    known = np.stack([away, between, _to_median(landmarks) - more.mean()], 1)
    fitted = samples // 5
    factors = np.linalg.lstsq(known[:fitted] - known[:fitted].mean(0), cost[:fitted] - cost[:fitted].mean(), rcond=None)
    rest = (cost - known @ factors[0])[fitted:]
    variance = rest.var(ddof=1) / len(rest) + factors[0][2] ** 2 * more.var() / len(more)
    margin = CONFIDENT * math.sqrt(variance)
    return Bound(margin - float(rest.mean()), margin, "tangent planes of the common path, drawn resets")


def _to_median(landmarks: Array) -> Array:
    """Mean distance [R] of landmarks [R, 3, 2] from (about) the point where it is least."""
    parts = np.array_split(landmarks, max(1, len(landmarks) // 20_000))
    medians = np.concatenate([geometric_median(part, 20) for part in parts])
    return np.linalg.norm(landmarks - medians[:, None], axis=-1).mean(1)


def heard_late(of: Tables, offset: Array, is_squared: bool) -> Array:
    """Least costs [R, 3] by goal, for offsets [R, 3, 2] from three equally likely goals, of an agent that chooses its
    first move for the least mean and then knows the goal. Their mean is the bound of the start."""
    length = np.square(offset).sum(-1)
    after = of.pushed(offset)  # [R, 3, 5]
    move = after.mean(1).argmin(-1)
    return (length if is_squared else np.sqrt(length)) + np.take_along_axis(after, move[:, None, None], -1)[..., 0]


def _heard_late(of: Tables, is_squared: bool, samples: int, rng: np.random.Generator) -> Bound:
    excess = []
    for part in np.array_split(np.arange(samples), max(1, samples // 20_000)):
        offset = rng.uniform(-1, 1, (len(part), 1, 2)) - rng.uniform(-1, 1, (len(part), 3, 2))
        excess.append((heard_late(of, offset, is_squared) - of.start(offset)).mean(1))
    exact = of.mean(triangular(of.width))
    return drawn(np.concatenate(excess), exact, "priced axes; exact mean, and drawn resets for the first move")
