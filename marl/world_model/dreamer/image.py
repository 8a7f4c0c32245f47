"""The same world model over pictures: the paper's convolutions around the same state space and losses.

A picture is a row of 3 * 64 * 64 numbers in [-0.5, 0.5], channels first, in the place of a joint observation. Its
log-likelihood is that of a unit-variance Gaussian, summed over pixels and channels.

Shape suffixes: S replicas, n rows, J = 3 * 64 * 64 entries, D depth, F features.

Source: Hafner et al. 2021 (DreamerV2, arXiv 2010.02193), appendix: four convolutions of kernel 4 and stride 2, four
transposed ones of kernels 5, 5, 6, 6 and stride 2; widths 48, 96, 192, 384.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from envs.spec import EnvSpec
from envs.streams import Stream
from marl.config.world_model import WorldModelConfig
from marl.world_model.dreamer.model import DreamerModel, Networks
from marl.world_model.layers import Dense
from marl.world_model.sequences import Normaliser

SIZE = 64  # pixels of a side
ENTRIES = 3 * SIZE * SIZE


class Convolution(nn.Module):
    """S convolutions in one: the replicas are the groups of a grouped convolution.

    Args:
        inputs, outputs: channels.
        kernel: side of the kernel; the stride is 2.
        stream: noise of the initial weights; its rows are the replicas.
        transposed: a transposed convolution, which enlarges.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stream: Stream, transposed: bool = False) -> None:
        super().__init__()
        shape = (inputs, outputs) if transposed else (outputs, inputs)
        draws = stream.uniform(*shape, kernel, kernel).flatten(0, 1)
        self.transposed, self.replicas = transposed, len(stream.key_R)
        reach = inputs * kernel * kernel / (4 if transposed else 1)  # inputs that meet in an output
        self.weight = nn.Parameter((draws * 2 - 1) * (3.0 / reach) ** 0.5)
        self.bias = nn.Parameter(draws.new_zeros(self.replicas * outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[n, S * inputs, height, width] to [n, S * outputs, ...]."""
        convolve = F.conv_transpose2d if self.transposed else F.conv2d
        return convolve(x, self.weight, self.bias, stride=2, groups=self.replicas)


class ImageEncoder(nn.Module):
    """Pictures [S, n, J] of so many colours to [S, n, W]."""

    def __init__(self, depth: int, width: int, stream: Stream, colours: int = 3) -> None:
        super().__init__()
        channels = (colours, depth, 2 * depth, 4 * depth, 8 * depth)  # 64 -> 31 -> 14 -> 6 -> 2 pixels of a side
        self.layers = nn.ModuleList(Convolution(channels[k], channels[k + 1], 4, stream) for k in range(4))
        self.out = Dense(8 * depth * 2 * 2, width, stream)

    def forward(self, x_SnJ: Tensor) -> Tensor:
        replicas = len(x_SnJ)
        x = x_SnJ.unflatten(2, (-1, SIZE, SIZE)).transpose(0, 1).flatten(1, 2)
        for layer in self.layers:
            x = F.silu(layer(x))
        return self.out(x.unflatten(1, (replicas, -1)).flatten(2).transpose(0, 1))


class ImageDecoder(nn.Module):
    """Features [S, n, F] to the means of pictures [S, n, J] of so many colours."""

    def __init__(self, features: int, depth: int, stream: Stream, colours: int = 3) -> None:
        super().__init__()
        self.first = Dense(features, 32 * depth, stream)
        channels, kernels = (32 * depth, 4 * depth, 2 * depth, depth, colours), (5, 5, 6, 6)  # 1 -> 5 -> 13 -> 30 -> 64
        self.layers = nn.ModuleList(
            Convolution(channels[k], channels[k + 1], kernels[k], stream, transposed=True) for k in range(4)
        )

    def forward(self, features_SnF: Tensor, *_: Tensor) -> Tensor:
        """Whatever else a decoder is given is not looked at."""
        replicas = len(features_SnF)
        x = self.first(features_SnF).transpose(0, 1).flatten(1)[..., None, None]
        for k, layer in enumerate(self.layers):
            x = layer(x if k == 0 else F.silu(x))
        return x.unflatten(1, (replicas, -1)).flatten(2).transpose(0, 1)


class ImageNetworks(Networks):
    """The vector model's networks with convolutions at both ends."""

    def __init__(
        self,
        action_size: int,
        num_agents: int,
        config: WorldModelConfig,
        stream: Stream,
        depth: int = 48,
        colours: int = 3,
    ) -> None:
        super().__init__(1, action_size, num_agents, replace(config, decoder="state"), stream)
        self.encoder = ImageEncoder(depth, self.rssm.sizes.encoded, stream, colours)
        self.decoder = ImageDecoder(self.rssm.sizes.features, depth, stream, colours)


class PixelLayout:
    """Rows of pixels: every entry is predicted."""

    def __init__(self, spec: EnvSpec) -> None:
        self.spec, self.obs_size, self.dynamic_J = spec, ENTRIES, slice(None)
        self.action_size = sum(head.size for agent in spec.agents for head in agent.heads)


class Unscaled(Normaliser):
    """Pixels keep their scale."""

    def add(self, rows_SEX: Tensor, weight_SE: Tensor) -> None:
        """Nothing: mean 0 and deviation 1 stay."""


def image_model(spec: EnvSpec, config: WorldModelConfig, gamma: float, stream: Stream, depth: int = 48) -> DreamerModel:
    """A world model whose `Sequences.obs` are pictures [S, T, B, J] from `pixels`.

    Args:
        spec: agents and heads.
        config: settings; nx = 1 is the paper's weight of the picture's log-likelihood.
        gamma: discount in the discount head's label.
        stream: noise of the initial weights; its rows are the replicas.
        depth: channels of the first convolution; the paper's is 48.
    """
    layout = PixelLayout(spec)
    config = replace(config, decoder="state")  # as `ImageNetworks` has it: else rewards are of products of pixels
    networks = ImageNetworks(layout.action_size, spec.num_agents, config, stream, depth)
    model = DreamerModel(layout, config, gamma, stream, networks)
    model.obs_scale = Unscaled(len(stream.key_R), ENTRIES, stream.key_R.device)
    return model


def pixels(rendered: np.ndarray) -> Tensor:
    """A rendered frame, uint8 [height, width, 3] of any size, as a row [J] in [-0.5, 0.5]."""
    small = Image.fromarray(np.ascontiguousarray(rendered[..., :3])).resize((SIZE, SIZE), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(small, dtype=np.float32)).permute(2, 0, 1).flatten() / 255.0 - 0.5


def picture(row_J: Tensor) -> np.ndarray:
    """The inverse of `pixels`: uint8 [64, 64, 3]."""
    image = ((row_J.detach().cpu() + 0.5).clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
    return image.view(3, SIZE, SIZE).permute(1, 2, 0).numpy()
