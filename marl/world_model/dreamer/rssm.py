"""The recurrent state-space model with categorical latents: h_t = GRU(f[z_{t-1}, a_{t-1}], h_{t-1}).

    prior      p(z_t | h_t)            discount  p(gamma_t | h_t, z_t)
    posterior  q(z_t | h_t, x_t)       reward    p(r_t | h_t, z_t)     observation p(x_t | h_t, z_t)

Only what depends on the step before runs step by step; encoder, prior, decoder and heads run once over all frames.

Shape suffixes: S replicas, T frames, B sequences, n = rows (any flattening of T and B), X observation, U joint
action, N agents, D recurrent state, Z = C * L latents (classes before latents, see losses.py), M members of the
ensemble, W hidden width.

Source: Hafner et al. 2021, "Mastering Atari with discrete world models" (DreamerV2, arXiv 2010.02193), section 2.1.
Differs from source: SiLU as in DreamerV3 (2301.04104) instead of ELU; some small
prior heads beside the prior that learn from the posterior and only measure disagreement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from envs.streams import Stream
from marl.world_model.layers import MLP, Dense, Unrolled
from marl.world_model.losses import CLASSES, straight_through


@dataclass
class State:
    """Where the model believes that the environments are."""

    h: Tensor  # [S, ..., D] recurrent, deterministic
    z: Tensor  # [S, ..., Z] one-hots of the latents side by side
    obs: Tensor | None = None  # [S, n, J] standardised, as it was seen or decoded; None within the state space

    @property
    def features(self) -> Tensor:
        return torch.cat([self.z, self.h], dim=-1)

    def flatten(self) -> State:
        """[S, T, B, ·] to [S, T * B, ·]."""
        return State(self.h.flatten(1, 2), self.z.flatten(1, 2))

    def pick(self, index_SR: Tensor) -> State:
        """Rows `index_SR` of each replica's [S, n, ·]."""
        s = torch.arange(len(index_SR), device=index_SR.device)[:, None]
        return State(self.h[s, index_SR], self.z[s, index_SR], None if self.obs is None else self.obs[s, index_SR])

    def where(self, use_S: Tensor, other: State) -> State:
        """This state, and `other` in the replicas of `use_S`."""
        use = use_S[:, None, None]
        obs = None if self.obs is None or other.obs is None else torch.where(use, other.obs, self.obs)
        return State(torch.where(use, other.h, self.h), torch.where(use, other.z, self.z), obs)


@dataclass
class Observed:
    """What reading sequences gives."""

    state: State  # posterior states [S, T, B, ·]
    posterior: Tensor  # logits [S, T, B, C, L]
    prior: Tensor  # logits [S, T, B, C, L]


@dataclass(frozen=True)
class Sizes:
    """Widths of a recurrent state-space model."""

    encoded: int  # width of the encoder's output
    action: int  # U
    deter: int  # D
    latents: int  # L
    classes: int  # C
    hidden: int  # W
    ensemble: int = 3  # M small prior heads, whose disagreement measures uncertainty
    ensemble_hidden: int = 64

    @property
    def stoch(self) -> int:
        return self.latents * self.classes

    @property
    def features(self) -> int:
        return self.stoch + self.deter


