"""MADDPG with Gumbel-softmax actors for discrete actions and discrete messages.

`train(tuned("simple_speaker_listener"))` trains, `Policy.load(run_dir)` plays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from marl.lazy import lazy

if TYPE_CHECKING:
    from marl.config.resolve import tuned
    from marl.config.schema import Config
    from marl.play.policy import Policy
    from marl.runs.logs.exchange import metrics_frame
    from marl.training.experiment import train

__all__ = ["Config", "Policy", "metrics_frame", "train", "tuned"]

_HOMES = {
    "Config": "marl.config.schema",
    "Policy": "marl.play.policy",
    "metrics_frame": "marl.runs.logs.exchange",
    "train": "marl.training.experiment",
    "tuned": "marl.config.resolve",
}
__getattr__ = lazy(__name__, _HOMES)
