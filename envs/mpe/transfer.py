"""Exchange of single environments with live `mpe2` environments, exact in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from envs.errors import UserError
from envs.mpe.catalogue import describe
from envs.mpe.core import World
from envs.mpe.scenario import Scenario


def load(row: World, scenario: Scenario, parallel_env: Any) -> int:
    """Copy a live environment into `row`, one row of a world of `scenario`; returns the steps it has taken."""
    raw = _matching(scenario, parallel_env)
    world = raw.world
    positions = np.stack([entity.state.p_pos for entity in world.entities])
    velocities = np.stack([agent.state.p_vel for agent in world.agents])
    if not (np.isfinite(positions).all() and np.isfinite(velocities).all()):
        raise UserError(f"the {scenario.id} environment to load holds positions or velocities that are not finite.")
    row.pos[..., 0].copy_(torch.as_tensor(positions))
    row.vel[..., 0].copy_(torch.as_tensor(velocities[slice(*row.movers)]))
    speakers = world.agents[slice(*scenario.speakers())]
    if speakers:
        row.said[..., 0].copy_(torch.as_tensor(np.stack([agent.state.c for agent in speakers])))
    scenario.load(raw, row)
    return int(raw.steps) if raw.steps < scenario.horizon else 0


def store(row: World, scenario: Scenario, parallel_env: Any, steps: int) -> None:
    """Copy `row`, one row of a world of `scenario`, into a live environment."""
    raw = _matching(scenario, parallel_env)
    world = raw.world
    for entity, position in zip(world.entities, row.pos[..., 0].cpu().double().numpy(), strict=True):
        entity.state.p_pos = position.copy()
        entity.state.p_vel = np.zeros(2)
    moving = world.agents[slice(*row.movers)]
    for agent, velocity in zip(moving, row.vel[..., 0].cpu().double().numpy(), strict=True):
        agent.state.p_vel = velocity.copy()
    for agent in world.agents:
        agent.state.c = np.zeros(world.dim_c)
    speakers = world.agents[slice(*scenario.speakers())]
    for agent, message in zip(speakers, row.said[..., 0].cpu().double().numpy(), strict=True):
        agent.state.c = message.copy()
    raw.steps = steps
    scenario.store(raw, row)


def _matching(scenario: Scenario, parallel_env: Any) -> Any:
    """The raw mpe2 environment, or `UserError` where it is not of the same shape as `scenario`."""
    spec = scenario.spec()
    lines = spec.differences(describe(spec.id, parallel_env))
    raw = parallel_env.unwrapped
    landmarks, expected = len(raw.world.landmarks), len(scenario.landmarks)
    if landmarks != expected:
        lines.append(f"landmarks: expected {expected}, got {landmarks}")
    if lines:
        raise UserError(f"the {spec.id} environment differs from this one: " + "; ".join(lines) + ".")
    return raw