class RSSM(nn.Module):
    """The state-space core: everything between an encoder and the decoders.

    Args:
        sizes: widths.
        stream: noise of the initial weights; its rows are the replicas.
        posterior: "state" reads [h, encoded observation], "observation" the encoded observation alone.
    """

    def __init__(self, sizes: Sizes, stream: Stream, posterior: Literal["state", "observation"] = "state") -> None:
        super().__init__()
        self.sizes, self.posterior_sees = sizes, posterior
        w, d, z = sizes.hidden, sizes.deter, sizes.stoch
        self.embed_z = Dense(z, w, stream, bias=False)
        self.embed_a = Dense(sizes.action, w, stream)
        self.cell = Dense(w + d, 3 * d, stream)
        self.posterior_e = Dense(sizes.encoded, w, stream)
        self.posterior_h = Dense(d, w, stream, bias=False) if posterior == "state" else None
        self.posterior_out = Dense(w, z, stream)
        self.prior = MLP((d, w, z), stream)
        self.ensemble = MLP((d, sizes.ensemble_hidden, z), stream, groups=sizes.ensemble)

    @property
    def noise_size(self) -> int:
        """Numbers in (0, 1) that a step takes per row."""
        return self.sizes.latents

    @property
    def features(self) -> int:
        """Width of `State.features`."""
        return self.sizes.features

    # ---------------------------------------------------------------- one step
    def initial(self, replicas: int, rows: int, like: Tensor) -> State:
        """The state before an episode: zeros."""
        return State(like.new_zeros(replicas, rows, self.sizes.deter), like.new_zeros(replicas, rows, self.sizes.stoch))

    def _sample(self, logits_SnZ: Tensor, uniform_SnL: Tensor) -> Tensor:
        """Straight-through one-hots [S, n, Z] of logits [S, n, Z]."""
        logits = logits_SnZ.unflatten(-1, (self.sizes.classes, self.sizes.latents))
        return straight_through(torch.softmax(logits, dim=CLASSES), uniform_SnL).flatten(-2)

    def _carried(self, h_SnD: Tensor) -> Tensor:
        """What of the recurrent state goes on to the next step: all of it."""
        return h_SnD

    def imagine_step(self, state: State, action_SnU: Tensor, uniform_SnL: Tensor) -> State:
        """One step of the prior: the state after `action_SnU`, its latents sampled by noise in (0, 1)."""
        x, before = F.silu(self.embed_z(state.z, self.embed_a(action_SnU))), self._carried(state.h)
        h = gated(self.cell(torch.cat([x, before], dim=-1)), before)
        return State(h, self._sample(self.prior(h), uniform_SnL))

    def ensemble_logits(self, h_SnD: Tensor) -> Tensor:
        """Logits [S, M, n, C, L] of the small prior heads whose disagreement measures uncertainty; no gradient to h."""
        m = self.sizes.ensemble
        inputs = h_SnD.detach()[:, None].expand(-1, m, -1, -1).flatten(0, 1)
        return self.ensemble(inputs).unflatten(0, (-1, m)).unflatten(-1, (self.sizes.classes, self.sizes.latents))

    # -------------------------------------------------------------- sequences
    def observe(self, encoded_STBW: Tensor, action_STBU: Tensor, first_STB: Tensor, uniform_STBL: Tensor) -> Observed:
        """Posterior states over sequences, from zeros wherever an episode begins.

        Args:
            encoded_STBW: encoded observations.
            action_STBU: the action *before* each observation; that of an episode's first frame is ignored.
            first_STB: bool, the frame is the first of its episode.
            uniform_STBL: noise in (0, 1).
        """
        keep_STB1 = (~first_STB)[..., None].to(encoded_STBW.dtype)
        action_STBU = action_STBU * keep_STB1
        if self.posterior_sees == "state":
            h, z, posterior = self._observe_states(encoded_STBW, action_STBU, keep_STB1, uniform_STBL)
        else:
            h, z, posterior = self._observe_observations(encoded_STBW, action_STBU, keep_STB1, uniform_STBL)
        latent = (self.sizes.classes, self.sizes.latents)
        prior = self.prior(h.flatten(1, 2)).unflatten(1, h.shape[1:3])
        return Observed(State(h, z), posterior.unflatten(-1, latent), prior.unflatten(-1, latent))

    def _observe_states(
        self, encoded_STBW: Tensor, action_STBU: Tensor, keep_STB1: Tensor, uniform_STBL: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The paper's posterior: h, then z given h and the observation, step by step."""
        assert self.posterior_h is not None
        frames = encoded_STBW.shape[1:3]
        from_obs = self.posterior_e(encoded_STBW.flatten(1, 2)).unflatten(1, frames)
        from_action = self.embed_a(action_STBU.flatten(1, 2)).unflatten(1, frames)
        embed = Unrolled(self.embed_z.weight, from_action)
        cell = Unrolled(self.cell.weight, self.cell.repeated_bias(frames))
        hidden = Unrolled(self.posterior_h.weight, from_obs)
        out = Unrolled(self.posterior_out.weight, self.posterior_out.repeated_bias(frames))
        state = self.initial(len(encoded_STBW), frames[1], encoded_STBW)
        h, z, hs, zs, posterior = state.h, state.z, [], [], []
        for keep, uniform in zip(keep_STB1.unbind(1), uniform_STBL.unbind(1), strict=True):
            x, h = F.silu(embed(z * keep)), self._carried(h) * keep
            h = gated(cell(torch.cat([x, h], dim=-1)), h)
            logits = out(F.silu(hidden(h)))
            z = self._sample(logits, uniform)
            hs.append(h)
            zs.append(z)
            posterior.append(logits)
        return torch.stack(hs, 1), torch.stack(zs, 1), torch.stack(posterior, 1)

    def _observe_observations(
        self, encoded_STBW: Tensor, action_STBU: Tensor, keep_STB1: Tensor, uniform_STBL: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """z from the observation alone, for all frames at once; only the cell runs step by step."""
        frames, width = encoded_STBW.shape[1:3], self.sizes.hidden
        posterior = self.posterior_out(F.silu(self.posterior_e(encoded_STBW.flatten(1, 2))))
        z_STBZ = self._sample(posterior, uniform_STBL.flatten(1, 2)).unflatten(1, frames)
        before = torch.cat([torch.zeros_like(z_STBZ[:, :1]), z_STBZ[:, :-1]], dim=1) * keep_STB1
        x = F.silu(self.embed_z(before.flatten(1, 2), self.embed_a(action_STBU.flatten(1, 2))))
        x = torch.bmm(x, self.cell.weight[:, :width]).unflatten(1, frames)
        from_x = x + self.cell.repeated_bias(frames)
        cell = Unrolled(self.cell.weight[:, width:], from_x)
        h = self.initial(len(encoded_STBW), frames[1], encoded_STBW).h
        hs = []
        for keep in keep_STB1.unbind(1):
            h = h * keep
            h = gated(cell(h), h)
            hs.append(h)
        return torch.stack(hs, 1), z_STBZ, posterior.unflatten(1, frames)


def gated(gates_SnG: Tensor, h_SnD: Tensor) -> Tensor:
    """The GRU's new state from its gates' pre-activations [S, n, 3 D], normalised together, and the old state.

    Source: the GRU cell of DreamerV2's code: layer normalisation, and an update gate that starts closed.
    """
    reset, candidate, update = F.layer_norm(gates_SnG, gates_SnG.shape[-1:]).chunk(3, dim=-1)
    candidate = torch.tanh(torch.sigmoid(reset) * candidate)
    return torch.lerp(h_SnD, candidate, torch.sigmoid(update - 1.0))
