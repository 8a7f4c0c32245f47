"""The replay of observations that are pictures: pixels are kept as bytes.

Shape suffixes: S replicas, N agents, E environments, B batch, C capacity, D width of a stored row, X anything.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from envs.spec import EnvSpec
from envs.streams import Stream
from marl.data.batch import Transitions
from marl.data.replay import Replay


def pixels(spec: EnvSpec) -> int:
    """Numbers of an observation that are pixels: those that come first, of all frames that are seen."""
    return prod(spec.picture or (0,)) * spec.frames


def beside(spec: EnvSpec) -> EnvSpec:
    """`spec` with what observations hold beside their pictures alone: where frames are stacked the own actions."""
    taken = pixels(spec)
    return replace(spec, agents=tuple(replace(agent, obs_size=agent.obs_size - taken) for agent in spec.agents))


class PictureReplay(Replay):
    """Uniform replay with n-step returns whose pictures take a quarter of the memory; batches are the same.

    Args:
        spec, capacity, num_envs, stream, gamma, n_step, further, team: as for `Replay`; pixels are whole, 0 to 255.
    """

    def __init__(
        self,
        spec: EnvSpec,
        capacity: int,
        num_envs: int,
        stream: Stream,
        gamma: float,
        n_step: int = 1,
        further: dict[str, int] | None = None,
        team: Tensor | None = None,
    ) -> None:
        assert not spec.senders, "a picture holds no message slots"
        super().__init__(beside(spec), capacity, num_envs, stream, gamma, n_step, further, team)
        self.spec, self._beside = spec, self.spec.obs_size
        self._each = spec.num_agents * pixels(spec)  # of all agents' pictures together
        shape = (len(self.data_SCD), self.capacity, 2 * self._each)
        self.pixels_SCD = torch.empty(shape, dtype=torch.uint8, device=self.data_SCD.device)  # before and after a step

    def _fields(self, t: Transitions) -> dict[str, Tensor]:
        count = pixels(self.spec)

        def seen(x_SNEO: Tensor) -> Tensor:
            return x_SNEO[..., :count].transpose(1, 2).flatten(2).to(torch.uint8)

        rest = replace(t, obs=t.obs[..., count:], prev_obs=t.prev_obs[..., count:], next_obs=t.next_obs[..., count:])
        return {**super()._fields(rest), "pixels": seen(t.obs), "next_pixels": seen(t.next_obs)}

    def _write_further(self, fields: dict[str, Tensor]) -> None:
        self._write(self.pixels_SCD, torch.cat([fields["pixels"], fields["next_pixels"]], dim=2))

    def _parts(self, index_SB: Tensor, widths: dict[str, int]) -> dict[str, Tensor]:
        parts = super()._parts(index_SB, widths)
        bytes_SBD = self.pixels_SCD.flatten(0, 1).index_select(0, index_SB.flatten()).unflatten(0, index_SB.shape)
        now, after = bytes_SBD.to(self.data_SCD.dtype).split(self._each, dim=2)
        numbers = self.spec.num_agents * self._beside
        joint = parts["joint"]
        obs_SBX = self._joined(now, joint[..., :numbers])
        return {
            **parts,
            "joint": torch.cat([obs_SBX, joint[..., numbers:]], dim=2),
            "next_obs": self._joined(after, parts["next_obs"]),
        }

    def _joined(self, pixels_SBX: Tensor, rest_SBX: Tensor) -> Tensor:
        """Every agent's pixels and then what else it sees, side by side."""
        agents = self.spec.num_agents
        both = (pixels_SBX.unflatten(2, (agents, -1)), rest_SBX.unflatten(2, (agents, self._beside)))
        return torch.cat(both, dim=3).flatten(2)

    # ------------------------------------------------------------------ state
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "pixels": self.pixels_SCD[:, : self.size].clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.pixels_SCD[:, : self.size] = self._newest(state, "pixels")
