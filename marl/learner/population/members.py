"""Rows of all replicas of a population, side by side for every member, and back.

Shape suffixes: S replicas, n some agents, F features, B rows, R = P * B rows, P members of a population.
"""

from __future__ import annotations

from torch import Tensor


def pooled(x_SnFB: Tensor, population: int) -> Tensor:
    """For every member all rows of its population: [S, n, F, B] to [S, n, F, P * B]; with one member x itself."""
    if population == 1:
        return x_SnFB
    side_by_side: Tensor = x_SnFB.unflatten(0, (-1, population)).movedim(1, 3).flatten(3)  # [S / P, n, F, P * B]
    return side_by_side[:, None].expand(-1, population, -1, -1, -1).flatten(0, 1)


def picked(x_SnFR: Tensor, member_SnB: Tensor, population: int) -> Tensor:
    """Of what every member said at all rows, R = P * B, what the member said that played: [S, n, F, B].

    Args:
        x_SnFR: at rows as `pooled` orders them.
        member_SnB: int64 in 0 .. P - 1.
        population: P.
    """
    said = x_SnFR.unflatten(0, (-1, population)).unflatten(4, (population, -1))  # [S / P, member, n, F, replica, B]
    who = member_SnB.unflatten(0, (-1, population)).transpose(1, 2)[:, None, :, None]  # [S / P, 1, n, 1, replica, B]
    of_member: Tensor = said.gather(1, who.expand(-1, -1, -1, said.shape[3], -1, -1))[:, 0]
    return of_member.movedim(3, 1).flatten(0, 1)
