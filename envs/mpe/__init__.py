"""MPE in torch: physics once, one file a scenario, equal to `mpe2` 1.1.1 step for step.

`core` holds the physics, `game` a scenario's world in many rows, `scenario` what a scenario must say, `episodes` and
`schedule` which rows end when, `draws` their random numbers, `env` joins these to a BatchedEnv, `transfer` the
exchange with live mpe2 environments, `catalogue` ids and specs, `registry` the scenarios by their ids. Beside mpe2's
tasks there is speaker_listener_variant for research on channels: `variant_settings` holds its arguments,
`speaker_listener_variant` its port in torch, `variants` the PettingZoo environment, `floors` what none can exceed.

Differs from mpe2, each on purpose:

- two bodies at exactly the same place do not push each other (mpe2 divides by zero and spreads nan);
- stages of a curriculum take effect (in mpe2 1.1.1 they cannot be left: the setter does nothing);
- where new treasures of collect_treasure appear is independent of the reset (mpe2 repeats the reset's numbers).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from envs.mpe.catalogue import MPE_IDS, VARIANT_IDS, canonical_id, describe, parallel_env

if TYPE_CHECKING:
    from envs.mpe.env import MPE
    from envs.mpe.registry import SCENARIOS, make, make_scenario

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


def __getattr__(name: str) -> Any:
    """The scenarios, imported when one is first asked for: the catalogue of ids need not wait for torch."""
    if name in ("MPE", "SCENARIOS", "make", "make_scenario"):
        return getattr(importlib.import_module("envs.mpe.registry"), name)
    raise AttributeError(f"module 'envs.mpe' has no attribute {name!r}")
