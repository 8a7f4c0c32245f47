"""Environments whose symbols mean something else to every listener in every episode: other-play for messages.

Between a speaker and each of its listeners stands a permutation of the symbols, drawn uniformly at every reset and
constant within the episode. Renaming symbols is a symmetry of a channel that gives them no meaning of its own, so
that a policy which does well under all of them shares no arbitrary convention. Within an episode a listener
without memory then learns nothing at all from a symbol: whatever is said, every symbol is equally likely to be heard.

Shape suffixes: N agents, E environments, O observation width, V symbols of the largest slot, L permuted slots.

Source: Hu, Lerer, Peysakhovich and Foerster, "Other-play for zero-shot coordination", ICML 2020, section 4: in
training, partners are paired through a symmetry of the game drawn anew in each episode.
Differs from source: each listener has its own permutation for each message head; only symbols are permuted, not moves.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from envs.batched import BatchedEnv, Step
from envs.errors import UserError
from envs.streams import Stream

if TYPE_CHECKING:
    from envs.pettingzoo.reader import Reader


class Relabelled(BatchedEnv):
    """The environments of `env`, with permuted symbols in the slots of all that others say.

    What stands between steps is written in place, so that steps can be recorded in a CUDA graph where those of `env`
    can.

    Args:
        env: any environments with message slots, which hold one-hots or zeros.
        rows: global index of every environment; None: 0 .. E - 1.

    Raises:
        UserError: nobody hears another agent.
    """

    def __init__(self, env: BatchedEnv, rows: Sequence[int] | None = None) -> None:
        self.env, self.spec = env, env.spec
        self.num_envs, self.device, self.dtype = env.num_envs, env.device, env.dtype
        self._heard = sorted({(r.receiver, r.start, r.size) for r in env.spec.routes if r.sender != r.receiver})
        if not self._heard:
            raise UserError(
                f"environment {env.spec.id!r} has no message that one agent hears from another, so that there are no "
                f"symbols to permute; leave out --other-play."
            )
        self._rows = range(env.num_envs) if rows is None else rows
        self._seed = 0
        widest = max(size for _, _, size in self._heard)
        self._from_ELV = torch.zeros(env.num_envs, len(self._heard), widest, dtype=torch.int64, device=env.device)

    @property
    def reader(self) -> Reader | None:
        return self.env.reader

    def reset(self, seed: int | None = None) -> Tensor:
        obs_NEO = self.env.reset(seed)
        self.mask = self.env.mask
        self._seed = self._seed if seed is None else int(seed)
        self._stream = Stream(self._seed, "other-play", self._rows, self.device)
        self._draw(torch.ones(self.num_envs, dtype=torch.bool, device=self.device))
        return self._renamed(obs_NEO)

    def step(self, actions: Tensor) -> Step:
        step = self.env.step(actions)
        final_obs = self._renamed(step.final_obs)
        self._draw(step.ended)
        return replace(step, obs=self._renamed(step.obs), final_obs=final_obs)

    def _draw(self, ended_E: Tensor) -> None:
        """New permutations where an episode has ended."""
        noise_ELV = self._stream.uniform(*self._from_ELV.shape[1:])
        for k, (_, _, size) in enumerate(self._heard):
            drawn_EV = noise_ELV[:, k, :size].argsort(dim=-1)
            kept_EV = self._from_ELV[:, k, :size]
            kept_EV.copy_(torch.where(ended_E[:, None], drawn_EV, kept_EV))

    def _renamed(self, obs_NEO: Tensor) -> Tensor:
        renamed = obs_NEO.clone()
        for k, (receiver, start, size) in enumerate(self._heard):
            slot_EV = obs_NEO[receiver, :, start : start + size]
            renamed[receiver, :, start : start + size] = slot_EV.gather(1, self._from_ELV[:, k, :size])
        return renamed

    def state_dict(self) -> dict[str, Any]:
        return {
            "env": self.env.state_dict(),
            "from": self._from_ELV.clone(),
            "seed": self._seed,
            "stream": self._stream.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.env.load_state_dict(state["env"])
        self._restore(state)

    def renewed(self, state: dict[str, Any]) -> Tensor:
        obs_NEO = self.env.renewed(state["env"])
        self.mask = self.env.mask
        self._restore(state)
        self._draw(torch.ones(self.num_envs, dtype=torch.bool, device=self.device))
        return self._renamed(obs_NEO)

    def _restore(self, state: dict[str, Any]) -> None:
        self._from_ELV.copy_(state["from"])
        self._seed = state["seed"]
        self._stream = Stream(self._seed, "other-play", self._rows, self.device)
        self._stream.load_state_dict(state["stream"])

    def pattern(self) -> Hashable | None:
        return self.env.pattern()

    def replayed(self) -> None:
        self.env.replayed()

    def close(self) -> None:
        self.env.close()
