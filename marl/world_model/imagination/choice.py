"""Kind "auto": the small model, and DreamerV2's where the small one is not good enough; each replica imagines with the
one that predicts further on held-out episodes, never with one that is worse than copying the last observation.

The small model costs little and learns from few episodes, so it is trained from the start. DreamerV2's is made, and
trained on all episodes that are stored, from the first time that the small model's rollouts are too short in some
replica after `PATIENCE` steps; it costs tens of times as much. Until then everything is what `--wm.kind mlp` does, to
the bit.

Shape suffixes: S replicas, n rows, K steps of a rollout, U joint action, R noise numbers a row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from envs.streams import Stream
from marl.config.world_model import WorldModelConfig
from marl.world_model.dreamer.agents import networks_of
from marl.world_model.dreamer.model import DreamerModel
from marl.world_model.dreamer.rssm import State
from marl.world_model.imagination.gate import allowed, rollout_errors
from marl.world_model.layout import Layout
from marl.world_model.protocol import Prediction
from marl.world_model.sequences import Normaliser, Sequences, StepRows
from marl.world_model.small.model import ObsState, SmallModel

PATIENCE = 2000  # environment steps of a replica in which the small model may become good enough
ENOUGH = 3  # steps of a rollout: a message moves its receiver after three


@dataclass
class BothStates:
    """The states of both models; DreamerV2's where some replica imagines with it."""

    small: ObsState
    dreamer: State | None

    def pick(self, index_Sn: Tensor) -> BothStates:
        return BothStates(self.small.pick(index_Sn), self.dreamer and self.dreamer.pick(index_Sn))

    def where(self, use_S: Tensor, other: BothStates) -> BothStates:
        """This state, and `other` in the replicas of `use_S`."""
        small = self.small.where(use_S, other.small)
        if self.dreamer is None or other.dreamer is None:
            return BothStates(small, None)
        return BothStates(small, self.dreamer.where(use_S, other.dreamer))


class CopyLast:
    """Predicts that nothing changes: what any model has to beat."""

    noise_size = 1

    def __init__(self, obs_scale: Normaliser, reward_scale: Normaliser) -> None:
        self.obs_scale, self.reward_scale = obs_scale, reward_scale

    def step(
        self, state: ObsState, action_SnU: Tensor, uniform_SnR: Tensor, uncertain: bool = True
    ) -> tuple[ObsState, Prediction]:
        """The same observation again, the mean reward."""
        del uniform_SnR, uncertain
        rows = action_SnU[..., :1]
        reward = self.reward_scale.mean_S1X.to(rows.dtype).expand(-1, rows.shape[1], -1)
        return state, Prediction(state.obs, reward, torch.ones_like(reward), torch.zeros_like(rows[..., 0]))


