"""MADDPG with Gumbel-softmax actors for discrete actions and discrete messages.

`train(tuned("simple_speaker_listener"))` trains, `Policy.load(run_dir)` plays.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from marl.config import Config
    from marl.configure import tuned
    from marl.experiment import train
    from marl.policy import Policy

__all__ = ["Config", "Policy", "train", "tuned"]

_HOMES = {
    "Config": "marl.config",
    "Policy": "marl.policy",
    "train": "marl.experiment",
    "tuned": "marl.configure",
}


def __getattr__(name: str) -> Any:
    """The public names, each imported when it is first asked for: `--help` need not wait for torch."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'marl' has no attribute {name!r}")
