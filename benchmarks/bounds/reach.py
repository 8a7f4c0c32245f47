"""Bounds of simple_spread, simple_line and simple_formation: how near to its target an agent can be by each step.

Agents touch in these tasks, and contact is *not* only a cost: a push by another agent can carry or stop an agent for
nothing. So contact is not dropped but bounded, as one more push in any direction.

Theorem. At position t (1 to 25) an agent is at start + delta + epsilon with |delta|_1 <= D_t and |epsilon|_2 <= E_t. D
follows from moves of 0.5 a step (`travel`). E follows from the contact forces by the same linear dynamics, extra
velocity e' = 0.75 e + 0.1 F, E' = E + 0.1 e, where F sums, over the other agents, the largest force that the least
possible distance of the pair at that position allows: 100 (touch - distance)_+ + 0.1 ln 2.

Proof. The dynamics are linear, so control and contact add up. The contact force is 100 k log(1 + exp((touch - distance)
/ k)) with k = 0.001, at most 100 (touch - distance)_+ + 100 k ln 2, and below 10^-9 beyond touch + 0.02 (`MARGIN`),
which `SLACK` covers. The least distance of two agents is that of their starts less |.|_1 <= 2 D and both E. A force at
position t moves the agent from position t + 2 on. []

A reward is a decreasing function of distances, so its bound takes every distance to be the least possible one, and
the best assignment (or the nearest agent) of each step on its own. Agents are given all information. In simple_spread a
pair that overlaps pays: the mean agent loses 1/3 per pair and step. So either no pair ever overlaps, and the forces are
those at distance `touch`; or some pair does, after the earliest step at which one can, and 1/3 is paid at least once.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from benchmarks.bounds.mover import SLACK, STEPS, Array

STIFFNESS, SOFT, MARGIN = 100.0, 0.1 * math.log(2), 0.02
TOUCH = {"simple_spread": 0.3, "simple_line": 0.06, "simple_formation": 0.1}
ANGLES = 128  # rotations of the circle of simple_formation in a quarter turn
RADIUS = 0.5


def travel(steps: int = STEPS) -> Array:
    """D [steps] of positions 1, 2, ...: 0, 0.05, 0.1375, ..."""
    place, speed, result = 0.0, 0.0, []
    for _ in range(steps):
        place += 0.1 * speed
        speed = 0.75 * speed + 0.5
        result.append(place)
    return np.array(result)


def least_distance(apart: Array, reach: Array | float) -> Array:
    """Least |apart - delta|_2 over |delta|_1 <= reach, for `apart` [..., 2]."""
    size = np.abs(apart)
    longer, shorter = size.max(-1), size.min(-1)
    over = longer + shorter - reach
    straight = np.hypot(shorter, longer - reach)
    return np.where(over <= 0, 0.0, np.where(over / 2 <= shorter, np.maximum(over, 0) / math.sqrt(2), straight))


def pushed(agents: Array, touch: float, overlapping: bool, steps: int = STEPS) -> Array:
    """E [R, steps, N] for starts `agents` [R, N, 2]; without `overlapping` no pair is ever nearer than `touch`."""
    rows, count = agents.shape[:2]
    apart = agents[:, :, None] - agents[:, None]
    others = ~np.eye(count, dtype=bool)
    place, speed, result = np.zeros((rows, count)), np.zeros((rows, count)), []
    for reach in [0.0, *travel(steps)[:-1]]:  # of the position that the step starts from, where its forces act
        near = least_distance(apart, 2 * reach) - place[:, :, None] - place[:, None]
        place = place + 0.1 * speed
        into = np.maximum(touch - near, 0) if overlapping else 0.0
        into = np.minimum(into, touch)
        force = np.where((near < touch + MARGIN) & others, STIFFNESS * into + SOFT, 0.0).sum(-1)
        speed = 0.75 * speed + 0.1 * force
        result.append(place)
    return np.stack(result, 1)


def nearness(agents: Array, targets: Array, extra: Array) -> Array:
    """Least distances [R, steps, N, L] of agents [R, N, 2] to targets [R, L, 2], with E [R, steps, N]."""
    apart = agents[:, None, :, None] - targets[:, None, None]
    bare = least_distance(apart, travel(extra.shape[1])[None, :, None, None])
    return np.maximum(bare - extra[..., None], 0)


def assigned(distance: Array) -> Array:
    """Least mean over agents of the distances [..., N, N], cut at 2 as the reward does, over all assignments."""
    distance = np.minimum(distance, 2.0)
    count = distance.shape[-1]
    rows = np.arange(count)
    each = [distance[..., rows, list(order)].mean(-1) for order in itertools.permutations(range(count))]
    return np.minimum.reduce(each)


def spread(agents: Array, landmarks: Array, steps: int = STEPS) -> Array:
    """Lower bound [R] of an agent's mean cost."""
    touch = TOUCH["simple_spread"]
    pairs = list(itertools.combinations(range(agents.shape[1]), 2))
    apart = np.stack([np.linalg.norm(agents[:, a] - agents[:, b], axis=-1) for a, b in pairs], -1)
    paid = (apart < touch).sum(-1) * 2 * 0.5 / agents.shape[1]  # at the first position, which is the start
    cost = []
    for overlapping in (False, True):
        distance = nearness(agents, landmarks, pushed(agents, touch, overlapping, steps))
        cost.append(0.5 * distance.min(2).sum((1, 2)))
    without, overlap = cost[0], cost[1] + 2 * 0.5 / agents.shape[1]
    return np.where(paid > 0, cost[1] + paid, np.minimum(without, overlap)) - SLACK


def line(agents: Array, landmarks: Array, steps: int = STEPS) -> Array:
    """Lower bound [R] of the cost; `landmarks` [R, 2, 2] are the ends of the line."""
    share = np.linspace(0, 1, agents.shape[1])[:, None]
    slots = landmarks[:, :1] + (landmarks[:, 1:] - landmarks[:, :1]) * share
    distance = nearness(agents, slots, pushed(agents, TOUCH["simple_line"], True, steps))
    return assigned(distance).sum(1) - SLACK


def formation(agents: Array, landmarks: Array, steps: int = STEPS) -> Array:
    """Lower bound [R] of the cost: any rotation of the circle may be had in every step, whatever the agents' angles.

    A distance changes by at most RADIUS per radian, so the least over a grid of rotations less half a grid cell of that
    bounds the least over all.
    """
    count = agents.shape[1]
    extra = pushed(agents, TOUCH["simple_formation"], True, steps)
    cell = 2 * math.pi / count / ANGLES
    best = np.full((len(agents), steps), np.inf)
    for turn in range(ANGLES):
        angle = (turn + 0.5) * cell + 2 * math.pi * np.arange(count) / count
        slots = landmarks + RADIUS * np.stack([np.cos(angle), np.sin(angle)], -1)
        best = np.minimum(best, assigned(nearness(agents, slots, extra)))
    return np.maximum(best - RADIUS * cell / 2, 0).sum(1) - SLACK