class AutoModel:
    """Both models, and which of them imagines in every replica.

    Args:
        layout: how the environment's joint observation is laid out.
        config: settings; sizes and rates that are unset are each kind's own.
        gamma: the learner's discount.
        stream: noise of the initial weights; its rows are the replicas.
    """

    def __init__(self, layout: Layout, config: WorldModelConfig, gamma: float, stream: Stream) -> None:
        self.layout, self.config, self.gamma, self._stream = layout, config, gamma, stream
        self.small = SmallModel(layout, config, gamma, stream)
        self.dreamer: DreamerModel | None = None
        self.dreams_S = torch.zeros(len(stream.key_R), dtype=torch.bool, device=stream.key_R.device)
        self._any = False  # of these, on the host
        self._steps = self._updates = 0  # of the environments of a replica; of models

    @property
    def obs_scale(self) -> Normaliser:
        return self.small.obs_scale

    @property
    def reward_scale(self) -> Normaliser:
        return self.small.reward_scale

    @property
    def remembers_S(self) -> Tensor:
        return self.dreams_S

    @property
    def pairs(self) -> int:
        return 0 if self.dreamer is None else self.dreamer.pairs

    @property
    def updates_per_step(self) -> float:
        return self.small.updates_per_step if self.dreamer is None else self.dreamer.updates_per_step

    @property
    def noise_size(self) -> int:
        return self.dreamer.noise_size if self.dreamer is not None and self._any else self.small.noise_size

    # --------------------------------------------------------------- training
    def absorb(self, step: StepRows, mask_SE: Tensor) -> None:
        """Take the statistics, which both models share."""
        self._steps += step.first.shape[1]
        self.small.absorb(step, mask_SE)

    def update(self, seq: Sequences, stream: Stream, pairs: Sequences | None = None) -> None:
        """One update of DreamerV2's model where there is one; of the small one as often as it wants them."""
        every = 1 if self.dreamer is None else round(self.dreamer.updates_per_step / self.small.updates_per_step)
        if self._updates % max(every, 1) == 0:
            self.small.update(seq, stream)
        self._updates += 1
        if self.dreamer is not None:
            self.dreamer.update(seq, stream, pairs)

    def judged(self, length_S: Tensor) -> None:
        """DreamerV2's model is begun where `length_S`, the steps that may be imagined, are too few in some replica."""
        if self.dreamer is None and self._steps >= PATIENCE and bool((length_S < self._enough).any()):
            self._begin()

    @property
    def _enough(self) -> int:
        """Steps of a rollout with which the small model is good enough: all, where rollouts are shorter."""
        return min(ENOUGH, self.config.rollout)

    def _begin(self) -> None:
        config = replace(self.config, kind="rssm")
        networks = networks_of(self.layout, config, self._stream)
        self.dreamer = DreamerModel(self.layout, config, self.gamma, self._stream, networks)
        self.dreamer.obs_scale, self.dreamer.reward_scale = self.small.obs_scale, self.small.reward_scale
        if self.dreamer.rewards is not None and self.dreamer.rewards.solved is not None:
            self.dreamer.rewards.solved = self.small.solved

    # -------------------------------------------------------------- imagining
    @torch.no_grad()
    def calibrate(self, seq: Sequences, stream: Stream) -> None:
        """Choose in every replica the model whose rollouts may be longer; where they may be as long, that of the
        smaller error. DreamerV2's only where it is better than copying the last observation, and always where
        agents have been absent, which the small one does not predict."""
        self.small.calibrate(seq, stream)
        broken_S = self.small.stays.broken_S
        if self.dreamer is None and bool(broken_S.any()):
            self._begin()
        if self.dreamer is None:
            return
        self.dreamer.calibrate(seq, stream)
        steps, layout = self.config.rollout, self.layout
        errors = {}
        for name, model in (("small", self.small), ("dreamer", self.dreamer)):
            errors[name] = rollout_errors(model, model.observe(seq, stream), seq, steps, layout, stream)
        copying = CopyLast(self.obs_scale, self.reward_scale)
        copied_SK, *_ = rollout_errors(copying, self.small.observe(seq, stream), seq, steps, layout, stream)
        length = {name: allowed(every[0], every[1], self.config, *every[2:]) for name, every in errors.items()}
        mean = {name: every[0].mean(1) for name, every in errors.items()}
        further_S = length["dreamer"] > length["small"]
        as_far_S = (length["dreamer"] == length["small"]) & (mean["dreamer"] < mean["small"])
        self.dreams_S = broken_S | ((further_S | as_far_S) & (mean["dreamer"] < copied_SK.mean(1)))
        self._any = bool(self.dreams_S.any())

    def observe(self, seq: Sequences, stream: Stream) -> BothStates:
        """The states after every frame, rows [S, T * B, ·]."""
        dreamer = self.dreamer.observe(seq, stream) if self.dreamer is not None and self._any else None
        return BothStates(self.small.observe(seq, stream), dreamer)

    def step(
        self, state: BothStates, action_SnU: Tensor, uniform_SnR: Tensor, uncertain: bool = True
    ) -> tuple[BothStates, Prediction]:
        """One step of both, each replica's prediction from the model that imagines there."""
        small, first = self.small.step(state.small, action_SnU, uniform_SnR, uncertain)
        if self.dreamer is None or state.dreamer is None:
            return BothStates(small, None), first
        dreamer, second = self.dreamer.step(state.dreamer, action_SnU, uniform_SnR, uncertain)

        def chosen(one: Tensor, other: Tensor) -> Tensor:
            return torch.where(self.dreams_S.view(-1, *[1] * (one.dim() - 1)), other, one)

        both = {name: chosen(value, getattr(second, name)) for name, value in vars(first).items() if value is not None}
        flags = None if second.flags is None else chosen(torch.ones_like(second.flags), second.flags)  # small: all stay
        return BothStates(small, dreamer), Prediction(**both, flags=flags)

    def diagnose(self, seq: Sequences, stream: Stream) -> dict[str, Tensor]:
        """What the latents do, where DreamerV2's model is there."""
        return {} if self.dreamer is None else self.dreamer.diagnose(seq, stream)

    # ------------------------------------------------------------------ state
    def check(self) -> None:
        self.small.check()
        if self.dreamer is not None:
            self.dreamer.check()

    def warnings(self) -> list[str]:
        """That DreamerV2's model has been begun, and why."""
        if self.dreamer is None:
            return []
        if left := self.small.stays.why:
            why = (
                f"{left}, so that DreamerV2's model (rssm), which learns who is there, imagines from now on; to begin "
                "with it, give --wm.kind rssm, or, where agents should have stayed, mend the environment and declare "
                "metadata = {'fixed_agents': True}."
            )
            return [why, *self.dreamer.warnings()]
        steps = f"{self._enough} steps" if self._enough > 1 else "1 step"
        why = (
            f"The small world model may imagine fewer than {steps} after {PATIENCE} steps of the environments, "
            "so that DreamerV2's model (rssm) is trained beside it, which takes far longer; the one that predicts "
            "further on held-out episodes imagines (world_model/dreamer in the metrics: 1 where it is DreamerV2's). "
            "To keep to one: --wm.kind mlp or --wm.kind rssm."
        )
        return [why, *self.dreamer.warnings()]

    def metrics(self) -> dict[str, Tensor]:
        """The small model's, DreamerV2's under dreamer/, and `dreamer`: 1 where it imagines."""
        metrics = self.small.metrics() | {"dreamer": self.dreams_S.float()}
        own = {} if self.dreamer is None else self.dreamer.metrics()
        return metrics | {f"dreamer/{name}": value for name, value in own.items()}

    def state_dict(self) -> dict[str, Any]:
        return {
            "small": self.small.state_dict(),
            "dreamer": self.dreamer and self.dreamer.state_dict(),
            "dreams": self.dreams_S,
            "steps": self._steps,
            "updates": self._updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue bit for bit."""
        self.small.load_state_dict(state["small"])
        if state["dreamer"] is not None:
            self._begin()
            assert self.dreamer is not None
            self.dreamer.load_state_dict(state["dreamer"])
        self.dreams_S = state["dreams"].to(self.dreams_S.device)
        self._any, self._steps, self._updates = bool(self.dreams_S.any()), state["steps"], state["updates"]
