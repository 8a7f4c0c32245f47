"""An actor as a function of one agent's observation alone: what every exported format computes.

Shape suffixes: B observations at a time, I inputs and W outputs of a layer, C choices of all heads side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from envs.spec import AgentSpec
from marl.errors import UserError
from marl.learner.networks.grouped_mlp import EPS
from marl.play.policy import Policy
from marl.results import Record

FORBIDDEN = -1e30  # logit of a choice that the mask forbids; finite, as in play


@dataclass(frozen=True)
class Part(Record):
    """Some columns of an observation."""

    name: str
    """"observation 0" is the newest, "observation 1" that of the step before, ...; "action 1" is the one-hot, heads
    side by side, of the action between observations 1 and 0."""
    start: int
    """First column."""
    size: int
    """Number of columns."""


@dataclass(frozen=True)
class Tensor(Record):
    """An input or output of a file; "B" stands for any number of observations."""

    name: str
    """As in the file."""
    dtype: str
    """"float32", "bool" or "int64"."""
    shape: tuple[int | str, ...]
    """As above."""
    meaning: str
    """In words."""


@dataclass(frozen=True)
class Actor:
    """One agent's actor.

    Attributes:
        agent: of the environment itself; heads and sizes.
        frames: observations that it sees at a time.
        layers: (weight float32 [I, W], bias float32 [W]) of every layer; hidden ones are followed by
            x / sqrt(mean(x^2) + EPS) where `layer_norm`, and max(x, 0).
        layer_norm: as above.
        masked: takes an action mask.
    """

    agent: AgentSpec
    frames: int
    layers: list[tuple[np.ndarray, np.ndarray]]
    layer_norm: bool
    masked: bool

    @property
    def sizes(self) -> list[int]:
        """Choices (or numbers) of each head; their sum is C."""
        return [head.size for head in self.agent.heads]

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """First and last (excluded) column of every head."""
        ends = np.cumsum([0, *self.sizes]).tolist()
        return list(pairwise(ends))

    @property
    def width(self) -> int:
        """Columns of an observation."""
        return int(self.layers[0][0].shape[0])

    @property
    def parts(self) -> list[Part]:
        """What the columns of an observation are."""
        parts, start = [], 0
        sizes = [(f"observation {f}", self.agent.obs_size) for f in range(self.frames)]
        sizes += [(f"action {f}", self.agent.choices) for f in range(1, self.frames)]
        for name, size in sizes:
            parts.append(Part(name, start, size))
            start += size
        return parts

    @property
    def inputs(self) -> list[Tensor]:
        """Of a file, in order."""
        count = len(self.agent.heads)
        heads = " and ".join(f"{head.name} ({head.size})" for head in self.agent.heads)
        tensors = [Tensor("observation", "float32", ("B", self.width), "see `observation`")]
        if self.masked:
            meaning = f"allowed choices of {heads}{', side by side' if count > 1 else ''}"
            tensors.append(Tensor("action_mask", "bool", ("B", self.agent.choices), meaning))
        return tensors

    @property
    def outputs(self) -> list[Tensor]:
        """Of a file, in order."""
        names = ", ".join(
            f"{head.name} {low}:{high}" for head, (low, high) in zip(self.agent.heads, self.bounds, strict=True)
        )
        joint: tuple[int | str, ...] = ("B", len(self.sizes)) if self.agent.multi_discrete else ("B",)
        action = Tensor("action", "int64", joint, "the same as the environment's own action")
        if self.agent.box:
            told = "the environment's own action: numbers between their bounds, one-hots of choices"
            action = Tensor("action", "float32", ("B", self.agent.choices), told)
        numbers = [head.name for head in self.agent.heads if head.continuous]
        of_tanh = f"; {', '.join(numbers)}: inputs of tanh" if numbers else ""
        meaning = f"columns: {names}; forbidden choices {FORBIDDEN:g}{of_tanh}"
        likeliest = f"the likeliest choice of every head{', 0 of one with numbers' if numbers else ''}"
        return [
            Tensor("logits", "float32", ("B", self.agent.choices), meaning),
            Tensor("choices", "int64", ("B", len(self.sizes)), likeliest),
            action,
        ]

    @property
    def strides(self) -> list[int]:
        """What a choice of each head adds to a Discrete action: the first head runs fastest."""
        return [int(np.prod(self.sizes[:h])) for h in range(len(self.sizes))]


def actors(policy: Policy) -> list[Actor]:
    """Every agent's actor.

    Raises:
        UserError: actors that remember more than a fixed number of observations, or look at pictures.
    """
    if getattr(policy.config.maddpg, "recurrent", False):
        raise UserError("actors with a recurrent memory cannot be exported; those with --maddpg.frames can.")
    if policy.spec.picture:
        raise UserError(
            "actors that look at pictures cannot be exported; expected a run whose observations are numbers."
        )
    frames = policy.config.maddpg.frames
    seen = policy.spec.stacked(frames)
    result = []
    for agent, wide in zip(policy.spec.agents, seen.agents, strict=True):
        layers = policy.layers(agent.name)
        columns = [h * policy.spec.head_size + k for h, head in enumerate(agent.heads) for k in range(head.size)]
        last, bias = layers[-1]
        layers[-1] = (last[:, columns], bias[columns])  # absent choices of the padded heads go
        first, bias = layers[0]
        layers[0] = (first[: wide.obs_size], bias)
        contiguous = [(np.ascontiguousarray(weight), np.ascontiguousarray(one)) for weight, one in layers]
        result.append(Actor(agent, frames, contiguous, policy.config.maddpg.layer_norm, policy.spec.has_masks))
    return result


__all__ = ["EPS", "FORBIDDEN", "Actor", "Part", "Tensor", "actors"]
