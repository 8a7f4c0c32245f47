"""One axis of one MPE mover: a dynamic programme whose value no sequence of moves undercuts, whatever the grid.

An agent without contact obeys, per axis and step, p' = p + 0.1 v and v' = 0.75 v + 0.5 u with u in {-1, 0, 1}, and the
reward of step t is paid at p' (positions 1 to 25). In place of p take the point of rest z = p + 0.4 v: then
z' = z + 0.2 u, so z stays on a lattice of 0.2 around its start *exactly* and only v in [-2, 2] needs a grid.

Theorem. Let V_t(z, v) = w_t c(z - 0.3 v) + min_u [price_t |u| + V_{t+1}(z + 0.2 u, 0.75 v + 0.5 u)], where c is such
that c(x) - K x^2 is concave. Then V_t - kappa_t v^2 is concave in v for kappa_t = 0.09 K w_t + 0.5625 kappa_{t+1}, and
V_t - K (w_t + ... + w_24) z^2 is concave in z, for fixed other coordinate. Hence linear interpolation between two
grid points of width h, less kappa_t h^2 s (1 - s) at the fraction s, is a lower bound of V_t, and the recursion with
that interpolation in the place of V_{t+1} gives a lower bound of V_t at every point.

Proof. Along a fixed sequence of moves every position is an affine function of the start: a unit of v moves p_{t+1+k}
by -0.3 (0.75)^k, a unit of z moves it by 1. So c(position) less K times that slope squared times v^2 (z^2) is concave,
sums of concave functions are, and so is the least of them over the finitely many sequences. A concave function lies
above its chords. Interpolation has nonnegative weights, so a lower bound in place of V_{t+1} leaves a lower bound. []

No error constant is left to be estimated: a grid cannot make the value too large. Arithmetic is float64; the sums have
fewer than 10^3 terms of size below 10^3, so rounding is below 10^-9, which `SLACK` covers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

STEPS = 25  # rewards of an episode
MOVES = STEPS - 1  # moves that change a reward: the last one does not
STRIDE = 0.2  # of the point of rest per push
SLACK = 1e-9


@dataclass(frozen=True)
class Stage:
    """A cost c(x) of one axis with the constant K for which c(x) - K x^2 is concave."""

    rounding: float | None
    """None: c = x^2. Else c = min(|x|, x^2 / rounding) <= |x|, which is smooth enough from below at 0."""

    @property
    def curvature(self) -> float:
        """K."""
        return 1.0 if self.rounding is None else 1 / self.rounding

    def __call__(self, x: Array) -> Array:
        return x**2 if self.rounding is None else np.minimum(np.abs(x), x**2 / self.rounding)


@dataclass(frozen=True)
class Values:
    """Lower bounds V_t of R rows at z = base + 0.2 k for |k| <= extent + t and v = j h for |j| <= cells."""

    base: Array  # [R]
    extent: int
    cells: int
    tables: Sequence[Array | None]
    """Of each t: [R, 2 (extent + t) + 1, 2 cells + 1]; None where it was not kept."""

    def at(self, t: int, k: int, pushes: int) -> Array:
        """V_t [R] at z = base + 0.2 k and v = 0.5 `pushes`."""
        table = self.tables[t]
        assert table is not None
        return table[:, self.extent + t + k, self.cells + pushes * (self.cells // 4)]


def solve(
    base: Array,
    prices: Array,
    weights: Array,
    stage: Stage,
    extent: int = 0,
    cells: int = 100,
    keep: Sequence[int] = (0,),
    steps: int = STEPS,
) -> Values:
    """The dynamic programme of the module for R rows.

    Args:
        base: [R] a point of the lattice of each row.
        prices: [R, steps - 1] of a push, by step; at least 0.
        weights: [R, steps] of the cost, by step; at least 0.
        stage: the cost of one axis.
        extent: starts z = base + 0.2 k with |k| <= extent are covered.
        cells: grid cells of v in [0, 2]; a multiple of 4.
        keep: the t whose tables are returned.
        steps: rewards.
    """
    assert cells % 4 == 0, "the push 0.5 must be a whole number of cells"
    width = 2.0 / cells
    index = np.arange(-cells, cells + 1)
    velocity = index * width
    low = np.floor(0.75 * index).astype(int)
    share = 0.75 * index - low  # of the upper grid point
    tables: list[Array | None] = [None] * steps
    value: Array | None = None
    kappa = np.zeros(len(base))
    for t in reversed(range(steps)):
        reach = extent + t
        z = base[:, None] + STRIDE * np.arange(-reach, reach + 1)  # [R, Z]
        cost = weights[:, t, None, None] * stage(z[..., None] - 0.3 * velocity)
        if value is not None:
            after = None
            for move in (0, -1, 1):
                part = value[:, 1 + move : value.shape[1] - 1 + move]
                start = cells + low + move * (cells // 4)
                option = part[..., start] * (1 - share) + part[..., np.minimum(start + 1, 2 * cells)] * share
                if move:
                    option += prices[:, t, None, None]
                after = option if after is None else np.minimum(after, option, out=after)
            assert after is not None
            cost += after - kappa[:, None, None] * (width**2 * share * (1 - share))
        value = cost
        kappa = 0.09 * stage.curvature * weights[:, t] + 0.5625 * kappa
        if t in keep:
            tables[t] = value
    return Values(base, extent, cells, tables)


def greedy(values: Values, prices: Array, steps: int = STEPS) -> tuple[Array, Array]:
    """A path from z = base at rest that follows the tables; for the choice of prices only, no bound rests on it.

    Returns:
        (moves [R, steps - 1] of -1, 0, 1; positions [R, steps]).
    """
    rows = np.arange(len(values.base))
    k, v = np.zeros(len(rows), dtype=int), np.zeros(len(rows))
    moves, places = np.zeros((len(rows), steps - 1)), np.zeros((len(rows), steps))
    for t in range(steps):
        places[:, t] = values.base + STRIDE * k - 0.3 * v
        if t == steps - 1:
            break
        table = values.tables[t + 1]
        assert table is not None
        options = []
        for move in (0, -1, 1):
            at = (0.75 * v + 0.5 * move) * values.cells / 2 + values.cells
            low = np.clip(np.floor(at).astype(int), 0, 2 * values.cells - 1)
            row = table[rows, values.extent + t + 1 + k + move]
            options.append((1 - at + low) * row[rows, low] + (at - low) * row[rows, low + 1] + prices[:, t] * abs(move))
        best = np.array([0, -1, 1])[np.argmin(options, 0)]
        moves[:, t] = best
        k, v = k + best, 0.75 * v + 0.5 * best
    return moves, places
