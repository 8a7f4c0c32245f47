"""How one MPE agent moves, and plans for it: what scripted policies are made of.

Dynamics of `mpe2` without contact (facts of its `core.py`): a step moves the position by the OLD velocity, then
v = 0.75 v + 0.1 a u, with u one of none, left, right, down, up. So the push of step t moves the agent from step t + 2
on, and an agent with velocity v that stops pushing comes to rest 0.4 v further.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

MOVES = np.array([[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]])  # none, left, right, down, up
DT = 0.1
KEEP = 0.75  # share of the velocity left after a step
GLIDE = DT / (1 - KEEP)  # distance to rest per unit of velocity
ACCEL = 5.0  # of an agent that sets no acceleration of its own

StageCost = Callable[[np.ndarray], np.ndarray]  # positions [R, C, 2] to costs [R, C]


def squared_distance(target: np.ndarray) -> StageCost:
    """|position - target|^2 for targets [R, 2]."""
    return lambda position: np.square(position - target[:, None]).sum(-1)


def distance(target: np.ndarray) -> StageCost:
    """|position - target| for targets [R, 2]."""
    return lambda position: length(position - target[:, None])


def mean_distance(targets: np.ndarray) -> StageCost:
    """The mean over targets [R, K, 2] of |position - target|."""
    return lambda position: length(position[:, :, None] - targets[:, None]).mean(-1)


def length(vector: np.ndarray) -> np.ndarray:
    """Euclidean length of vectors [..., 2]."""
    return np.sqrt(np.square(vector).sum(-1))


def step(
    position: np.ndarray, velocity: np.ndarray, push: np.ndarray, accel: float = ACCEL
) -> tuple[np.ndarray, np.ndarray]:
    """One step of agents [..., 2] without contact; `push` is a row of `MOVES`."""
    return position + DT * velocity, KEEP * velocity + DT * accel * push


def coast(offset: np.ndarray, velocity: np.ndarray, accel: float = ACCEL) -> np.ndarray:
    """The coasting rule: the move after which an agent that then did nothing would rest nearest to its target.

    Args:
        offset: [..., 2] target minus position.
        velocity: [..., 2].
        accel: of the agent.

    Returns:
        int64 [...] moves 0 to 4; the smallest among equals.
    """
    rest = (offset - GLIDE * velocity)[..., None, :] - GLIDE * DT * accel * MOVES
    return np.square(rest).sum(-1).argmin(-1)


def plan(
    position: np.ndarray,
    velocity: np.ndarray,
    cost: StageCost,
    target: np.ndarray,
    steps: int,
    width: int = 32,
    accel: float = ACCEL,
) -> tuple[np.ndarray, np.ndarray]:
    """Moves of one agent without contact that nearly minimise the sum of `cost` over its next positions.

    Beam search; a partial plan is ranked by its cost so far and the cost of finishing it by the coasting rule.

    Args:
        position: [R, 2] of R separate problems.
        velocity: [R, 2].
        cost: of positions [R, C, 2]; nonnegative.
        target: [R, 2] where the coasting rule of the ranking goes: near the minimum of `cost`.
        steps: number of positions that count, at least 1; the first is fixed by the velocity.
        width: partial plans kept.
        accel: of the agent.

    Returns:
        (moves int64 [R, steps], cost float64 [R]). The last move changes nothing and is 0.
    """
    rows = len(position)
    position, velocity = position[:, None].astype(np.float64), velocity[:, None].astype(np.float64)
    spent = np.zeros((rows, 1))
    moves = np.zeros((rows, 1, steps), dtype=np.int8)
    pushes = DT * accel * MOVES
    for t in range(steps):
        position = position + DT * velocity  # the moves of this step do not change it
        spent = spent + cost(position)
        if t == steps - 1:
            break
        parents = position.shape[1]
        velocity = (KEEP * velocity[:, :, None] + pushes).reshape(rows, -1, 2)
        chosen = np.tile(np.arange(5, dtype=np.int8), parents)
        origin = np.repeat(np.arange(parents), 5)
        if parents * 5 > width:
            value = spent[:, origin] + _finish(position[:, origin], velocity, cost, target, steps - 1 - t, accel)
            best = np.argpartition(value, width - 1, axis=1)[:, :width]
        else:
            best = np.broadcast_to(np.arange(parents * 5), (rows, parents * 5))
        source = origin[best]
        position = np.take_along_axis(position, source[..., None], 1)
        velocity = np.take_along_axis(velocity, best[..., None], 1)
        spent = np.take_along_axis(spent, source, 1)
        moves = np.take_along_axis(moves, source[..., None], 1)
        moves[:, :, t] = chosen[best]
    winner = spent.argmin(1)
    everyone = np.arange(rows)
    return moves[everyone, winner].astype(np.int64), spent[everyone, winner]


def _finish(
    position: np.ndarray, velocity: np.ndarray, cost: StageCost, target: np.ndarray, steps: int, accel: float
) -> np.ndarray:
    """Cost [R, C] of the next `steps` positions under the coasting rule, written without its argmin."""
    total = np.zeros(position.shape[:2])
    target = target[:, None]
    push = DT * accel
    for _ in range(steps):
        rest = target - position - GLIDE * velocity
        size = np.abs(rest)
        along_x = size[..., 0] >= size[..., 1]
        worth = size > GLIDE * push / 2
        sign = np.sign(rest) * worth * push
        position = position + DT * velocity
        velocity = KEEP * velocity
        velocity[..., 0] += sign[..., 0] * along_x
        velocity[..., 1] += sign[..., 1] * ~along_x
        total += cost(position)
    return total
