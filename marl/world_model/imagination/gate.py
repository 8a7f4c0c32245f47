"""How long imagined rollouts may be: as long as the model's error on held-out episodes allows.

A model that remembers is measured twice: from states that it reached through all frames before, and from states of one
observation alone, as rollouts have them that start between two stored states (starts.py).

Shape suffixes: S replicas, N agents, B windows, T frames, K steps of a rollout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from envs.streams import Stream
from marl.config.world_model import WorldModelConfig
from marl.world_model.layout import Layout
from marl.world_model.losses import relative_error
from marl.world_model.protocol import Prediction, WorldModel
from marl.world_model.sequences import FrameStore, Normaliser, Sequences

WRONG = 0.05  # balanced error rate of flags (flags.py), up to which a step is good enough


class Gate:
    """Errors after 1 .. K steps, and the longest rollout of which all steps are good enough.

    Args:
        held_out: episodes that the model has not been trained on.
        span: frames of the windows that are measured.
        layout: of the joint observation.
        config: the bounds of the errors, and K.
        stream: of all that is drawn; its rows are the replicas.
    """

    def __init__(
        self, held_out: FrameStore, span: int, layout: Layout, config: WorldModelConfig, stream: Stream
    ) -> None:
        self._held_out, self._span, self._layout, self._config, self._stream = held_out, span, layout, config, stream
        replicas, device = len(held_out.written_SE), held_out.written_SE.device
        self.length_S = torch.zeros(replicas, dtype=torch.int64, device=device)  # steps that rollouts may have
        self.blended_S = torch.full((replicas,), config.blend, device=device)  # rollouts start between stored states
        self.errors_SK = torch.full((replicas, config.rollout), float("inf"), device=device)
        self.reward_errors_SK = self.errors_SK.clone()
        self.wrong_SK = torch.ones_like(self.errors_SK) if layout.flags.size else None  # error rates of flags

    @property
    def can_measure(self) -> bool:
        """Whether every replica has held-out frames; asks the device."""
        return bool((self._held_out.frames_S > 0).all())

    @torch.no_grad()
    def measure(self, model: WorldModel) -> None:
        """Let `model` choose what of it imagines, measure its errors, and set how long rollouts may be."""
        config = self._config
        seq = self._held_out.windows(self._span, config.size("sequences"), self._stream)
        model.calibrate(seq, self._stream)
        self._take(self._errors(model, seq, seq))
        self.length_S = allowed(self.errors_SK, self.reward_errors_SK, config, self.wrong_SK)
        self.blended_S = torch.full_like(self.blended_S, config.blend)
        if config.blend and bool(model.remembers_S.any()):
            alone = self._errors(model, seq.single_frames(), seq)
            length_S = allowed(alone[0], alone[1], config, *alone[2:])
            alone_S = model.remembers_S & (length_S >= self.length_S) & (length_S > 0)
            self.blended_S = alone_S | ~model.remembers_S
            self.length_S = torch.where(alone_S, length_S, self.length_S)
            mine = [x for x in (self.errors_SK, self.reward_errors_SK, self.wrong_SK) if x is not None]
            self._take([torch.where(alone_S[:, None], *pair) for pair in zip(alone, mine, strict=True)])
        model.judged(self.length_S)

    def _take(self, errors: Sequence[Tensor]) -> None:
        self.errors_SK, self.reward_errors_SK = errors[:2]
        self.wrong_SK = errors[2] if len(errors) > 2 else None

    def _errors(self, model: WorldModel, seen: Sequences, seq: Sequences) -> tuple[Tensor, ...]:
        """`rollout_errors` in `seq` from the states that `seen` leads to."""
        state = model.observe(seen, self._stream)
        return rollout_errors(model, state, seq, self._config.rollout, self._layout, self._stream)

    def metrics(self) -> dict[str, Tensor]:
        """The length, whether starts are blended, and errors after 1 and K steps, each [S]."""
        metrics = {"rollout": self.length_S.float(), "blended": self.blended_S.float()}
        for k in sorted({1, self._config.rollout}):
            metrics[f"rmse_{k}"] = self.errors_SK[:, k - 1]
            metrics[f"reward_rmse_{k}"] = self.reward_errors_SK[:, k - 1]
            if self.wrong_SK is not None:
                metrics[f"flags_wrong_{k}"] = self.wrong_SK[:, k - 1]
        return metrics

    def state_dict(self) -> dict[str, Any]:
        return {
            "gate_S": self.length_S,
            "blended_S": self.blended_S,
            "errors_SK": self.errors_SK,
            "reward_errors_SK": self.reward_errors_SK,
            **({} if self.wrong_SK is None else {"wrong_SK": self.wrong_SK}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        device = self.length_S.device
        self.length_S, self.errors_SK = state["gate_S"].to(device), state["errors_SK"].to(device)
        self.reward_errors_SK, self.blended_S = state["reward_errors_SK"].to(device), state["blended_S"].to(device)
        if self.wrong_SK is not None:
            self.wrong_SK = state["wrong_SK"].to(device)


def allowed(
    errors_SK: Tensor, reward_errors_SK: Tensor, config: WorldModelConfig, wrong_SK: Tensor | None = None
) -> Tensor:
    """The longest rollout of which all steps are good enough, int [S].

    Args:
        errors_SK, reward_errors_SK: of observations and rewards, as `rollout_errors` returns them.
        config: their bounds.
        wrong_SK: error rates of flags, of which `WRONG` are good enough; None: there are none.
    """
    good_SK = (errors_SK <= config.gate) & (reward_errors_SK <= config.reward_gate)
    if wrong_SK is not None:
        good_SK = good_SK & (wrong_SK <= WRONG)
    return good_SK.long().cumprod(1).sum(1)


class Imagines(Protocol):
    """What can be rolled out."""

    @property
    def obs_scale(self) -> Normaliser: ...
    @property
    def reward_scale(self) -> Normaliser: ...
    @property
    def noise_size(self) -> int: ...
    def step(
        self, state: Any, action_SnU: Tensor, uniform_SnR: Tensor, uncertain: bool = True
    ) -> tuple[Any, Prediction]: ...


@torch.no_grad()
def rollout_errors(
    model: Imagines, state: Any, seq: Sequences, steps: int, layout: Layout, stream: Stream
) -> tuple[Tensor, ...]:
    """Root mean square errors of observation and reward after 1 .. K steps from every frame, each [S, K]; and the
    balanced error rate of flags (`Flags.wrong`), where there are any.

    In standard deviations of each entry, or relative to the value itself where that is more than a deviation from the
    mean (the first episodes of untrained policies end far from where any later one goes); with the recorded actions,
    averaged over frames, entries and agents; infinite where no episode is long enough. Entries that hold what was heard
    over a channel with noise or delay do not count: a model that knows the channel draws them, and no draw is right.

    Args:
        model: what is measured.
        state: the model's after every frame of `seq`, rows [S, T * B, ·].
        seq: episodes.
        steps: K.
        layout: of the joint observation.
        stream: noise of the model's samples.
    """
    length, rows = seq.first.shape[1:]
    going_STB = seq.valid
    errors, wrong, guess = [], [], seq.flags.flatten(1, 2)
    for k in range(1, steps + 1):
        # frame t of the shifted tensors is frame t + k of the window; the last k frames have no such frame
        action, obs, reward, follows = (torch.roll(x, -k, 1) for x in (seq.action, seq.obs, seq.reward, seq.follows))
        inside_T = torch.arange(length, device=obs.device) < length - k
        going_STB = going_STB & follows & inside_T[:, None]
        noise = stream.uniform(length * rows, model.noise_size)
        state, seen = model.step(state, action.flatten(1, 2), noise, uncertain=False)
        truth = obs[..., layout.dynamic_J].flatten(1, 2)
        off_obs = relative_error(model.obs_scale.apply(truth), model.obs_scale.apply(seen.obs))
        if len(layout.judged_J) < off_obs.shape[2]:
            off_obs = off_obs[..., layout.judged_J]
        paid = model.reward_scale.apply(reward.flatten(1, 2))
        off_reward = relative_error(paid, model.reward_scale.apply(seen.reward))
        going_Sn = going_STB.flatten(1, 2)
        count_S = going_Sn.float().sum(1)
        both = [torch.where(going_Sn, x.square().mean(2), 0.0).sum(1) / count_S for x in (off_obs, off_reward)]
        errors.append(torch.stack(both).sqrt().nan_to_num(nan=float("inf"), posinf=float("inf")))
        if layout.flags.size:
            guess = guess if seen.flags is None else seen.flags
            wrong.append(layout.flags.wrong(guess, torch.roll(seq.flags, -k, 1).flatten(1, 2), going_Sn.float()))
    observation_SK, reward_SK = torch.stack(errors, dim=2)
    return (observation_SK, reward_SK, torch.stack(wrong, dim=1)) if wrong else (observation_SK, reward_SK)
