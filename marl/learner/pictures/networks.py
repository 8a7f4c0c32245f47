"""Actors and critics that look at pictures: grouped convolutions before the perceptrons of the other networks.

An actor has convolutions of its own. The critic of agent n has some too, which look at agent n's picture; every critic
of a replica reads what all of them found, so that a joint observation is looked at once and not once for each critic
(an independent critic reads its own alone). All parameters of a network still are one tensor `flat` [S, G, P]: those of
its convolutions, then those of its perceptron.

Shape suffixes: those of marl/learner/networks/actor_critic.py; Y = S * C, I numbers that a perceptron reads of one
agent's observation, F maps of a convolution's output and J of its input, K side of its kernel.

Source: Mnih et al. 2013 (arXiv 1312.5602), section 4.1: 16 kernels of 8 x 8 at stride 4, 32 of 4 x 4 at stride 2.
Differs from source: pictures of any side from 20 pixels on; no four frames unless `maddpg.frames` asks for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from envs.spec import EnvSpec
from envs.streams import Stream
from marl.config.schema import MADDPGConfig
from marl.learner.networks import grouped_mlp as grouped
from marl.learner.networks.actor_critic import Actor, Critic, GroupedMLP, own_only
from marl.learner.recurrent.networks import RecurrentActor

LAYERS = ((16, 8, 4), (32, 4, 2))  # maps, side of the kernel, stride

Kernels = list[tuple[Tensor, Tensor]]  # weight [S, G, F, J, K, K] and bias [S, G, F] of every layer


@dataclass(frozen=True)
class Eye:
    """The shape of the convolutions before one perceptron.

    Args:
        maps: of the picture: its channels, times the frames that are seen.
        side: its pixels a side.
    """

    maps: int
    side: int

    @classmethod
    def of(cls, spec: EnvSpec) -> Eye:
        """What looks at the pictures of `spec`, of several frames side by side."""
        assert spec.picture is not None, "its observations are pictures"
        channels, height, width = spec.picture
        assert height == width
        return cls(channels * spec.frames, height)

    @property
    def pixels(self) -> int:
        """Numbers of an observation that are pixels; they come first."""
        return self.maps * self.side * self.side

    @property
    def features(self) -> int:
        """Numbers that come out."""
        side = self.side
        for _, kernel, stride in LAYERS:
            side = (side - kernel) // stride + 1
        return LAYERS[-1][0] * side * side

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """(F, J, K) of every layer."""
        maps = [self.maps, *(layer[0] for layer in LAYERS)]
        return [(out, into, layer[1]) for (into, out), layer in zip(pairwise(maps), LAYERS, strict=True)]

    @property
    def lengths(self) -> list[int]:
        """Parameters of every layer's weight and bias."""
        return [number for out, into, kernel in self.shapes for number in (out * into * kernel * kernel, out)]

    def kernels(self, flat_SGP: Tensor) -> Kernels:
        """The layers as views of their parameters."""
        parts = flat_SGP.split(self.lengths, dim=2)
        weights = [
            part.unflatten(2, (out, into, kernel, kernel))
            for part, (out, into, kernel) in zip(parts[::2], self.shapes, strict=True)
        ]
        return list(zip(weights, parts[1::2], strict=True))

    def look(self, obs_SGBO: Tensor, kernels: Kernels) -> Tensor:
        """Features and what else is in the observations, [S, G, B, I]; pixels are numbers 0 to 255."""
        pixels, rest = obs_SGBO[..., : self.pixels], obs_SGBO[..., self.pixels :]
        groups = obs_SGBO.shape[0] * obs_SGBO.shape[1]
        x = pixels.flatten(0, 1).transpose(0, 1).reshape(-1, groups * self.maps, self.side, self.side)
        x = x / 255.0 - 0.5
        for (weight, bias), (_, _, stride) in zip(kernels, LAYERS, strict=True):
            x = F.conv2d(x, weight.flatten(0, 2), bias.flatten(), stride=stride, groups=groups).relu()
        features = x.reshape(len(x), *obs_SGBO.shape[:2], -1).permute(1, 2, 0, 3)
        return torch.cat([features, rest], dim=3)


