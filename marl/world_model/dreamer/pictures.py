"""DreamerV2's world model where agents observe pictures: one picture of all agents' pictures, in a run.

The joint observation is one row of all agents' pixels, 0 to 255, read as a picture with as many colours as all of them
have together. It is decoded whole; what is imagined are pictures of bytes again, which the actors look at.

Shape suffixes: S replicas, E environments, n rows, J pixels of all agents' pictures, F the same, D width of a stored
row, U joint action.

Source: image.py. Differs from source: a pixel is standardised by its mean and by one deviation of all pixels, so that
the decoder need not learn what never changes, and errors are measured in that deviation.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from envs.spec import EnvSpec
from envs.streams import Stream
from marl.config.world_model import WorldModelConfig
from marl.errors import UserError
from marl.world_model.dreamer.image import SIZE, ImageNetworks
from marl.world_model.dreamer.model import DreamerModel
from marl.world_model.dreamer.rssm import State
from marl.world_model.layout import Layout
from marl.world_model.protocol import Prediction
from marl.world_model.sequences import FrameStore, Normaliser

DEPTHS = {"cpu": 8, "gpu": 48}
"""Channels of the first convolution; the paper's are 48."""
SHARE = 0.01
"""Of `wm.nx`, which is for a vector's few entries: at its default every pixel weighs 1, as in the paper."""


def refuse(spec: EnvSpec, config: WorldModelConfig) -> None:
    """Raise `UserError` where settings and observations do not fit each other."""
    if spec.picture is None:
        if config.observation == "image":
            raise UserError(
                f"wm.observation image is for environments whose agents observe pictures; those of {spec.id} observe "
                f"numbers, which a picture would show less exactly: expected wm.observation vector."
            )
        return
    if config.observation != "image":
        raise UserError(
            f"agents of {spec.id} observe pictures, which a world model of vectors cannot predict: expected --wm.kind "
            f"rssm --wm.observation image, or no --world-model."
        )
    if spec.has_masks or not spec.fixed_agents:
        raise UserError(
            f"wm.observation image predicts neither action masks nor who leaves, and {spec.id} has one of them: "
            f"expected an environment without, or no --world-model."
        )
    if spec.picture[1] != SIZE:
        raise UserError(f"wm.observation image needs pictures of {SIZE} pixels a side: expected picture_side {SIZE}.")
    if config.factors == "agent":
        raise UserError("wm.observation image has one state of all agents: expected wm.factors joint.")
    if config.size("through_horizon"):
        raise UserError("wm.observation image has no loss through the model: expected wm.through_horizon 0.")


class PictureScale(Normaliser):
    """Every pixel's mean, and one standard deviation for all pixels of a replica's pictures."""

    def add(self, rows_SEX: Tensor, weight_SE: Tensor) -> None:
        """Take pictures with weight 0 or 1 into account."""
        super().add(rows_SEX, weight_SE)
        count, total, squares = self.sums_S3X.split(1, dim=1)
        mean = total / count.clamp(min=1.0)
        variance_S11 = (squares / count.clamp(min=1.0) - mean * mean).mean(2, keepdim=True)
        self.std_S1X = torch.where(variance_S11 > 1e-3, variance_S11.sqrt(), 1.0).float().expand_as(self.mean_S1X)


class PictureModel(DreamerModel):
    """Its predictions are pictures of bytes.

    Args:
        layout: of the joint observation.
        config: settings; the decoder is the paper's, of the state alone.
        gamma: the learner's discount.
        stream: noise of the initial weights; its rows are the replicas.
    """

    def __init__(self, layout: Layout, config: WorldModelConfig, gamma: float, stream: Stream) -> None:
        assert layout.spec.picture is not None
        config = replace(config, decoder="state", nx=SHARE * config.nx)
        agents, depth = layout.spec.num_agents, DEPTHS[config.preset]
        colours = agents * layout.spec.picture[0]
        networks = ImageNetworks(layout.action_size, agents, config, stream, depth, colours)
        super().__init__(layout, config, gamma, stream, networks)
        self.obs_scale = PictureScale(len(stream.key_R), layout.obs_size, stream.key_R.device)

    def step(
        self, state: State, action_SnU: Tensor, uniform_SnR: Tensor, uncertain: bool = True
    ) -> tuple[State, Prediction]:
        state, told = super().step(state, action_SnU, uniform_SnR, uncertain)
        return state, replace(told, obs=told.obs.round().clamp(0.0, 255.0))


class PictureFrames(FrameStore):
    """Rings of frames whose observations are kept as bytes.

    Args:
        widths, replicas, num_envs, capacity, device: as for `FrameStore`.
    """

    def __init__(
        self, widths: tuple[int, ...], replicas: int, num_envs: int, capacity: int, device: torch.device | str
    ) -> None:
        super().__init__((0, *widths[1:]), replicas, num_envs, capacity, device)
        self._widths[0] = widths[0]  # rows are written and read with them
        self.pixels_SECF = torch.zeros(replicas, num_envs, self.ring, widths[0], dtype=torch.uint8, device=device)

    def _write(self, at: Any, rows_SED: Tensor) -> None:
        pixels, rest = rows_SED.split([self._widths[0], rows_SED.shape[2] - self._widths[0]], dim=2)
        self.pixels_SECF[at] = pixels.to(torch.uint8)
        super()._write(at, rest)

    def _read(self, at: Any) -> Tensor:
        rest = super()._read(at)
        return torch.cat([self.pixels_SECF[at].to(rest.dtype), rest], dim=-1)

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        return {**state, "pixels": self.pixels_SECF[:, :, : state["data"].shape[2]].clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.pixels_SECF[:, :, : state["pixels"].shape[2]] = state["pixels"].to(self.pixels_SECF.device)
