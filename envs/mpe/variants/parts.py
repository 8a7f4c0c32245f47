"""Goals that consist of parts: combinations of attribute values, and those of them that are held out of training."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.errors import UserError

MOST_COMBINATIONS = 1024  # one random number each in every reset
GOALS = ("training", "held_out")


@dataclass(frozen=True)
class Parts:
    """All combinations of the values of some attributes; combination c is row c of `values`.

    Held out are the first `held_out` combinations along diagonals: those whose attributes all have the same value (each
    modulo the number of its values) come first, then those whose last attribute is one ahead, and so on. So any two
    attributes of the held-out combinations meet in as many ways as possible, and each value keeps its training
    combinations as long as possible.

    Raises:
        UserError: a value out of its range, or an attribute value that no training combination has: it could not be
            named in training.
    """

    sizes: tuple[int, ...]
    """Numbers of values."""
    held_out: int = 0
    """How many combinations are no goals in training."""
    goals: str = "training"
    """Which are goals, "training" or "held_out"."""

    def __post_init__(self) -> None:
        good = isinstance(self.sizes, tuple) and all(isinstance(n, int) and type(n) is not bool for n in self.sizes)
        if not good or any(n < 2 for n in self.sizes):
            raise UserError(
                f"attributes must be a list of the numbers of values, each at least 2, such as [3, 3], got "
                f"{list(self.sizes) if isinstance(self.sizes, tuple) else self.sizes!r}."
            )
        if math.prod(self.sizes) > MOST_COMBINATIONS:
            raise UserError(
                f"attributes may have at most {MOST_COMBINATIONS} combinations, got {math.prod(self.sizes)}."
            )
        if self.goals not in GOALS:
            raise UserError(f"goals must be one of {', '.join(GOALS)}, got {self.goals!r}.")
        require_integer("held_out", self.held_out, 0, None)
        if not self.sizes and self.held_out:
            raise UserError(f"held_out={self.held_out} needs attributes, such as attributes=[3,3].")
        if self.goals == "held_out" and not self.held_out:
            raise UserError("goals=held_out needs held_out of at least 1: no combination is kept out of training.")
        lost = [n for n, size in enumerate(self.sizes) if len({self.values[c][n] for c in self.training}) < size]
        if lost:
            raise UserError(
                f"held_out={self.held_out} of {len(self.values)} combinations leaves a value of attribute {lost[0]} "
                "without any training combination; hold out fewer."
            )

    @property
    def width(self) -> int:
        """Entries of one combination's one-hots, side by side."""
        return sum(self.sizes)

    @cached_property
    def values(self) -> list[tuple[int, ...]]:
        """The value of every attribute of every combination; the last attribute runs fastest."""
        return list(itertools.product(*(range(size) for size in self.sizes)))

    @cached_property
    def held(self) -> list[int]:
        """Combinations that are held out, in ascending order."""

        def diagonal(c: int) -> tuple[int, ...]:
            first = self.values[c][0]
            ahead = tuple((v - first) % size for v, size in zip(self.values[c], self.sizes, strict=True))
            return *ahead, first

        return sorted(sorted(range(len(self.values)), key=diagonal)[: self.held_out]) if self.sizes else []

    @cached_property
    def training(self) -> list[int]:
        """All others, in ascending order."""
        return [c for c in range(len(self.values)) if c not in self.held]

    @property
    def pool(self) -> list[int]:
        """Combinations that are goals."""
        return self.held if self.goals == "held_out" else self.training

    @cached_property
    def one_hots(self) -> NDArray[np.float64]:
        """[combinations, width]: a one-hot of every attribute, side by side."""
        columns = [np.eye(size)[[row[n] for row in self.values]] for n, size in enumerate(self.sizes)]
        return np.concatenate(columns, axis=1)

    def draw(self, count: int, rng: np.random.Generator) -> tuple[list[int], int]:
        """(`count` distinct combinations in random order, index of the goal): a goal of the pool, the others from
        training, all equally likely."""
        goal = self.pool[int(rng.integers(len(self.pool)))]
        drawn = [int(c) for c in rng.permutation(self.training) if c != goal][: count - 1]
        slot = int(rng.integers(count))
        return [*drawn[:slot], goal, *drawn[slot:]], slot


def require_integer(name: str, value: Any, low: int, high: int | None) -> None:
    """Raise `UserError` unless `value` is an integer of at least `low` and at most `high`."""
    bounds = f"of at least {low}" if high is None else f"in [{low}, {high}]"
    good = isinstance(value, int) and not isinstance(value, bool) and value >= low
    if not good or (high is not None and value > high):
        raise UserError(f"{name} must be an integer {bounds}, got {value!r}.")
