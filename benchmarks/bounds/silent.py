"""A bound without messages for distances: one path for three goals, by the tangent planes of a convex problem.

Without messages the agent's moves cannot depend on which of the landmarks g_k is its goal (`goals.py`), so its expected
cost given the landmarks is the sum over positions of f(p) = mean over k of |p - g_k|.

Theorem. Let p_t = start + sum over j of C[t, j] u_j, and let n[t, k] be any vectors of length at most 1. Every sequence
of moves, which all lie in |u_x| + |u_y| <= 1, costs at least

    sum over t, mean over k of n[t, k] . (start - g_k)  -  sum over j of max(|N_x|, |N_y|)[j],

with N[j] = sum over t of C[t, j] (mean over k of n[t, k]).

Proof. |p - g| >= n . (p - g) by Cauchy and Schwarz; the right side is linear in u, and the least value of a linear
function over |u_x| + |u_y| <= 1 is minus its larger coefficient. []

The vectors are unit vectors of a nearly optimal path of the relaxed problem (moves anywhere in that set, accelerated
projected gradient); at the optimum the bound equals the relaxed cost, and elsewhere it is smaller but still a bound.
"""

from __future__ import annotations

import numpy as np

from benchmarks.bounds.mover import SLACK, STEPS, STRIDE, Array

SMOOTH = 0.03  # radius within which a distance is rounded off for the descent


def response(steps: int = STEPS) -> Array:
    """C [steps, steps - 1]: by how much a push of step j has moved position t + 1."""
    t, j = np.ogrid[1 : steps + 1, 0 : steps - 1]
    return np.where(t >= j + 2, STRIDE * (1 - 0.75 ** np.maximum(t - j - 1, 0)), 0.0)


def common_path(goals: Array, rounds: int = 800, steps: int = STEPS) -> Array:
    """Lower bound [R] of the cost of any moves from rest at the origin for `goals` [R, K, 2]."""
    moved = response(steps)
    length = SMOOTH / np.linalg.norm(moved, 2) ** 2
    pushes = np.zeros((len(goals), steps - 1, 2))
    ahead, inertia = pushes, 1.0
    best = np.full(len(goals), -np.inf)
    for _ in range(rounds):
        gradient, bound = _tangent(moved, moved @ ahead, goals)
        best = np.maximum(best, bound)
        after = _project(ahead - length * gradient)
        grown = (1 + np.sqrt(1 + 4 * inertia**2)) / 2
        ahead = after + (inertia - 1) / grown * (after - pushes)
        pushes, inertia = after, grown
    return np.maximum(best, _tangent(moved, moved @ pushes, goals)[1]) - SLACK


def _tangent(moved: Array, place: Array, goals: Array) -> tuple[Array, Array]:
    """Gradient [R, steps - 1, 2] by the pushes and the bound [R] of the theorem at positions [R, steps, 2]."""
    apart = place[:, :, None] - goals[:, None]  # [R, steps, K, 2]
    unit = apart / np.maximum(np.sqrt(np.square(apart).sum(-1, keepdims=True)), SMOOTH)
    gradient = moved.T @ unit.mean(2)
    fixed = -(unit * goals[:, None]).sum(-1).mean(2).sum(1)
    return gradient, fixed - np.abs(gradient).max(-1).sum(-1)


def _project(push: Array) -> Array:
    """[..., 2] to the nearest point with |x| + |y| <= 1."""
    size = np.abs(push)
    over = np.maximum(size.sum(-1) - 1, 0)
    cut = np.minimum(over / 2, size.min(-1))  # both shrink alike until the smaller is 0, then the larger alone
    rest = over - 2 * cut
    larger = size >= size[..., ::-1]
    larger[..., 1] &= ~larger[..., 0]
    return np.sign(push) * np.maximum(size - cut[..., None] - larger * rest[..., None], 0)
