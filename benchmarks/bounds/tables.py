"""Bounds of one mover for every start: tables of the best multipliers, and the mean over starts by exact integration.

The offset of a start from its goal is taken by absolute values and sorted, (x, y) with x >= y >= 0: reflections and the
exchange of the axes change no cost. `Tables.start` bounds the least cost from rest at an offset, `Tables.pushed` that
of what follows each of the five first moves. Both interpolate between lattice points of distance h as in `mover`:
a table is concave in z up to K (sum of the weights) z^2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.bounds.mover import SLACK, Array, Stage, solve
from benchmarks.bounds.prices import Multipliers

REACH = 10  # strides of 0.2 that cover an offset in [0, 2]
NODES, MASSES = np.polynomial.legendre.leggauss(3)  # exact to degree 5


@dataclass(frozen=True)
class Tables:
    """Values at offsets i h, i = 0 ... 2 / h."""

    width: float
    """h."""
    rest: Array  # [L, 2, N + 1]: V_0 of each axis at rest
    after: Array  # [L, 2, 3, N + 1]: V_1 of each axis after no push, one towards larger offsets and one to the goal
    total: Array  # [L, 2]: sum of the prices from step 0 and from step 1
    bend: Array  # [L, 2, 2]: K (sum of the weights) of V_0 and V_1, by axis
    choice: Array  # int [N, N]: which multipliers serve the cell of an offset (x, y)

    def start(self, offset: Array) -> Array:
        """Lower bound [...] of the cost of 25 positions from rest at `offset` [..., 2] to the goal at the origin."""
        x, y, _ = self._sorted(offset)
        pick, (i, s), (j, r) = self._cell(x, y)
        return (
            self._between(self.rest[:, 0], self.bend[:, 0, 0], pick, i, s)
            + self._between(self.rest[:, 1], self.bend[:, 0, 1], pick, j, r)
            - self.total[pick, 0]
        )

    def pushed(self, offset: Array) -> Array:
        """Lower bound [..., 5] of the cost of the 24 positions that follow the first, by the first move (none, left,
        right, down, up)."""
        x, y, swapped = self._sorted(offset)
        pick, (i, s), (j, r) = self._cell(x, y)
        along = [self._between(self.after[:, 0, m], self.bend[:, 1, 0], pick, i, s) for m in range(3)]
        across = [self._between(self.after[:, 1, m], self.bend[:, 1, 1], pick, j, r) for m in range(3)]
        larger = [along[0] + across[0], along[1] + across[0], along[2] + across[0]]
        smaller = [larger[0], along[0] + across[1], along[0] + across[2]]
        of_x = [np.where(swapped, smaller[m], larger[m]) for m in (1, 2)]  # away from and towards the goal in x
        of_y = [np.where(swapped, larger[m], smaller[m]) for m in (1, 2)]
        right, up = offset[..., 0] >= 0, offset[..., 1] >= 0  # where a push to the right (up) leads away
        moves = [
            larger[0],
            np.where(right, of_x[1], of_x[0]),
            np.where(right, of_x[0], of_x[1]),
            np.where(up, of_y[1], of_y[0]),
            np.where(up, of_y[0], of_y[1]),
        ]
        return np.stack(moves, -1) - self.total[pick, 1][..., None]

    def mean(self, density: Array) -> float:
        """The mean of `start` over offsets whose two absolute coordinates are independent.

        Args:
            density: [N, 3] of one coordinate at the three Gauss nodes of every interval (`nodes`): a polynomial of
                degree at most 3 on each, so that the integral of it times the quadratic interpolation is exact.
        """
        mass = density * MASSES * self.width / 2
        count = len(density)
        i, j = np.tril_indices(count)  # x >= y
        pick = self.choice[i, j]
        share = (NODES + 1) / 2
        curve = self.width**2 * share * (1 - share)
        moment = np.zeros(len(i))
        first = self.rest[pick, 0, i, None] * (1 - share) + self.rest[pick, 0, i + 1, None] * share
        first -= self.bend[pick, 0, 0, None] * curve
        second = self.rest[pick, 1, j, None] * (1 - share) + self.rest[pick, 1, j + 1, None] * share
        second -= self.bend[pick, 0, 1, None] * curve
        along, across = mass[i], mass[j]
        moment = (first * along).sum(1) * across.sum(1) + (second * across).sum(1) * along.sum(1)
        moment -= self.total[pick, 0] * along.sum(1) * across.sum(1)
        return float((moment * np.where(i == j, 1, 2)).sum() - SLACK)

    def _sorted(self, offset: Array) -> tuple[Array, Array, Array]:
        """(larger, smaller absolute coordinate, whether that is y before x), by cells: within a cell of the diagonal x
        comes first, as in `mean`, so that `start` and `mean` are of one function."""
        x, y = np.abs(offset[..., 0]), np.abs(offset[..., 1])
        swapped = (y / self.width).astype(int) > (x / self.width).astype(int)
        return np.where(swapped, y, x), np.where(swapped, x, y), swapped

    def _cell(self, x: Array, y: Array) -> tuple[Array, tuple[Array, Array], tuple[Array, Array]]:
        last = len(self.choice) - 1
        i, j = (np.minimum((value / self.width).astype(int), last) for value in (x, y))
        return self.choice[i, j], (i, x / self.width - i), (j, y / self.width - j)

    def _between(self, table: Array, bend: Array, pick: Array, index: Array, share: Array) -> Array:
        value = table[pick, index] * (1 - share) + table[pick, index + 1] * share
        return value - bend[pick] * self.width**2 * share * (1 - share)


def tables(multipliers: Multipliers, stage: Stage, fine: int, cells: int) -> Tables:
    """Tables on a lattice of 0.2 / `fine` in the offset and of 2 / `cells` in the velocity."""
    count = len(multipliers.prices)
    size = REACH * fine
    rest, after = np.zeros((count, 2, size + 1)), np.zeros((count, 2, 3, size + 1))
    base = np.arange(fine) * 0.2 / fine
    for one in range(count):
        price = np.tile(multipliers.prices[one], (fine, 1))
        for axis in range(2 if stage.rounding is not None else 1):
            weight = np.tile(multipliers.weights[one, axis], (fine, 1))
            values = solve(base, price, weight, stage, REACH, cells, (0, 1))
            rest[one, axis] = _line(values.at, 0, 0, 0)
            after[one, axis] = [_line(values.at, 1, push, push) for push in (0, 1, -1)]
        if stage.rounding is None:
            rest[one, 1], after[one, 1] = rest[one, 0], after[one, 0]
    sums = np.stack([multipliers.weights.sum(-1), multipliers.weights[..., 1:].sum(-1)], 1)
    total = np.stack([multipliers.prices.sum(1), multipliers.prices[:, 1:].sum(1)], 1)
    half = (rest[..., 1:] + rest[..., :-1]) / 2
    choice = np.zeros((size, size), dtype=int)
    best = np.full((size, size), -np.inf)
    for one in range(count):
        value = half[one, 0][:, None] + half[one, 1] - total[one, 0]
        choice[value > best] = one
        best = np.maximum(best, value)
    return Tables(0.2 / fine, rest, after, total, stage.curvature * sums, choice)


def nodes(width: float) -> Array:
    """[N, 3]: the Gauss nodes of the intervals of [0, 2]."""
    starts = np.arange(round(2 / width)) * width
    return starts[:, None] + width * (NODES + 1) / 2


def _line(at, t: int, shift: int, push: int) -> Array:  # type: ignore[no-untyped-def]
    """V_t at offsets 0, h, ..., 2, shifted by `shift` strides, with the velocity of `push`."""
    columns = np.stack([at(t, k + shift, push) for k in range(REACH + 1)])  # [REACH + 1, fine]
    return columns.reshape(-1)[: REACH * columns.shape[1] + 1]
