"""What every world model offers to imagination and evaluation.

Shape suffixes: S replicas, T frames, B sequences, n rows, F entries of the joint observation, J those that are
predicted (all but exact message slots), U joint action, N agents, R noise numbers a row, V flags.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from envs.streams import Stream
from marl.errors import RunFailed
from marl.world_model.optimiser import ReplicaAdam
from marl.world_model.sequences import Normaliser, Sequences, StepRows


class ModelState(Protocol):
    """Where a model believes that the environments are: rows [S, n, ·] of some kind."""

    def pick(self, index_Sn: Tensor) -> ModelState: ...
    def where(self, use_S: Tensor, other: Any) -> ModelState:
        """This state, and `other` in the replicas of `use_S`."""


@dataclass
class Prediction:
    """What a model expects to see."""

    obs: Tensor  # [S, n, J] in the environment's units
    reward: Tensor  # [S, n, N]
    discount: Tensor  # [S, n, N] gamma (1 - terminated)
    uncertainty: Tensor  # [S, n] disagreement of the ensemble about the step that led here; 0 where not asked for
    flags: Tensor | None = None  # [S, n, V] who is there then, and what is allowed; None: as before the step


class WorldModel(Protocol):
    """A model of all agents' joint observation; every tensor has the replicas first."""

    @property
    def obs_scale(self) -> Normaliser:
        """Of the predicted entries."""

    @property
    def reward_scale(self) -> Normaliser: ...

    @property
    def remembers_S(self) -> Tensor:
        """Whether a replica's state may hold more than the last observation, bool."""

    @property
    def pairs(self) -> int:
        """Windows of two frames, drawn independently of one another, that an update wants beside its sequences."""

    @property
    def updates_per_step(self) -> float:
        """Updates that it wants for an environment step of a replica."""

    @property
    def noise_size(self) -> int:
        """R, numbers in (0, 1) that a step takes per row."""

    def absorb(self, step: StepRows, mask_SE: Tensor) -> None:
        """Take the statistics of one joint step of the environments in `mask_SE`."""

    def update(self, seq: Sequences, stream: Stream, pairs: Sequences | None = None) -> None:
        """One update from sequences, and from `pairs` of frames where it wants some."""

    def calibrate(self, seq: Sequences, stream: Stream) -> None:
        """Choose by held-out episodes what of the model imagines; nothing is fitted to them."""

    def judged(self, length_S: Tensor) -> None:
        """Take note of how many steps of it are good enough, int [S]."""

    def observe(self, seq: Sequences, stream: Stream) -> Any:
        """The state after every frame, given all frames up to it; rows [S, T * B, ·]."""

    def step(
        self, state: Any, action_SnU: Tensor, uniform_SnR: Tensor, uncertain: bool = True
    ) -> tuple[Any, Prediction]:
        """Imagine one step; differentiable in state and action. Not `uncertain`: nobody reads the uncertainty."""

    def diagnose(self, seq: Sequences, stream: Stream) -> dict[str, Tensor]:
        """What its latents do: `kl`, `posterior_entropy`, `prior_entropy` [S, T], `active_latents` [S]; or nothing."""

    def check(self) -> None:
        """Raise `RunFailed` where an update was not finite."""

    def warnings(self) -> list[str]:
        """What the user should know, with what to change; empty where all is well."""

    def metrics(self) -> dict[str, Tensor]:
        """The last update's losses and diagnostics, each [S]."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@torch.no_grad()
def open_loop(model: WorldModel, seq: Sequences, context: int, stream: Stream) -> Prediction:
    """Predict the frames behind the first `context` + 1 from those and the actions alone.

    Returns:
        Predictions [S, T - context - 1, B, ·]; `uncertainty` [S, T - context - 1, B].
    """
    replicas, length, rows = seq.first.shape
    state = model.observe(seq.select(slice(0, context + 1)), stream)
    last_B = torch.arange(context * rows, (context + 1) * rows, device=seq.obs.device)
    state = state.pick(last_B.expand(replicas, -1))
    steps = []
    for t in range(context + 1, length):
        state, prediction = model.step(state, seq.action[:, t], stream.uniform(rows, model.noise_size))
        steps.append(prediction)
    names = [name for name, value in vars(steps[0]).items() if value is not None]
    return Prediction(**{name: torch.stack([vars(p)[name] for p in steps], 1) for name in names})


def raise_on_faults(optimiser: ReplicaAdam[Any], metrics: dict[str, Tensor]) -> None:
    """Raise `RunFailed` where a replica's gradient was not finite; names the replicas and the terms."""
    if not bool(optimiser.faults_S.any()):
        return
    replicas = optimiser.faults_S.nonzero()[:, 0].tolist()
    terms = [name for name, value in metrics.items() if not bool(value.isfinite().all())]
    raise RunFailed(
        f"The world model's gradient is not finite in replicas {replicas} by update {int(optimiser.updates)} (terms "
        f"that are not finite now: {terms or 'none'}); each such gradient was left out. Check the environment's "
        "observations and rewards for inf and nan, or lower --wm.lr or --wm.max-grad-norm."
    )