class PictureNetwork(nn.Module):
    """S * G perceptrons, each behind convolutions of its own; the parameters are one tensor `flat` [S, G, P].

    Args:
        eye: the convolutions.
        sizes: widths of the perceptron from what it reads to its outputs.
        num_groups, layer_norm, stream, out_gain: as for `GroupedMLP`.
    """

    def __init__(
        self, eye: Eye, sizes: Sequence[int], num_groups: int, layer_norm: bool, stream: Stream, out_gain: float = 1.0
    ) -> None:
        super().__init__()
        inner = GroupedMLP(sizes, num_groups, layer_norm, stream, out_gain=out_gain)
        self.eye, self.sizes, self.layer_norm = eye, inner.sizes, layer_norm
        draws_SGP = stream.uniform(num_groups, sum(eye.lengths)) * 2 - 1
        parts = list(draws_SGP.split(eye.lengths, dim=2))
        for k, (_, into, kernel) in enumerate(eye.shapes):
            for part in parts[2 * k : 2 * k + 2]:
                part.mul_((into * kernel * kernel) ** -0.5)  # views
        self.flat = nn.Parameter(torch.cat([draws_SGP, inner.flat.detach()], dim=2))

    def _perceptron(self, flat_SGP: Tensor) -> Tensor:
        return flat_SGP[..., sum(self.eye.lengths) :]

    def last(self, flat_SGP: Tensor) -> Tensor:
        """As `GroupedMLP.last`."""
        return grouped.blocks(self._perceptron(flat_SGP), self.sizes)[-1]

    def prepare(self, flat_SGP: Tensor, critics: int = 0) -> tuple[Kernels, tuple[Tensor, ...]]:
        """Parameters in the form that a forward pass takes: of the convolutions, and of the perceptrons.

        Args:
            flat_SGP: parameters of this shape.
            critics: C, where all groups of a set of critics read the same; 0: each reads its own.
        """
        kernels = self.eye.kernels(flat_SGP[..., : sum(self.eye.lengths)])
        inner_SGP = self._perceptron(flat_SGP)
        if critics:
            inner_SGP = inner_SGP.unflatten(1, (critics, -1)).flatten(0, 1)
        return kernels, grouped.prepare(inner_SGP, self.sizes, self.layer_norm, critics > 0)


class PictureActor(Actor):
    """Every agent's policy: its own picture to the logits of its heads."""

    def __init__(
        self, spec: EnvSpec, hidden: Sequence[int], layer_norm: bool, stream: Stream, shared: bool = False
    ) -> None:
        self.eye = Eye.of(spec)
        super().__init__(spec, hidden, layer_norm, stream, shared)

    def network(
        self, sizes: Sequence[int], groups: int, layer_norm: bool, stream: Stream, _fan_in: Any, out_gain: float
    ) -> PictureNetwork:
        """In place of a perceptron of these sizes."""
        eye = self.eye
        read = (eye.features + sizes[0] - eye.pixels, *sizes[1:])
        return PictureNetwork(eye, read, groups, layer_norm, stream, out_gain)

    def logits(self, obs_SNBO: Tensor, parameters: Any) -> Tensor:
        kernels, inner = parameters
        return super().logits(self.eye.look(obs_SNBO, kernels), inner)


class PictureCritic(Critic):
    """C centralised critics per agent: everybody's picture and action to that agent's value."""

    def __init__(
        self,
        spec: EnvSpec,
        hidden: Sequence[int],
        layer_norm: bool,
        stream: Stream,
        num_critics: int = 1,
        independent: bool = False,
    ) -> None:
        self.eye, self.num_agents = Eye.of(spec), spec.num_agents
        super().__init__(spec, hidden, layer_norm, stream, num_critics)
        if independent:
            read = self.eye.features + spec.obs_size - self.eye.pixels
            widths = (read, spec.action_size)
            self.seen_GP = own_only(self.mlp, num_critics, self.num_agents, widths, sum(self.eye.lengths))

    def network(
        self, sizes: Sequence[int], groups: int, layer_norm: bool, stream: Stream, _fan_in: Any
    ) -> PictureNetwork:
        """In place of a perceptron of these sizes."""
        eye = self.eye
        read = (sizes[0] + self.num_agents * (eye.features - eye.pixels), *sizes[1:])
        return PictureNetwork(eye, read, groups, layer_norm, stream)

    def prepared(self) -> Any:
        return self.mlp.prepare(self.flat(), self.num_critics)

    def forward(self, joint_SBD: Tensor) -> Tensor:
        kernels, inner = self.prepared()
        rows_YBD = self._read(joint_SBD, kernels)
        values = grouped.run(rows_YBD.transpose(1, 2), inner, self.mlp.layer_norm)
        return values.view(-1, self.num_critics, self.num_agents, joint_SBD.shape[1])

    def first_reads(self, joint_SBD: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        kernels, inner = self.mlp.prepare(self.flat()[:, : self.num_agents], 1)
        return self._read(joint_SBD, kernels), inner

    def _read(self, joint_SBD: Tensor, kernels: Kernels) -> Tensor:
        """What the perceptrons of each set of critics read, [S * C, B, D]: features of all pictures, then actions."""
        agents = self.num_agents
        critics = kernels[0][0].shape[1] // agents
        seen = joint_SBD.shape[2] - agents * self.action_size
        obs_SNBO = joint_SBD[..., :seen].unflatten(2, (agents, -1)).transpose(1, 2)
        found_SGBI = self.eye.look(obs_SNBO.repeat(1, critics, 1, 1), kernels)
        rows_SCBD = found_SGBI.unflatten(1, (critics, agents)).transpose(2, 3).flatten(3)
        action_SCBD = joint_SBD[:, None, :, seen:].expand(-1, critics, -1, -1)
        return torch.cat([rows_SCBD, action_SCBD], dim=3).flatten(0, 1)


def actor_of(spec: EnvSpec, config: MADDPGConfig, stream: Stream) -> Actor:
    """The actors of a run, for play: as its learner makes them."""
    kind = PictureActor if spec.picture else RecurrentActor if config.recurrent else Actor
    return kind(spec, config.hidden, config.layer_norm, stream, config.share_actors)
