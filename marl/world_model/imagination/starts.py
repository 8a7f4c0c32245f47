"""Starts of imagined rollouts between those that were seen.

An exact model still imagines from the episodes that it has stored, and of these there are few: after 2,000 steps, 80
worlds. A critic can tell 80 worlds apart by heart, with what should have been said in each; then messages are not
needed. So every start is moved towards another one in which the same things are said, shown and coloured: entries that
take a few values only (colours, identities, goals) must agree, the others are interpolated. Positions and velocities
relative to anything stay consistent between agents, as they are linear in the world's coordinates. The model's state
is that of this one observation; so a model that remembers starts between stored states only in replicas in which the
gate finds that its memory predicts no better (gate.py), else where an episode has been, with all that it remembers.

Shape suffixes: S replicas, N agents, R rows, O observation, F joint observation, J predicted entries of it, V flags.

Source: mixing pairs of examples by a random share: Zhang et al. 2018 (mixup, arXiv 1710.09412), there with labels;
here of states, whose consequences the model computes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from envs.streams import Stream
from marl.config.world_model import FEW, WorldModelConfig
from marl.world_model.imagination.gate import Gate
from marl.world_model.layout import Layout
from marl.world_model.protocol import WorldModel
from marl.world_model.sequences import FrameStore, Sequences

APART = 1e-6  # values that differ by less are one


class Start(NamedTuple):
    """Where R rollouts of every replica begin."""

    state: Any  # the model's
    obs: Tensor  # [S, N, R, O]
    prev_obs: Tensor  # [S, N, R, O] of the step before; zeros at the first of an episode
    first: Tensor  # bool [S, R] obs is the first of its episode
    valid: Tensor  # bool [S, R] the episode goes on from here
    flags: Tensor  # [S, R, V] who is there, and what is allowed
    memory: Tensor | None = None  # [S, G, R, W] states of recurrent networks before obs; None: they remember nothing


class Starts:
    """Draws starts from stored episodes.

    Args:
        store: the episodes.
        span: frames of the windows in which starts are looked for.
        model: whose states they are.
        gate: whether they are blended.
        layout: of the joint observation.
        config: how many starts.
        stream: of all that is drawn; its rows are the replicas.
        recall: states of recurrent networks before some frames (recall.py), and no start is blended; None: there are
            none.
    """

    def __init__(
        self,
        store: FrameStore,
        span: int,
        model: WorldModel,
        gate: Gate,
        layout: Layout,
        config: WorldModelConfig,
        stream: Stream,
        recall: Callable[[Sequences, Tensor], Tensor] | None = None,
    ) -> None:
        self._recall = recall
        self._store, self._span, self._model, self._gate, self._layout = store, span, model, gate, layout
        self._config, self._stream = config, stream

    def draw(self) -> Start:
        """R starts of every replica."""
        config, stream = self._config, self._stream
        count = max(config.size("sequences"), -(-2 * config.size("starts") // self._span))
        seq = self._store.windows(self._span, count, stream)
        cut_STB = seq.first & ~seq.opens  # in mid-episode, and the frame before is not in the window
        open_SX = (seq.valid & ~seq.last & ~cut_STB).flatten(1, 2)
        order = stream.uniform(open_SX.shape[1]) + ~open_SX
        index_SR = order.argsort(1)[:, : config.size("starts")]
        s = torch.arange(len(index_SR), device=index_SR.device)[:, None]
        first_SR, open_SR = seq.first.flatten(1, 2)[s, index_SR], open_SX.gather(1, index_SR)
        every = self._layout.flags.acted_on(seq.obs, seq.flags).flatten(1, 2)
        obs, flags = every[s, index_SR], seq.flags.flatten(1, 2)[s, index_SR]
        before = every[s, (index_SR - seq.first.shape[2]).clamp(min=0)] * ~first_SR[..., None]
        memory = None if self._recall is None else self._recall(seq, index_SR)
        use_S = self._gate.blended_S
        if bool(use_S.any()):
            moved, moved_before = self._blended(obs, before, flags, first_SR + 2 * open_SR)
            frames = seq.single_frames().pick(index_SR)
            state = self._model.observe(replace(frames, obs=moved[:, None]), stream)
            obs, before = (torch.where(use_S[:, None, None], *pair) for pair in ((moved, obs), (moved_before, before)))
        if not bool(use_S.all()):  # reading whole windows costs a model that remembers most of a draw
            stored = self._model.observe(seq, stream).pick(index_SR)
            state = stored.where(use_S, state) if bool(use_S.any()) else stored
        return Start(state, self._layout.split(obs), self._layout.split(before), first_SR, open_SR, flags, memory)

    def _blended(
        self, obs_SRF: Tensor, before_SRF: Tensor, flags_SRV: Tensor, kind_SR: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Every row moved towards a partner's of the same flags, by a share of its own; messages stay."""
        count, entries = obs_SRF.shape[1], self._layout.dynamic_J
        order_SR = self._stream.uniform(count).argsort(1)
        partner_SR = partners(torch.cat([obs_SRF[..., entries], flags_SRV], dim=2), kind_SR, order_SR)
        share_SR1 = self._stream.uniform(count, 1)
        s = torch.arange(len(partner_SR), device=partner_SR.device)[:, None]

        def moved(rows_SRF: Tensor) -> Tensor:
            own = rows_SRF[..., entries]
            return rows_SRF.index_copy(2, entries, own + share_SR1 * (rows_SRF[s, partner_SR][..., entries] - own))

        return moved(obs_SRF), moved(before_SRF)


def partners(rows_SRJ: Tensor, kind_SR: Tensor, order_SR: Tensor) -> Tensor:
    """For every row another one that agrees with it in kind and in all entries that take few values; itself where
    there is none. Int [S, R].

    Args:
        rows_SRJ: observations.
        kind_SR: integers; only rows of the same kind may be partners.
        order_SR: a random permutation of the rows; it decides who meets whom.
    """
    values = rows_SRJ.sort(dim=1).values
    distinct_SJ = 1 + (values.diff(dim=1) > APART).sum(1)
    symbols = rows_SRJ.double() * (distinct_SJ <= FEW)[:, None]
    key_SR = _key(torch.cat([symbols, kind_SR[..., None].double()], dim=2))
    shuffled = key_SR.gather(1, order_SR)
    sorted_SR, place_SR = shuffled.sort(dim=1, stable=True)
    row_SR = order_SR.gather(1, place_SR)  # rows of equal keys side by side, in random order
    after_SR = torch.where(sorted_SR == sorted_SR.roll(-1, 1), row_SR.roll(-1, 1), row_SR)
    return torch.empty_like(row_SR).scatter(1, row_SR, after_SR)


def _key(rows_SRX: Tensor) -> Tensor:
    """An integer for every row, equal for equal rows and, but for chance, different for others."""
    weights_X = torch.arange(1, rows_SRX.shape[2] + 1, dtype=torch.float64, device=rows_SRX.device).sqrt()
    return ((rows_SRX / APART).round() * weights_X).sum(2).round().long()
