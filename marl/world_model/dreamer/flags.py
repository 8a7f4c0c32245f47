"""The alive head and the mask head: who is there after a step, and what is allowed then.

    alive      Bernoulli(a_n; .)     one per agent, where agents may leave
    mask       Bernoulli(m_u; .)     one per choice, where choices may be forbidden; only of agents that are there

Both read [h_t, z_t, x_t, flags_{t-1}], where x_t has the mean for agents that were gone before. The flags before a step
also stand with the action before it, so that the state remembers them. A frame's own flags are not seen by the
posterior: heads of the posterior's state would copy them from there, and know nothing of them in imagination.

Shape suffixes: S replicas, T frames, B sequences, n rows, X features of the state, J predicted observation entries,
U joint action, N agents, V flags.

Source: the discount predictor of Hafner et al. 2021 (DreamerV2, arXiv 2010.02193), equation 2, a Bernoulli likelihood
on the state. Masks that are learned for imagined play: MuZero (Schrittwieser et al. 2020, 1911.08265) masks at the root
alone and leaves the rest to the policy.
Differs from source: one per agent or choice; they also read the decoded observation and the flags before. A flag is
the more probable of its two values, as an imagined end is, and is not sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from envs.streams import Stream
from marl.world_model import losses
from marl.world_model.dreamer.rssm import State
from marl.world_model.flags import Flags
from marl.world_model.layers import MLP
from marl.world_model.sequences import Sequences


class FlagHeads(nn.Module):
    """Logits of all flags.

    Args:
        entries: of the input: X + J + V.
        hidden: widths of the hidden layers.
        flags: V.
        stream: noise of the initial weights; its rows are the replicas.
    """

    def __init__(self, entries: int, hidden: Sequence[int], flags: int, stream: Stream) -> None:
        super().__init__()
        self.state = MLP((entries, *hidden, flags), stream)

    def forward(self, features_SnX: Tensor, obs_SnJ: Tensor, before_SnV: Tensor) -> Tensor:
        """Logits [S, n, V]; in `obs_SnJ` entries of agents that were gone before are 0."""
        logits: Tensor = self.state(torch.cat([features_SnX, obs_SnJ, before_SnV], dim=-1))
        return logits


@dataclass
class FlaggedState(State):
    """A state with the flags that the next action is chosen by."""

    flags: Tensor | None = None  # [S, n, V]

    @classmethod
    def of(cls, state: State, flags_SnV: Tensor) -> FlaggedState:
        """`state` with flags beside it."""
        return cls(**{**vars(state), "flags": flags_SnV})

    def pick(self, index_SR: Tensor) -> FlaggedState:
        s = torch.arange(len(index_SR), device=index_SR.device)[:, None]
        assert self.flags is not None
        return FlaggedState.of(super().pick(index_SR), self.flags[s, index_SR])

    def where(self, use_S: Tensor, other: State) -> FlaggedState:
        """This state, and `other` in the replicas of `use_S`."""
        assert self.flags is not None and isinstance(other, FlaggedState) and other.flags is not None
        flags = torch.where(use_S[:, None, None], other.flags, self.flags)
        return FlaggedState.of(super().where(use_S, other), flags)


def flags_before(seq: Sequences) -> Tensor:
    """The flags of the frame before, [S, T, B, V]; zeros at an episode's first frame."""
    before = torch.cat([torch.zeros_like(seq.flags[:, :1]), seq.flags[:, :-1]], dim=1)
    return before * ~seq.first[..., None]


def informed(seq: Sequences) -> Tensor:
    """The action before each frame and the flags that it was chosen by, [S, T, B, U + V]."""
    return torch.cat([seq.action, flags_before(seq)], dim=-1) if seq.flags.shape[-1] else seq.action


class FlagReading:
    """What the model does with flags beside its heads' parameters.

    Args:
        flags: tables.
        dynamic_J: index of the predicted entries in a row of all entries.
        gamma: the learner's discount.
    """

    def __init__(self, flags: Flags, dynamic_J: Tensor, gamma: float) -> None:
        self.flags, self._dynamic_J, self._gamma = flags, dynamic_J, gamma

    def _own(self, obs_SnJ: Tensor, before_SnV: Tensor) -> Tensor:
        """What the heads read of an observation: entries of the agents that acted."""
        if not self.flags.agents:
            return obs_SnJ
        return obs_SnJ * self.flags.shown(before_SnV, before_SnV, self._dynamic_J)

    def log_prob(self, heads: FlagHeads, features_SnX: Tensor, obs_SnJ: Tensor, seq: Sequences) -> Tensor:
        """Log-likelihood of every frame's flags, those of choices only of agents that are there, [S, T * B].

        Args:
            heads: their logits have the gradient.
            features_SnX: of the posterior states.
            obs_SnJ: standardised observations.
            seq: the frames; an episode's first, or a window's, has no flags before it and should not count.
        """
        truth, before = seq.flags.flatten(1, 2), flags_before(seq).flatten(1, 2)
        logits = heads(features_SnX, self._own(obs_SnJ, before), before)
        log_SnV = losses.bernoulli_log_prob(truth, logits)
        n = self.flags.agents
        if n and self.flags.choices:
            there_SnU = truth[..., :n].index_select(2, self.flags.agent_U)
            return log_SnV[..., :n].sum(2) + (log_SnV[..., n:] * there_SnU).sum(2)
        return log_SnV.sum(2)

    def without_absent(self, mean_SnJ: Tensor, obs_SnJ: Tensor, seq: Sequences) -> Tensor:
        """Decoded means, with the truth in entries of agents that are gone: they are zeros and need not be learned."""
        if not self.flags.agents:
            return mean_SnJ
        before, after = flags_before(seq).flatten(1, 2), seq.flags.flatten(1, 2)
        return torch.where(self.flags.shown(before, after, self._dynamic_J), mean_SnJ, obs_SnJ)

    def paid(self, reward_SnN: Tensor, before_SnV: Tensor) -> Tensor:
        """Rewards of the agents that acted; others have none."""
        n = self.flags.agents
        return reward_SnN * (before_SnV[..., :n] > 0.5) if n else reward_SnN

    def settled(
        self,
        heads: FlagHeads,
        features_SnX: Tensor,
        seen_SnJ: Tensor,
        nothing_SnJ: Tensor,
        discount_SnN: Tensor,
        before_SnV: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What a step of imagination leads to: flags, the observation and the discount of those who are there.

        Flags are 0 or 1, the more probable value; an agent whose episode ends is gone; each head of an agent has a
        choice, the most probable one where none is more probable than not.

        Args:
            heads: averaged.
            features_SnX: of the state after the action.
            seen_SnJ: the decoded observation, standardised.
            nothing_SnJ: an observation of zeros, standardised: what is seen of agents that are gone.
            discount_SnN: predicted.
            before_SnV: flags before the step.
        """
        flags, n = self.flags, self.flags.agents
        logits = heads(features_SnX, self._own(seen_SnJ, before_SnV), before_SnV).detach()
        parts = []
        if n:
            acted = before_SnV[..., :n] > 0.5
            ended = acted & (discount_SnN < 0.5 * self._gamma)
            parts.append((logits[..., :n] > 0) & ~ended)
            discount_SnN = discount_SnN * acted
        if flags.choices:
            parts.append(flags.some(logits[..., n:]))
        after = torch.cat(parts, dim=2).to(logits.dtype)
        if n:
            seen_SnJ = torch.where(flags.shown(before_SnV, after, self._dynamic_J), seen_SnJ, nothing_SnJ)
        return after, seen_SnJ, discount_SnN
