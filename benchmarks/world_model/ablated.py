"""DreamerV2's model with one of its parts taken out, and with the loss in circulation: the arms of `ablations.py`.

No setting of the package: nobody would train with them.

Shape suffixes: S replicas, T frames, B sequences, n rows, J predicted observation entries, U joint action, D recurrent
state, Z latents in one row, L latents, W hidden width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from envs.streams import Stream
from marl.config.world_model import WorldModelConfig
from marl.world_model import losses
from marl.world_model.dreamer.model import DreamerModel, Networks
from marl.world_model.dreamer.rssm import RSSM, Observed, Sizes, State, gated
from marl.world_model.layers import Unrolled
from marl.world_model.layout import Layout


class RecurrentCore(RSSM):
    """h_t = GRU(f[e(x_{t-1}), a_{t-1}], h_{t-1}) and nothing else: no stochastic latents, the state is h alone.

    The encoded observation stands where the latents were, and in imagination that of the decoded one. One latent of one
    class, a constant, is left, so that the KL is 0 and everything else of the model is as it was.

    Source: the purely deterministic transition model, Hafner et al. 2019 (PlaNet, arXiv 1811.04551), section 3. There
    imagination goes on from h alone; here the decoder of changes needs the observation before, which then is at hand.

    Args:
        sizes: widths; one latent of one class.
        stream: noise of the initial weights; its rows are the replicas.
        encode: standardised observations [S, n, J] to [S, n, W].
    """

    def __init__(self, sizes: Sizes, stream: Stream, encode: nn.Module) -> None:
        super().__init__(sizes, stream, "observation")
        self.embed_z = type(self.embed_z)(sizes.encoded, sizes.hidden, stream, bias=False)
        self.encode = encode

    def imagine_step(self, state: State, action_SnU: Tensor, uniform_SnL: Tensor) -> State:
        assert state.obs is not None
        x = F.silu(self.embed_z(F.silu(self.encode(state.obs)), self.embed_a(action_SnU)))
        h = gated(self.cell(torch.cat([x, state.h], dim=-1)), state.h)
        return State(h, self._sample(self.prior(h), uniform_SnL))

    def _observe_observations(
        self, encoded_STBW: Tensor, action_STBU: Tensor, keep_STB1: Tensor, uniform_STBL: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        frames = encoded_STBW.shape[1:3]
        before = torch.cat([torch.zeros_like(encoded_STBW[:, :1]), encoded_STBW[:, :-1]], dim=1) * keep_STB1
        x = F.silu(self.embed_z(before.flatten(1, 2), self.embed_a(action_STBU.flatten(1, 2)))).unflatten(1, frames)
        cell = Unrolled(self.cell.weight, self.cell.repeated_bias(frames))
        h = self.initial(len(encoded_STBW), frames[1], encoded_STBW).h
        hs = []
        for embedded, keep in zip(x.unbind(1), keep_STB1.unbind(1), strict=True):
            h = h * keep
            h = gated(cell(torch.cat([embedded, h], dim=-1)), h)
            hs.append(h)
        constant = torch.ones_like(uniform_STBL)
        return torch.stack(hs, 1), constant, torch.zeros_like(constant)


class LatentCore(RSSM):
    """h_t = GRU(f[z_{t-1}, a_{t-1}], 0): no recurrent state across steps. What is remembered passes through samples.

    Source: the purely stochastic transition model, Hafner et al. 2019 (PlaNet, arXiv 1811.04551), section 3.
    """

    def _carried(self, h_SnD: Tensor) -> Tensor:
        return torch.zeros_like(h_SnD)


class WithoutLatents(Networks):
    """The networks around `RecurrentCore`."""

    def __init__(self, *sizes: int, config: WorldModelConfig, stream: Stream) -> None:
        obs, action, agents = sizes
        super().__init__(obs, action, agents, replace(config, latents=1, classes=1), stream)
        self.rssm = RecurrentCore(self.rssm.sizes, stream, self.encoder)


class WithoutMemory(Networks):
    """The networks around `LatentCore`."""

    def __init__(self, *sizes: int, config: WorldModelConfig, stream: Stream) -> None:
        super().__init__(*sizes, config, stream, LatentCore)


class CirculatedModel(DreamerModel):
    """The KL in the simplified form in circulation: - .08 mean log p(sg z) + .1 mean log sg(q)(z).

    Means over the latents, and neither unimix nor free nats. docs/world_model.md says what is wrong with it.
    """

    NT, NQ = 0.08, 0.1

    def _kl(self, observed: Observed) -> tuple[Tensor, Tensor, Tensor]:
        log_q, log_p = (torch.log_softmax(x, dim=losses.CLASSES) for x in (observed.posterior, observed.prior))
        z = observed.state.z.unflatten(-1, log_q.shape[-2:])
        to_prior = -losses.categorical_log_prob(z.detach(), log_p)
        to_posterior = losses.categorical_log_prob(z, log_q.detach())
        weighted = (self.NT * to_prior + self.NQ * to_posterior) / log_q.shape[-1]
        return weighted / self.config.beta, losses.kl_divergence(log_q, log_p).detach(), log_q


def full(layout: Layout, config: WorldModelConfig, gamma: float, stream: Stream) -> DreamerModel:
    """The model as it is."""
    return DreamerModel(layout, config, gamma, stream)


def without_z(layout: Layout, config: WorldModelConfig, gamma: float, stream: Stream) -> DreamerModel:
    """No stochastic latents."""
    networks = WithoutLatents(*_widths(layout), config=config, stream=stream)
    return DreamerModel(layout, replace(config, latents=1, classes=1), gamma, stream, networks)


def without_h(layout: Layout, config: WorldModelConfig, gamma: float, stream: Stream) -> DreamerModel:
    """No recurrent state across steps."""
    return DreamerModel(layout, config, gamma, stream, WithoutMemory(*_widths(layout), config=config, stream=stream))


def unbalanced(layout: Layout, config: WorldModelConfig, gamma: float, stream: Stream) -> DreamerModel:
    """One KL: prior and posterior pull each other alike."""
    return DreamerModel(layout, replace(config, alpha=0.5), gamma, stream)


def circulated_kl(layout: Layout, config: WorldModelConfig, gamma: float, stream: Stream) -> DreamerModel:
    """The KL in circulation beside the likelihoods with their own weights."""
    return CirculatedModel(layout, config, gamma, stream)


def circulated_loss(layout: Layout, config: WorldModelConfig, gamma: float, stream: Stream) -> DreamerModel:
    """All of the loss in circulation: the observation's error divided by its entries twice, a label of 0 or 1."""
    changed = replace(config, nx=1.0 / layout.obs_size**2, nr=1.0, ng=1.0)
    return CirculatedModel(layout, changed, float(round(gamma)), stream)


def from_state(layout: Layout, config: WorldModelConfig, gamma: float, stream: Stream) -> DreamerModel:
    """Observation and rewards decoded from the state alone, as in the paper."""
    return DreamerModel(layout, replace(config, decoder="state"), gamma, stream)


def _widths(layout: Layout) -> tuple[Any, ...]:
    return layout.obs_size, layout.action_size, layout.spec.num_agents
