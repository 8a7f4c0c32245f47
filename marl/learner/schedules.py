"""Settings that follow the progress of a run, as tensors."""

from __future__ import annotations

import torch

from marl.config.schema import MADDPGConfig
from marl.learner.relaxation import temperature_at


class Schedules:
    """The present values of scheduled settings, tensors without dimensions that are only ever written in place.

    A recorded CUDA graph reads them at every replay; a Python number would stay what it was at the recording.

    Args:
        config: the learner's settings.
        device: where the learner computes.
    """

    def __init__(self, config: MADDPGConfig, device: torch.device) -> None:
        self.config = config
        # Adam's kernels read step sizes as float64 on a CPU, which is what they do with Python's numbers, else float32
        wide = torch.float64 if device.type == "cpu" else torch.float32
        self.actor_lr = torch.empty((), dtype=wide, device=device)
        self.critic_lr = torch.empty((), dtype=wide, device=device)
        self.temperature = torch.empty((), device=device)  # float32, of the relaxation
        self.exploration = torch.empty((), device=device)  # float32, standard deviation of numbers' noise
        self.signalling = torch.empty((), device=device)  # float32, weight of the bonus
        self._progress: float | None = None
        self.follow(0.0)

    def follow(self, progress: float) -> None:
        """Set all values to those at `progress`, the share of the run that is over, held to [0, 1]."""
        if progress == self._progress:
            return
        self._progress = progress
        cfg, share = self.config, min(max(progress, 0.0), 1.0)
        factor = 1.0 - (1.0 - cfg.lr_final) * share
        self.actor_lr.fill_(cfg.actor_lr * factor)
        self.critic_lr.fill_(cfg.critic_lr * factor)
        self.temperature.fill_(temperature_at(share, cfg.temperature, cfg.temperature_final))
        self.exploration.fill_(cfg.exploration + (cfg.exploration_final - cfg.exploration) * share)
        self.signalling.fill_(cfg.signalling_bonus * (1.0 - (1.0 - cfg.signalling_final) * share))
