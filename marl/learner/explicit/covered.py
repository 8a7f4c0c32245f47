"""Which learners the explicit update covers."""

from __future__ import annotations

import torch

from envs.spec import EnvSpec
from marl.config.schema import MADDPGConfig
from marl.learner.explicit.kernels import ESTIMATORS
from marl.learner.spec_tensors import estimators


def covers(spec: EnvSpec, config: MADDPGConfig, device: torch.device) -> str | None:
    """None where the explicit update can do the work, else the reason why not."""
    if device.type != "cpu":
        return f"it is for a CPU, not for {device.type}"
    if spec.picture:
        return "observations are pictures"
    if config.recurrent:
        return "networks are recurrent"
    unknown = sorted(set(estimators(spec, config)) - set(ESTIMATORS))
    if unknown:
        return f"it has no gradient for the estimator {unknown[0]}"
    if config.other_actions != "replay":
        return "other_actions are current"
    if config.listening_bonus > 0 and spec.routes:
        return "there is a listening bonus"
    return None if config.hidden else "networks have no hidden layer"
