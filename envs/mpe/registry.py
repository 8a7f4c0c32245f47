"""Every MPE scenario by its id: what `envs.mpe` offers."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from envs.errors import UserError
from envs.mpe.catalogue import (
    MPE_IDS,
    VARIANT_IDS,
    canonical_id,
    check_arguments,
    describe,
    parallel_env,
    require_id,
)
from envs.mpe.env import MPE
from envs.mpe.scenario import Scenario
from envs.mpe.tasks.collect_treasure import CollectTreasure
from envs.mpe.tasks.simple import Simple
from envs.mpe.tasks.simple_adversary import SimpleAdversary
from envs.mpe.tasks.simple_crypto import SimpleCrypto
from envs.mpe.tasks.simple_formation import SimpleFormation
from envs.mpe.tasks.simple_line import SimpleLine
from envs.mpe.tasks.simple_push import SimplePush
from envs.mpe.tasks.simple_reference import SimpleReference
from envs.mpe.tasks.simple_speaker_listener import SimpleSpeakerListener
from envs.mpe.tasks.simple_spread import SimpleSpread
from envs.mpe.tasks.simple_tag import SimpleTag
from envs.mpe.tasks.simple_world_comm import SimpleWorldComm
from envs.mpe.variants.referential_scenario import ReferentialGame
from envs.mpe.variants.scenario import SpeakerListenerVariant

__all__ = [
    "MPE",
    "MPE_IDS",
    "SCENARIOS",
    "VARIANT_IDS",
    "canonical_id",
    "describe",
    "make",
    "make_scenario",
    "parallel_env",
]

SCENARIOS: dict[str, type[Scenario]] = {
    scenario.id: scenario
    for scenario in (
        Simple,
        SimpleAdversary,
        SimpleCrypto,
        SimplePush,
        SimpleReference,
        SimpleSpeakerListener,
        SimpleSpread,
        SimpleTag,
        SimpleWorldComm,
        CollectTreasure,
        SimpleFormation,
        SimpleLine,
        SpeakerListenerVariant,
        ReferentialGame,
    )
}

# arguments of every mpe2 scenario that are not about the task -> the only value that the port takes
_FIXED = {"render_mode": None, "benchmark_data": False}
_IGNORED = ("dynamic_rescaling",)  # changes only how mpe2 draws


def make_scenario(env_id: str, /, **env_args: Any) -> Scenario:
    """A scenario from its id (with or without version) and mpe2's own keyword arguments.

    Raises:
        UserError: unknown id or argument (with close matches), or a value that the port does not support.
    """
    mpe_id = require_id(env_id)
    own = list(inspect.signature(SCENARIOS[mpe_id].__init__).parameters)[1:]
    check_arguments(mpe_id, env_args, [*own, *_FIXED, *_IGNORED, "continuous_actions"])
    for key, only in _FIXED.items():
        if env_args.get(key, only) != only:
            raise UserError(
                f"{mpe_id}: {key}={env_args[key]!r} is not supported by the torch backend; leave it at {only!r}, "
                f'or take the real mpe2 with backend="pettingzoo".'
            )
    scenario = SCENARIOS[mpe_id](**{key: value for key, value in env_args.items() if key in own})
    continuous = env_args.get("continuous_actions", False)
    if not isinstance(continuous, bool):
        raise UserError(f"{mpe_id}: continuous_actions must be true or false, got {continuous!r}.")
    if continuous and mpe_id in VARIANT_IDS:
        raise UserError(f"{mpe_id} has discrete actions only; leave continuous_actions out.")
    scenario.continuous_actions = continuous
    return scenario


def make(
    env_id: str,
    num_envs: int = 1,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    rows: Sequence[int] | Tensor | None = None,
    stagger: bool = False,
    **env_args: Any,
) -> MPE:
    """`num_envs` environments of an MPE scenario; see `MPE` and `make_scenario`."""
    return MPE(make_scenario(env_id, **env_args), num_envs, device, dtype, rows, stagger)
