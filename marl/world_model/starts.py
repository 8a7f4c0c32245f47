"""Starts of imagined rollouts between those that were seen.

An exact model still imagines from the episodes that it has stored, and of these there are few: after 2,000 steps, 80
worlds. A critic can tell 80 worlds apart by heart, with what should have been said in each; then messages are not
needed. So every start is moved towards another one in which the same things are said, shown and coloured: entries that
take a few values only (colours, identities, goals) must agree, the others are interpolated. Positions and velocities
relative to anything stay consistent between agents, as they are linear in the world's coordinates.

Shape suffixes: S replicas, R rows, J predicted entries of the joint observation.

Source: mixing pairs of examples by a random share: Zhang et al. 2018 (mixup, arXiv 1710.09412), there with labels;
here of states, whose consequences the model computes.
"""

from __future__ import annotations

import torch
from torch import Tensor

FEW = 8  # values: an entry with no more of them in all rows says which, not how much
APART = 1e-6  # values that differ by less are one


def partners(rows_SRJ: Tensor, kind_SR: Tensor, order_SR: Tensor) -> Tensor:
    """For every row another one that agrees with it in kind and in all entries that take few values; itself where
    there is none. Int [S, R].

    Args:
        rows_SRJ: observations.
        kind_SR: integers; only rows of the same kind may be partners.
        order_SR: a random permutation of the rows; it decides who meets whom.
    """
    values = rows_SRJ.sort(dim=1).values
    distinct_SJ = 1 + (values.diff(dim=1) > APART).sum(1)
    symbols = rows_SRJ.double() * (distinct_SJ <= FEW)[:, None]
    key_SR = _key(torch.cat([symbols, kind_SR[..., None].double()], dim=2))
    shuffled = key_SR.gather(1, order_SR)
    sorted_SR, place_SR = shuffled.sort(dim=1, stable=True)
    row_SR = order_SR.gather(1, place_SR)  # rows of equal keys side by side, in random order
    after_SR = torch.where(sorted_SR == sorted_SR.roll(-1, 1), row_SR.roll(-1, 1), row_SR)
    return torch.empty_like(row_SR).scatter(1, row_SR, after_SR)


def _key(rows_SRX: Tensor) -> Tensor:
    """An integer for every row, equal for equal rows and, but for chance, different for others."""
    weights_X = torch.arange(1, rows_SRX.shape[2] + 1, dtype=torch.float64, device=rows_SRX.device).sqrt()
    return ((rows_SRX / APART).round() * weights_X).sum(2).round().long()
