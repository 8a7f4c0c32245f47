"""A state for every agent in place of one for all: the recurrent state-space model in factors (`wm.factors agent`).

Agent n has its own h_n and z_n, reads its own part of the observation in its posterior, and decodes its own part of the
observation, its own discount and (`wm.decoder state`) its own reward. From step to step agents learn of one another:
the recurrent cell reads, beside the agent's own [z_n, a_n], what attention over all agents' [z, a, h] picks out.

    x_n = f[z_n, a_n, n]        c_n = attention over k of [x_k, h_k]        h'_n = GRU([x_n, c_n], h_n)

All weights are shared by all agents, which are told who they are; agents are a dimension of the rows. What leaves this
file is joint: z, h and logits of all agents side by side, so that losses, gate and rollouts need not know of factors.

Shape suffixes: S replicas, T frames, B sequences, n rows, N agents, J predicted observation entries, U joint action, D
recurrent states, Z = C * N * L latents (classes, agents, latents), L latents, C classes, M prior heads, W hidden width.

Inside, a row of an agent is one of n * N, and all widths are those of one agent.

Source: Egorov and Shpilman 2022 (MAMBA, arXiv 2205.15023), whose transition passes [z_n, a_n] of all agents through
attention into a GRU that they share. Aggregation over agents also in Zhang et al. 2024 (MARIE, arXiv 2406.15836).
Differs from MAMBA: one layer of attention, without dropout, beside the agent's own input and not in its place, which
also reads h; agents are told who they are, as they need not be alike; the linear part of the decoder of changes is that
of the joint model. Differs from MARIE: a recurrent state instead of a transformer over tokens of a learned codebook,
and attention among agents instead of a Perceiver. MATWM (Deihim et al. 2025, arXiv 2506.18537) lets an agent's model
see that agent alone and predict its teammates' actions; here all actions are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from envs.streams import Stream
from marl.config.world_model import WorldModelConfig
from marl.errors import UserError
from marl.world_model.dreamer.model import Networks, ObsLayout
from marl.world_model.dreamer.rssm import RSSM, Observed, Sizes, State, gated
from marl.world_model.flags import Flags
from marl.world_model.layers import MLP, Dense, Unrolled

HEADS = 4  # of attention
ATTENDED = 64  # width of all heads' values


class Parts:
    """Which entries of the joint observation and action are whose.

    Args:
        layout: of vectors.
    """

    def __init__(self, layout: ObsLayout) -> None:
        spec, device = layout.spec, layout.dynamic_J.device
        self.agents = spec.num_agents
        whose = [n for n, agent in enumerate(spec.agents) for _ in range(agent.obs_size)]
        self._obs = _Split([whose[j] for j in layout.dynamic_J.tolist()], self.agents, device)
        acts = [n for n, agent in enumerate(spec.agents) for _ in range(agent.choices)]
        self._action = _Split(acts, self.agents, device)
        self.obs_width, self.action_width = self._obs.width, self._action.width

    def obs(self, obs_SnJ: Tensor) -> Tensor:
        """[S, n, J] to rows of agents [S, n * N, obs_width], with zeros behind narrower observations."""
        return self._obs(obs_SnJ)

    def action(self, action_SnU: Tensor) -> Tensor:
        """[S, n, U] to rows of agents [S, n * N, action_width]."""
        return self._action(action_SnU)

    def joint_obs(self, rows: Tensor) -> Tensor:
        """The inverse of `obs`."""
        return side_by_side(rows, self.agents).index_select(2, self._obs.back)

    def named(self, rows: Tensor) -> Tensor:
        """Rows of agents [S, n * N, ·] with a one-hot of who it is behind them."""
        who = torch.eye(self.agents, dtype=rows.dtype, device=rows.device)
        who = who.repeat(rows.shape[1] // self.agents, 1).expand(len(rows), -1, -1)
        return torch.cat([rows, who], dim=2)


class _Split:
    """Columns dealt out to agents, each padded to the widest share by a column of zeros."""

    def __init__(self, whose: Sequence[int], agents: int, device: torch.device) -> None:
        shares = [[j for j, owner in enumerate(whose) if owner == n] for n in range(agents)]
        self.agents, self.width = agents, max(1, *map(len, shares))
        padded = [share + [len(whose)] * (self.width - len(share)) for share in shares]
        back = [n * self.width + shares[n].index(j) for j, n in enumerate(whose)]
        self.index = torch.tensor(padded, device=device).flatten()
        self.back = torch.tensor(back, dtype=torch.int64, device=device)

    def __call__(self, x: Tensor) -> Tensor:
        with_zero = torch.cat([x, x.new_zeros(*x.shape[:2], 1)], dim=2)
        return apart(with_zero.index_select(2, self.index), self.agents)


def apart(x: Tensor, agents: int) -> Tensor:
    """[S, n, N * ·] to rows of agents [S, n * N, ·]."""
    return x.unflatten(2, (agents, -1)).flatten(1, 2)


def side_by_side(rows: Tensor, agents: int) -> Tensor:
    """Rows of agents [S, n * N, ·] to [S, n, N * ·]."""
    return rows.unflatten(1, (-1, agents)).flatten(2)


def rows_of(state: State, classes: int, agents: int) -> State:
    """A joint state [S, n, ·] as rows of agents [S, n * N, ·]."""
    z = state.z.unflatten(2, (classes, agents, -1)).transpose(2, 3)
    return State(apart(state.h, agents), z.flatten(1, 2).flatten(2))


class AgentRSSM(RSSM):
    """The state-space core in factors. States, logits and noise that it takes and gives are joint.

    Args:
        sizes: widths of one agent's state, but for `encoded`, one agent's, and `action`, which is not looked at.
        stream: noise of the initial weights; its rows are the replicas.
        posterior: as in `RSSM`.
        parts: whose is what.
    """

    def __init__(
        self, sizes: Sizes, stream: Stream, posterior: Literal["state", "observation"] = "state", *, parts: Parts
    ) -> None:
        super().__init__(replace(sizes, action=parts.action_width), stream, posterior)
        w, d = sizes.hidden, sizes.deter
        self.parts, self.agents = parts, parts.agents
        self.who = Dense(self.agents, w, stream, bias=False)
        self.attention = Dense(w + d, 3 * ATTENDED, stream)
        self.cell = Dense(w + ATTENDED + d, 3 * d, stream)

    @property
    def noise_size(self) -> int:
        return self.agents * self.sizes.latents

    @property
    def features(self) -> int:
        return self.agents * self.sizes.features

    # ------------------------------------------------------- joint tensors and rows
    def _joint(self, rows: State) -> State:
        """The inverse of `rows_of`."""
        z = rows.z.unflatten(2, (self.sizes.classes, self.sizes.latents))
        return State(side_by_side(rows.h, self.agents), self._joint_classes(z, 1).flatten(2))

    def _joint_classes(self, x: Tensor, rows: int) -> Tensor:
        """[..., n * N, C, L], the rows being dimension `rows`, to [..., n, C, N * L]."""
        return x.unflatten(rows, (-1, self.agents)).transpose(-3, -2).flatten(-2)

    def _latents(self, uniform: Tensor) -> Tensor:
        """Noise [S, n, N * L] as rows of agents."""
        return apart(uniform, self.agents)

    # ---------------------------------------------------------------- one step
    def imagine_step(self, state: State, action_SnU: Tensor, uniform_SnL: Tensor) -> State:
        before, action = rows_of(state, self.sizes.classes, self.agents), self.parts.action(action_SnU)
        names = self.who.weight.repeat(1, action_SnU.shape[1], 1)
        x = F.silu(self.embed_z(before.z, self.embed_a(action) + names))
        heard = self._heard(self.attention(torch.cat([x, before.h], dim=-1)))
        h = gated(self.cell(torch.cat([x, heard, before.h], dim=-1)), before.h)
        return self._joint(State(h, self._sample(self.prior(h), self._latents(uniform_SnL))))

    def _heard(self, queries: Tensor) -> Tensor:
        """Queries, keys and values of rows of agents [S, n * N, 3 * ATTENDED] to what each attends to, ATTENDED."""
        split = queries.unflatten(2, (3, HEADS, -1)).unflatten(1, (-1, self.agents))
        query, key, value = split.permute(3, 0, 1, 4, 2, 5)  # [S, n, HEADS, N, ·]
        heard = F.scaled_dot_product_attention(query, key, value)
        return heard.transpose(2, 3).flatten(1, 2).flatten(2)

    def ensemble_logits(self, h_SnD: Tensor) -> Tensor:
        return self._joint_classes(super().ensemble_logits(apart(h_SnD, self.agents)), 2)

    # -------------------------------------------------------------- sequences
    def observe(self, encoded_STBW: Tensor, action_STBU: Tensor, first_STB: Tensor, uniform_STBL: Tensor) -> Observed:
        frames = first_STB.shape[1:]

        def rows(x: Tensor) -> Tensor:
            return x.unflatten(1, (frames[0], -1))

        seen = super().observe(
            rows(apart(encoded_STBW.flatten(1, 2), self.agents)),
            rows(self.parts.action(action_STBU.flatten(1, 2))),
            first_STB.repeat_interleave(self.agents, 2),
            rows(self._latents(uniform_STBL.flatten(1, 2))),
        )
        state = self._joint(seen.state.flatten())
        return Observed(
            State(state.h.unflatten(1, frames), state.z.unflatten(1, frames)),
            self._joint_classes(seen.posterior, 2),
            self._joint_classes(seen.prior, 2),
        )

    def _observe_states(
        self, encoded_STBW: Tensor, action_STBU: Tensor, keep_STB1: Tensor, uniform_STBL: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Both posteriors, step by step, on rows of agents: B counts sequences times agents."""
        frames = encoded_STBW.shape[1:3]
        from_obs = self.posterior_e(encoded_STBW.flatten(1, 2)).unflatten(1, frames)
        names = self.who.weight.repeat(1, frames[1] // self.agents, 1)
        from_action = self.embed_a(action_STBU.flatten(1, 2)).unflatten(1, frames) + names[:, None]
        embed = Unrolled(self.embed_z.weight, from_action)
        attend = Unrolled(self.attention.weight, self.attention.repeated_bias(frames))
        cell = Unrolled(self.cell.weight, self.cell.repeated_bias(frames))
        hidden = None if self.posterior_h is None else Unrolled(self.posterior_h.weight, from_obs)
        out = Unrolled(self.posterior_out.weight, self.posterior_out.repeated_bias(frames))
        state = self.initial(len(encoded_STBW), frames[1], encoded_STBW)
        h, z, hs, zs, posterior = state.h, state.z, [], [], []
        for t, (keep, uniform) in enumerate(zip(keep_STB1.unbind(1), uniform_STBL.unbind(1), strict=True)):
            x, h = F.silu(embed(z * keep)), h * keep
            heard = self._heard(attend(torch.cat([x, h], dim=-1)))
            h = gated(cell(torch.cat([x, heard, h], dim=-1)), h)
            logits = out(F.silu(from_obs[:, t] if hidden is None else hidden(h)))
            z = self._sample(logits, uniform)
            hs.append(h)
            zs.append(z)
            posterior.append(logits)
        return torch.stack(hs, 1), torch.stack(zs, 1), torch.stack(posterior, 1)

    _observe_observations = _observe_states


class AgentEncoder(nn.Module):
    """Joint observations [S, n, J] to every agent's own encoding, [S, n, N * W]."""

    def __init__(self, parts: Parts, hidden: Sequence[int], stream: Stream) -> None:
        super().__init__()
        self.parts, self.shared = parts, MLP((parts.obs_width + parts.agents, *hidden), stream)

    def forward(self, obs_SnJ: Tensor) -> Tensor:
        return side_by_side(self.shared(self.parts.named(self.parts.obs(obs_SnJ))), self.parts.agents)


class AgentHead(nn.Module):
    """Joint features to a number of every agent, [S, n, N], or to the joint observation, [S, n, J]: of agent n from its
    own state and who it is.

    Args:
        core: how states are laid out.
        hidden: widths of the hidden layers.
        stream: noise of the initial weights; its rows are the replicas.
        observes: whether the observation is what it gives.
    """

    def __init__(self, core: AgentRSSM, hidden: Sequence[int], stream: Stream, observes: bool = False) -> None:
        super().__init__()
        self.observes, self.parts, self._widths = observes, core.parts, (core.sizes.classes, core.sizes.latents)
        width = core.parts.obs_width if observes else 1
        self.shared = MLP((core.sizes.features + core.agents, *hidden, width), stream)

    def forward(self, features: Tensor) -> Tensor:
        (classes, latents), agents = self._widths, self.parts.agents
        z, h = features.tensor_split([classes * agents * latents], dim=2)
        rows = self.shared(self.parts.named(rows_of(State(h, z), classes, agents).features))
        return self.parts.joint_obs(rows) if self.observes else side_by_side(rows, agents)


class AgentNetworks(Networks):
    """The networks around `AgentRSSM`.

    Args:
        layout: of vectors.
        config: settings; all widths are those of one agent's state.
        stream: noise of the initial weights; its rows are the replicas.
    """

    def __init__(self, layout: ObsLayout, config: WorldModelConfig, stream: Stream) -> None:
        parts = Parts(layout)
        core = partial(AgentRSSM, parts=parts)
        super().__init__(layout.obs_size, layout.action_size, parts.agents, config, stream, core)
        assert isinstance(self.rssm, AgentRSSM)
        hidden = [config.size("hidden")] * config.layers
        self.encoder = AgentEncoder(parts, hidden, stream)
        self.decoder.state = AgentHead(self.rssm, hidden, stream, observes=True)
        if config.decoder == "state":
            self.reward.state = AgentHead(self.rssm, hidden, stream)
        self.discount = AgentHead(self.rssm, hidden, stream)


def networks_of(layout: ObsLayout, config: WorldModelConfig, stream: Stream) -> Networks | None:
    """The networks of a state for every agent, their weights drawn from `stream`, whose rows are the replicas; None
    where `config.factors` asks for one state, which `DreamerModel` makes by itself.

    Raises:
        UserError: agents leave or choices are masked, which only one state of all tells.
    """
    if config.factors == "joint":
        return None
    if Flags(layout.spec).size:
        raise UserError(
            f"--wm.factors agent: agents of {layout.spec.id!r} may leave or have masks, which only --wm.factors joint "
            "imagines."
        )
    return AgentNetworks(layout, config, stream)
