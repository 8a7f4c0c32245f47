"""Whether an environment plays the same episode again from the same seed and actions, tried on a separate instance."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from envs.continuous import rows_of
from envs.pettingzoo.arrays import Arrays
from envs.spec import EnvSpec

if TYPE_CHECKING:
    from envs.pettingzoo.copies import Copies

_SEEDS = range(20, 44)  # of the episodes that are played and, behind others, repeated: what is carried over may be rare
_STEPS = (25, 3)  # that are tried of the first of them, and of each other one
_SECONDS = 1.0  # after which no more episodes are begun, and no more steps made of the first
_RETURNED = ("final_obs", "reward", "terminated", "truncated", "done")

Moment = dict[str, np.ndarray]  # what a reset or a step has left in the arrays


def differing(copies: Callable[[Arrays], Copies], spec: EnvSpec) -> str:
    """What is not the same when episodes are played again, each behind another one than before; "" where all is.

    What the environment raises here is no matter of this test: training meets it too, and says where. Python's, numpy's
    and torch's global random state is afterwards as it was.

    Args:
        copies: makes a single copy, a new instance, in arrays that are given.
        spec: its description.
    """
    arrays = Arrays.allocate(spec, 1, np.float64)
    with _global_state_kept(), contextlib.suppress(Exception), contextlib.closing(copies(arrays)) as tried:
        player = _Player(tried, arrays, spec)
        until = time.monotonic() + _SECONDS
        played: list[tuple[int, list[tuple[np.ndarray | None, Moment]]]] = []
        for seed in _SEEDS:
            played.append((seed, player.episode(seed, _STEPS[0] if not played else _STEPS[1])))
            if len(played) > 1 and time.monotonic() > until:
                break
        played.insert(0, played.pop())  # else it would be repeated at once, behind itself
        for seed, before in reversed(played):
            different = player.difference(seed, before)
            if different:
                return different
    return ""


class _Player:
    """Plays random allowed actions, or those of before."""

    def __init__(self, copies: Copies, arrays: Arrays, spec: EnvSpec) -> None:
        self.copies, self.arrays, self.spec = copies, arrays, spec
        self.head_mask = spec.head_mask.numpy()

    def episode(self, seed: int, steps: int) -> list[tuple[np.ndarray | None, Moment]]:
        """(actions, what they led to) of the first steps; no actions led to the reset."""
        rng, until = np.random.default_rng(0), time.monotonic() + _SECONDS
        played: list[tuple[np.ndarray | None, Moment]] = [(None, self._reset(seed))]
        while len(played) <= steps and time.monotonic() < until and not self.arrays.done[0, 0]:
            actions = self._random(rng)
            played.append((actions, self._step(actions)))
        return played

    def difference(self, seed: int, before: list[tuple[np.ndarray | None, Moment]]) -> str:
        """What differs first from the same episode of before, in words."""
        for step, (actions, was) in enumerate(before):
            now = self._reset(seed) if actions is None else self._step(actions)
            for name, value in was.items():
                if not np.array_equal(value, now[name]):
                    what = "observation" if name in ("obs", "final_obs") else name
                    return f"{what} after the reset" if actions is None else f"{what} after step {step}"
        return ""

    def _reset(self, seed: int) -> Moment:
        self.copies.reset(0, [0], [seed])
        return self._left(("obs", "alive", "mask"))

    def _step(self, actions: np.ndarray) -> Moment:
        self.arrays.actions[:, 0] = actions
        self.copies.step()
        return self._left(_RETURNED if self.arrays.done[0, 0] else (*_RETURNED, "alive", "mask"))

    def _left(self, names: tuple[str, ...]) -> Moment:
        return {name: getattr(self.arrays, name).copy() for name in names}

    def _random(self, rng: np.random.Generator) -> np.ndarray:
        allowed = self.arrays.mask[:, 0] if self.spec.has_masks else self.head_mask
        score = np.where(allowed, rng.random(allowed.shape), -1.0)
        actions: np.ndarray = score.argmax(-1)
        if not self.spec.continuous:
            return actions
        rows = np.stack(
            [rows_of(self.spec, n, one[None])[0].numpy() for n, one in enumerate(torch.from_numpy(actions))]
        )
        return rows + self.spec.number_mask.flatten(1).numpy() * rng.uniform(-1.0, 1.0, rows.shape)


@contextlib.contextmanager
def _global_state_kept() -> Iterator[None]:
    """An environment may draw from them; the training that follows is to find them as it would without this test."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=()):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
