"""What no policy can exceed in speaker_listener_variant: information that arrives, distance that remains, return.

A disturbed channel is bounded by a kinder one. With chance s = `faithful_chance` a symbol arrives as it was said, else
something arrives that does not depend on it; a listener that were told which of both happened could only do better,
and what it then knows is simple: which of min(K^i, n) cells the goal is in, if i faithful symbols arrived. This is
tight without noise (erasure alone included) and loose with it.

Two kinds of speakers are bounded. A speaker *without memory* that chooses greedily, as this package's actors in
evaluation, repeats one fixed message during an episode, since its observation is constant. One *with memory* (or one
that draws its messages) may say something new in every step. Listeners may remember everything in both.

Where one speaker knows several goals, each listener is bounded as if all that is said were about its own. Costs of
messages are left out: they only lower a return.

Source: of the channel's degradation by its common part, Doeblin 1937, and Makur and Singh 2023 (arXiv 2309.08475); of
the capacities, Cover and Thomas, "Elements of information theory", section 7.2; derivations in docs/variants.md.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from envs.mpe.core import DAMPING, DT
from envs.mpe.variants.settings import Variant

_ACCELERATION = 5.0  # of a listener, in mpe2
_SPREAD = 2 / 3  # E|x|^2 of a landmark, uniform in the square (-1, 1)^2
_SAMPLES = 100_000  # draws of the Monte Carlo part of `return_bound`


def capacity(variant: Variant) -> float:
    """Bits that one speaker can tell in a step at most, over many steps: of L K-ary symmetric channels with erasure,
    L (1 - erasure) (log2 K - h(noise) - noise log2(K - 1))."""
    size, noise = variant.vocabulary, variant.noise
    bits = math.log2(size)
    if noise > 0:
        bits += noise * math.log2(noise / (size - 1))
    if 0 < noise < 1:
        bits += (1 - noise) * math.log2(1 - noise)
    return variant.message_length * (1 - variant.erasure) * max(bits, 0.0)


def faithful_chance(variant: Variant) -> float:
    """s: the chance that a symbol tells anything, 1 minus the mass that all symbols' outputs have in common."""
    size, noise = variant.vocabulary, variant.noise
    common = size * min(1 - noise, noise / (size - 1)) if size > 1 else 0.0
    return (1 - variant.erasure) * (1 - common)


def known_share(variant: Variant, messages: int = 1, memory: bool = False) -> float:
    """Upper bound, mean over the listeners, of the chance to name the goal after `messages` messages.

    It bounds the expected sum of squared posterior probabilities of the goals just as well.

    Args:
        variant: the game.
        messages: how many were heard, at least 0.
        memory: of the speaker, see the module.
    """
    goals = variant.num_landmarks
    per_listener = [
        sum(chance * cells / goals for cells, chance in _cells(variant, listener, messages, memory))
        for listener in range(variant.num_listeners)
    ]
    return float(np.mean(per_listener))


def distance_floor(variant: Variant, messages: int = 1, memory: bool = False) -> float:
    """Lower bound of a listener's mean squared distance from its goal after `messages` messages and any time to go
    where it likes: (2/3) (1 - known_share). Without a disturbance (2/3) (1 - V / n) for V < n messages and n goals."""
    return _SPREAD * (1 - known_share(variant, messages, memory))


def return_bound(variant: Variant, memory: bool = False, channel: bool = True) -> float:
    """Upper bound of the mean return of an agent, which no policy exceeds on average.

    In each step a listener is at best at the point nearest to the mean of the landmarks that its goal may be among,
    of all that it could have reached by then. A message said at step t moves it from step t + 2 + delay on.

    Args:
        variant: the game.
        memory: of the speaker, see the module.
        channel: False for agents that hear nothing: the bound without communication.

    Returns:
        The bound, with a sampling error of about 0.02.
    """
    total = 0.0
    for step in range(variant.max_cycles):
        heard = max(0, step - 1 - variant.delay) if channel else 0
        cost = _least_costs(variant.num_landmarks, round(_reach(step), 12))
        costs = [
            sum(chance * cost[cells - 1] for cells, chance in _cells(variant, listener, heard, memory))
            for listener in range(variant.num_listeners)
        ]
        total -= float(np.mean(costs))
    return total


# ------------------------------------------------------------------ parts
def _cells(variant: Variant, listener: int, messages: int, memory: bool) -> list[tuple[int, float]]:
    """(number of cells that the goals can be told apart in, chance) under the kinder channel."""
    size, goals, faithful = variant.vocabulary, variant.num_landmarks, faithful_chance(variant)
    places = variant.message_length * len(variant.speakers_of(listener))
    if memory:
        places, arrives = places * messages, faithful
    else:  # the same message again and again: a place is known once it arrived
        arrives = 1 - (1 - faithful) ** messages
    chances = [math.comb(places, k) * arrives**k * (1 - arrives) ** (places - k) for k in range(places + 1)]
    return [(min(goals, size ** min(k, 64)), chance) for k, chance in enumerate(chances)]


def _reach(step: int) -> float:
    """How far a listener can be from its start when the reward of `step` is paid: sum of |dx| + |dy|, since a move
    pushes along one axis."""
    place, speed = 0.0, 0.0
    for _ in range(step + 1):
        place += speed * DT
        speed = (1 - DAMPING) * speed + _ACCELERATION * DT
    return place


@lru_cache(maxsize=1024)
def _least_costs(goals: int, reach: float) -> NDArray[np.float64]:
    """Least mean squared distance [goals], where the goals can be told apart in 1, 2, ..., `goals` cells.

    A goal in a cell of c has variance (2/3) (1 - 1/c) around the cell's mean, which the listener may not reach yet.
    The best partition of the goals into cells is found by dynamic programming.
    """
    of_cell = [c * (_SPREAD * (1 - 1 / c) + _left_over(c, reach)) for c in range(1, goals + 1)]
    best = np.full((goals + 1, goals + 1), np.inf)  # [cells used, goals placed]
    best[0, 0] = 0.0
    for cells in range(1, goals + 1):
        for placed in range(cells, goals + 1):
            best[cells, placed] = min(of_cell[c - 1] + best[cells - 1, placed - c] for c in range(1, placed + 1))
    return np.minimum.accumulate(best[1:, goals]) / goals


@lru_cache(maxsize=1024)
def _left_over(count: int, reach: float) -> float:
    """E of the squared distance between the mean of `count` landmarks and the nearest point that is `reach` away from
    the start (in |dx| + |dy|), all uniform."""
    x, y = _ways(count)
    longer, shorter = np.maximum(x, y), np.minimum(x, y)
    over = longer + shorter - reach
    squared = np.where(over / 2 <= shorter, over**2 / 2, shorter**2 + (longer - reach) ** 2)
    return float(np.where(over > 0, squared, 0.0).mean())


@lru_cache(maxsize=64)
def _ways(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Samples of |dx| and |dy| from a start to the mean of `count` landmarks."""
    rng = np.random.default_rng(count)
    mean = np.zeros((2, _SAMPLES))
    for _ in range(count):
        mean += rng.uniform(-1, 1, mean.shape) / count
    x, y = np.abs(mean - rng.uniform(-1, 1, mean.shape))
    return x, y
