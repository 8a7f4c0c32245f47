"""The noise of several updates drawn at once: bit for bit what their streams give one draw after another.

Shape suffixes: U updates, S replicas, N agents, n senders, B batch, A = H * K action, X = S * (N + n), L all numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from marl.learner.explicit.kernels import Kernels

if TYPE_CHECKING:
    from marl.learner.maddpg import MADDPG

_NUMBERS = 1 << 20  # that are held ready at most, where that is more than one update's
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # envs/streams.py


class Ahead:
    """Gumbel noise of the next updates, features first.

    Args:
        learner: its streams move on as if updates drew one by one.
        rows: B.
        senders: n that relabel.
        form: the kernels.
    """

    def __init__(self, learner: MADDPG, rows: int, senders: int, form: Kernels) -> None:
        self.learner, self.form = learner, form
        S, N, A = len(learner.replicas), learner.spec.num_agents, learner.spec.action_size
        self.counts = {"target": N, "relabel": senders}
        if learner.config.target_action != "sample":
            del self.counts["target"]
        if not senders:
            del self.counts["relabel"]
        early = S * (N + senders)
        self.most = max(min(_NUMBERS // ((early + S * N) * A * rows), 16), 1)  # updates that are drawn at once
        self.early_UXAB = torch.zeros(self.most, early, A, rows)  # of target actors, then of senders
        self.own_UXAB = torch.zeros(self.most, S * N, A, rows)
        self.early, self.own = ([form.bind(x) for x in every] for every in (self.early_UXAB, self.own_UXAB))
        self._starts = {"target": 0, "relabel": S * N * A * rows}
        self._whole = {name: form.bind(x.view(-1)) for name, x in (("early", self.early_UXAB), ("own", self.own_UXAB))}
        self._steps = {name: x[0].numel() for name, x in (("early", self.early_UXAB), ("own", self.own_UXAB))}
        self._words = {count: form.bind(_words(count, rows, A)) for count in {N, senders} if count}
        self._cut = S * N

    def draw(self, updates: int, own: int) -> None:
        """Of so many updates, at most `most`; the actors learn in `own` of them."""
        for name in self.counts:
            self._uniform(name, self.counts[name], "early", self._starts[name], updates)
        if len(self.counts) == 2:
            _gumbel(self.early_UXAB[:updates])
        elif self.counts:
            part = slice(0, self._cut) if "target" in self.counts else slice(self._cut, None)
            _gumbel(self.early_UXAB[:updates, part])
        if own:
            self._uniform("own", self.learner.spec.num_agents, "own", 0, own)
            _gumbel(self.own_UXAB[:own])

    def _uniform(self, name: str, count: int, into: str, start: int, draws: int) -> None:
        stream, bind = self.learner.noise[name], self.form.bind
        counter = int(stream.counter)
        self.form.uniform(
            bind(stream.key_R), counter, self._words[count], self._whole[into], start, self._steps[into], draws
        )
        stream.counter += draws


def _words(count: int, rows: int, width: int) -> Tensor:
    """Of the numbers of `count` agents in the order [n, A, B]; a stream counts them in the order [n, B, A]."""
    order = torch.arange(1, count * rows * width + 1).view(count, rows, width)
    return _GOLDEN * order.transpose(1, 2).flatten()


def _gumbel(uniform: Tensor) -> None:
    uniform.log_().neg_().log_().neg_()
