"""Two axes from one: a price on pushes, and the choice of prices. Any prices give a bound; good ones a sharp one.

Theorem (weak duality). A move pushes along one axis, |u_x| + |u_y| <= 1 at every step. For prices >= 0 and a cost of
position that is at least c_x(x) + c_y(y), every sequence of moves costs at least X + Y - sum of the prices, where X and
Y are the least costs of each axis on its own with every push charged its price.

Proof. Sum of c_x + c_y >= sum of c_x + c_y + price (|u_x| + |u_y| - 1), and the right side splits by axes. []

Squared distances split exactly: c_x = x^2, c_y = y^2. For distances, |p| >= a |x| + b |y| wherever a^2 + b^2 = 1
(Cauchy and Schwarz); a, b >= 0 are chosen by step, as the prices are.

`library` climbs from a set of starts to good prices and angles (supergradients of the dual along greedy paths). The
result is a set of multipliers that any start may use: a bound takes the best of them, or whichever it likes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.bounds.mover import STEPS, Array, Stage, greedy, solve
from marl.scripted.planning import distance, plan, squared_distance

SQUARED = (0.8, 1.3, 1.0)  # momentum, relaxation and decay of the ascent: what was best on 21 starts
PLAIN = (0.7, 1.0, 0.97)
WIDTH = 256  # beam of the plan whose cost the ascent aims at


@dataclass(frozen=True)
class Multipliers:
    """L settings of the multipliers, each found for one offset of the start."""

    starts: Array  # [L, 2], x >= y >= 0
    prices: Array  # [L, 24]
    weights: Array  # [L, 2, 25], of |x| and |y|; ones for squared distances


def offsets(count: int) -> Array:
    """[count (count + 1) / 2, 2]: starts (x, y) with 2 >= x >= y >= 0."""
    side = (np.arange(count) + 0.5) * 2 / count
    return np.array([(x, y) for x in side for y in side if y <= x])


def library(starts: Array, stage: Stage, rounds: int, cells: int) -> Multipliers:
    """Multipliers for starts [L, 2], by `rounds` steps of supergradient ascent on a grid of `cells`.

    A step has Polyak's length with the cost of a played plan as the aim, which the dual cannot exceed.
    """
    count = len(starts)
    aim = planned(starts, stage.rounding is None)
    momentum, relaxation, decay = SQUARED if stage.rounding is None else PLAIN
    prices, trend = np.zeros((count, STEPS - 1)), np.zeros((count, STEPS - 1))
    angle = np.tile(np.arctan2(starts[:, 1], starts[:, 0])[:, None], (1, STEPS))
    place = np.zeros((count, 2, STEPS))
    best = np.full(count, -np.inf)
    kept_prices, kept_weights = prices.copy(), np.ones((count, 2, STEPS))
    for turn in range(rounds):
        weights = kept_weights if stage.rounding is None else np.stack([np.cos(angle), np.sin(angle)], 1)
        rows = by_axis(starts, prices, weights)
        values = solve(*rows, stage, 0, cells, range(STEPS))
        bound = values.at(0, 0, 0).reshape(2, count).sum(0) - prices.sum(1)
        better = bound > best
        best = np.where(better, bound, best)
        kept_prices[better], kept_weights[better] = prices[better], weights[better]
        moves, places = greedy(values, rows[1])
        excess = np.abs(moves).reshape(2, count, -1).sum(0) - 1
        trend = momentum * trend + np.where((excess < 0) & (prices <= 0), 0.0, excess)
        step = relaxation * decay**turn * (aim - bound) / np.maximum(np.square(trend).sum(1), 1e-9)
        prices = np.maximum(prices + step[:, None] * trend, 0)
        place += (np.abs(places).reshape(2, count, -1).swapaxes(0, 1) - place) * (1.0 if turn == 0 else 0.1)
        angle += (np.arctan2(place[:, 1], place[:, 0]) - angle) / (1 + turn / 4)
    return Multipliers(starts, kept_prices, kept_weights)


def by_axis(starts: Array, prices: Array, weights: Array) -> tuple[Array, Array, Array]:
    """(base [2 L], prices [2 L, 24], weights [2 L, 25]) for `mover.solve`: all x, then all y."""
    return starts.T.reshape(-1), np.tile(prices, (2, 1)), weights.swapaxes(0, 1).reshape(2 * len(starts), -1)


def planned(starts: Array, squared: bool) -> Array:
    """Cost [L] of a good plan from offset `starts` at rest to the origin."""
    goal = -starts
    cost = squared_distance(goal) if squared else distance(goal)
    return plan(np.zeros_like(goal), np.zeros_like(goal), cost, goal, STEPS, WIDTH)[1]
