"""MADDPG with Gumbel-softmax actors for discrete actions and discrete messages.

`train(tuned("simple_speaker_listener"))` trains, `Policy.load(run_dir)` plays.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from marl.config.resolve import tuned
    from marl.config.schema import Config
    from marl.play.policy import Policy
    from marl.training.experiment import train

__all__ = ["Config", "Policy", "train", "tuned"]

_HOMES = {
    "Config": "marl.config.schema",
    "Policy": "marl.play.policy",
    "train": "marl.training.experiment",
    "tuned": "marl.config.resolve",
}


def __getattr__(name: str) -> Any:
    """The public names, each imported when it is first asked for: `--help` need not wait for torch."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'marl' has no attribute {name!r}")
