"""An actor as a program of torch.export.

Shape suffixes: those of marl/export/actors.py.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from marl.export.actors import EPS, FORBIDDEN, Actor


class Module(nn.Module):
    """What is exported: (observation, and the action mask where the environment has them) to the outputs of `actor`."""

    strides: Tensor

    def __init__(self, actor: Actor) -> None:
        super().__init__()
        self._layer_norm, self._bounds, self._multi_discrete = (
            actor.layer_norm,
            actor.bounds,
            actor.agent.multi_discrete,
        )
        self._heads, self._box = actor.agent.heads, actor.agent.box
        self._start, self._masked = actor.agent.start, actor.masked
        self._last = len(actor.layers) - 1
        for k, (weight_IW, bias_W) in enumerate(actor.layers):
            self.register_buffer(f"weight_{k}", torch.from_numpy(weight_IW.copy()))
            self.register_buffer(f"bias_{k}", torch.from_numpy(bias_W.copy()))
        self.register_buffer("strides", torch.tensor(actor.strides))

    def forward(self, observation: Tensor, action_mask: Tensor | None = None) -> dict[str, Tensor]:
        x = observation
        for k in range(self._last + 1):
            x = x @ getattr(self, f"weight_{k}") + getattr(self, f"bias_{k}")
            if k < self._last:
                if self._layer_norm:
                    x = x / torch.sqrt((x * x).mean(1, keepdim=True) + EPS)
                x = torch.relu(x)
        logits = x if action_mask is None else torch.where(action_mask, x, FORBIDDEN)
        parts, chosen = [], []
        for head, (low, high) in zip(self._heads, self._bounds, strict=True):
            own = logits[:, low:high]
            chosen.append(torch.zeros_like(own[:, :1]).argmax(1) if head.continuous else own.argmax(1))
            if head.continuous:
                least, most = torch.tensor(head.low), torch.tensor(head.high)
                parts.append(torch.clamp(own.tanh() * ((most - least) / 2) + (most + least) / 2, least, most))
            else:
                parts.append(torch.nn.functional.one_hot(chosen[-1], head.size).to(own.dtype))
        choices = torch.stack(chosen, 1)
        if self._box:
            return {"logits": logits + 0.0, "choices": choices, "action": torch.cat(parts, 1)}
        action = choices.clone() if self._multi_discrete else (choices * self.strides).sum(1) + self._start
        return {"logits": logits + 0.0, "choices": choices, "action": action}


def save(actor: Actor, path: Path) -> None:
    """Write the program; `torch.export.load` reads it."""
    rows = torch.export.Dim("observations", min=1)
    inputs = [torch.zeros(2, actor.width)]
    if actor.masked:
        inputs.append(torch.ones(2, actor.agent.choices, dtype=torch.bool))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of itself
        program = torch.export.export(Module(actor), tuple(inputs), dynamic_shapes=tuple({0: rows} for _ in inputs))
        torch.export.save(program, path)
