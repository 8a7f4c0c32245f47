"""Who is there to act, and which choices are allowed: flags of 0 and 1 that stand beside an observation.

A frame's flags are those of the step that follows it: one for every agent where agents may leave, one for every choice
where choices may be forbidden, none elsewhere. What is there of an agent that is gone is what the environments' adapter
gives the learner (envs/pettingzoo/copies.py): an observation of zeros, no reward, no action, and of each head only
choice 0; the observation that it leaves with is still seen as the next one of its last step.

Shape suffixes: S replicas, N agents, B rows, T frames, H heads, K choices, F entries of the joint observation, J those
that are predicted, U joint action, V flags.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from envs.spec import EnvSpec
from marl.data.batch import Transitions


class Flags:
    """Index tables between the learner's padded masks and rows of flags.

    Args:
        spec: agents and heads; whether agents may leave, and whether choices may be forbidden.
        device: where the tables live.
    """

    def __init__(self, spec: EnvSpec, device: torch.device | str = "cpu") -> None:
        self.head_mask = spec.head_mask.to(device)  # [N, H, K]
        used = self.head_mask.flatten().nonzero()[:, 0]
        self.agents = 0 if spec.fixed_agents else spec.num_agents
        self.choices = len(used) if spec.has_masks else 0
        self.size = self.agents + self.choices  # V
        self._used_U = used
        self.agent_U = used // spec.action_size  # whose choice it is
        column = torch.full((self.head_mask.numel(),), len(used), device=device)
        column[used] = torch.arange(len(used), device=device)
        self._column = column  # of every padded choice among the used ones; behind them where there is none
        widths = torch.tensor([agent.obs_size for agent in spec.agents])
        self._agent_F = torch.repeat_interleave(torch.arange(spec.num_agents), widths).to(device)
        self._first_K = torch.zeros_like(self.head_mask[0, 0])
        self._first_K[0] = True

    # ------------------------------------------------------------------ rows
    def rows(self, there: Tensor | None, mask: Tensor | None, like: Tensor) -> Tensor:
        """Flags [S, B, V].

        Args:
            there: bool [S, N, B] agents that act; None: all.
            mask: bool [S, N, B, H, K] allowed choices; None: all.
            like: [S, N, B, ...] of the rows' type and device.
        """
        parts = []
        if self.agents:
            all_there = like.new_ones(like.shape[:3])
            parts.append((all_there if there is None else there.to(like.dtype)).transpose(1, 2))
        if self.choices:
            whole = self.head_mask[:, None].expand(*like.shape[:3], -1, -1) if mask is None else mask
            parts.append(whole.transpose(1, 2).flatten(2).index_select(2, self._used_U).to(like.dtype))
        return torch.cat(parts, dim=2) if parts else like.new_zeros(like.shape[0], like.shape[2], 0)

    def of_step(self, t: Transitions) -> tuple[Tensor, Tensor]:
        """Flags [S, B, V] of a joint step: at its observation, and at the next one as far as the step tells.

        An agent that is terminated, or truncated before the others, leaves. A time limit makes nobody leave. Whoever
        comes late is known from the step that follows alone (`FrameStore.add`).
        """
        there = torch.ones_like(t.terminated) if t.active is None else t.active
        over = (t.terminated | t.truncated).all(1, keepdim=True)
        stays = there & ~t.terminated & (over | ~t.truncated)
        return self.rows(there, t.mask, t.obs), self.rows(stays, t.next_mask, t.obs)

    def there(self, flags_SBV: Tensor) -> Tensor | None:
        """Bool [S, N, B]: agents that act; None where all always do."""
        return (flags_SBV[..., : self.agents] > 0.5).transpose(1, 2) if self.agents else None

    def allowed(self, flags_SBV: Tensor, there: Tensor | None) -> Tensor | None:
        """Bool [S, N, B, H, K]: allowed choices, of agents that are not `there` choice 0 alone; None where all are."""
        if not self.choices:
            return None
        own_SBU = flags_SBV[..., self.agents :] > 0.5
        own_SBU = torch.cat([own_SBU, torch.zeros_like(own_SBU[..., :1])], dim=2)
        mask = own_SBU.index_select(2, self._column).unflatten(2, self.head_mask.shape).transpose(1, 2)
        return mask if there is None else torch.where(there[..., None, None], mask, self.only_first)

    def some(self, logits_SBU: Tensor) -> Tensor:
        """Bool [S, B, U]: choices of a logit above 0, and of every head that has none the one of the largest."""
        never = torch.full_like(logits_SBU[..., :1], float("-inf"))
        padded = torch.cat([logits_SBU, never], dim=2).index_select(2, self._column)
        heads = padded.unflatten(2, self.head_mask.shape)
        best = torch.nn.functional.one_hot(heads.argmax(-1), heads.shape[-1]) > 0
        return ((heads > 0) | best).flatten(2).index_select(2, self._used_U)

    @property
    def only_first(self) -> Tensor:
        """Bool [N, 1, H, K]: the first choice of every head."""
        return (self.head_mask & self._first_K)[:, None]

    # ----------------------------------------------------------- observations
    def acted_on(self, obs_F: Tensor, flags_V: Tensor) -> Tensor:
        """Rows [..., F] of the joint observation as those who are there see them: zeros for all others."""
        if not self.agents:
            return obs_F
        return obs_F * (flags_V[..., : self.agents] > 0.5).index_select(-1, self._agent_F)

    def seen(self, obs_SNBO: Tensor, flags_SBV: Tensor) -> Tensor:
        """Padded observations [S, N, B, O], zeros of agents that are gone."""
        there = self.there(flags_SBV)
        return obs_SNBO if there is None else obs_SNBO * there[..., None]

    def shown(self, before_SBV: Tensor, after_SBV: Tensor, dynamic_J: Tensor) -> Tensor:
        """Bool [S, B, J]: predicted entries of agents that act before a step or after it; the others are zeros."""
        either = (before_SBV + after_SBV)[..., : self.agents] > 0.5
        return either.index_select(2, self._agent_F[dynamic_J])

    # ------------------------------------------------------------ imagination
    def joined(self, t: Transitions, before_SBV: Tensor, after_SBV: Tensor) -> Transitions:
        """An imagined step as the environment's adapter would give it to the learner.

        Args:
            t: with terminations of the agents that act; whoever does not counts as terminated, as in a real step.
            before_SBV: flags at its observation.
            after_SBV: flags at the next one.
        """
        there, after = self.there(before_SBV), self.there(after_SBV)
        if there is None or after is None:
            return replace(t, mask=self.allowed(before_SBV, None), next_mask=self.allowed(after_SBV, None))
        either, going = there | after, after.any(1, keepdim=True)
        return replace(
            t,
            reward=t.reward * there,
            terminated=t.terminated | ~there,
            truncated=there & ~after & ~t.terminated,
            next_obs=t.next_obs * either[..., None],
            active=there,
            next_active=torch.where(going, after, there & ~t.terminated),
            mask=self.allowed(before_SBV, there),
            next_mask=self.allowed(after_SBV, either),
        )

    def going(self, terminated_SNB: Tensor, after_SBV: Tensor) -> Tensor:
        """Bool [S, B]: the episode goes on after a step."""
        after = self.there(after_SBV)
        return ~terminated_SNB.all(1) if after is None else after.any(1)

    # ----------------------------------------------------------------- errors
    def wrong(self, guess_SBV: Tensor, truth_SBV: Tensor, weight_SB: Tensor) -> Tensor:
        """The larger of two balanced error rates, of who is there and of what is allowed to those, [S] in [0, 1].

        A balanced rate is the mean of two: of the flags that are 1 those taken for 0, and of those that are 0 those
        taken for 1. So nothing is gained by the guess that nobody ever leaves and everything is always allowed.

        Args:
            guess_SBV, truth_SBV: flags.
            weight_SB: 0 or 1, rows that count; a rate of no flags is 0.
        """
        miss, n = (guess_SBV > 0.5) != (truth_SBV > 0.5), self.agents
        every = weight_SB[..., None].expand_as(truth_SBV)
        rates = []
        if n:
            rates.append(_balanced(miss[..., :n], truth_SBV[..., :n], every[..., :n]))
        if self.choices:
            weight = every[..., n:]
            if n:
                weight = weight * truth_SBV[..., :n].index_select(2, self.agent_U)
            rates.append(_balanced(miss[..., n:], truth_SBV[..., n:], weight))
        return torch.stack(rates).amax(0)


def _balanced(miss: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Mean of the error rates among ones and among zeros, [S, B, ·] to [S]."""
    rates = []
    for kind in (truth, 1.0 - truth):
        counted = weight * kind
        rates.append((miss * counted).sum((1, 2)) / counted.sum((1, 2)).clamp(min=1.0))
    return (rates[0] + rates[1]) / 2
