"""Mode "data" of several ranks: the environments and the minibatch of every replica are split, gradients averaged.

Each rank steps its part of the environments, whose transitions all ranks exchange and store, draws the same minibatch
and takes its part of the rows with its part of the noise. So the run is the one that a single process would make, up to
the order of sums. Three things are means over a rank's own rows and so differ a little: the baseline of the estimator
"reinforce", the mean policy of the signalling bonus, and losses where agents may leave.

Shape suffixes: S replicas, N agents, R = S * E environments, B batch, G groups of parameters, P parameters.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from envs.batched import BatchedEnv, Step
from envs.streams import Stream
from marl.data.batch import Batch, BatchSource, Transitions
from marl.parallel.ranks import Ranks, part_of

if TYPE_CHECKING:
    from envs.pettingzoo.reader import Reader


class SplitEnv(BatchedEnv):
    """All environments of the run, of which this rank steps `part`; all ranks call every method together.

    Args:
        part: this rank's environments, as many as every other rank's.
        ranks: the processes.
    """

    def __init__(self, part: BatchedEnv, ranks: Ranks) -> None:
        self._part, self._ranks = part, ranks
        self.spec, self.device, self.dtype = part.spec, part.device, part.dtype
        self.num_envs = part.num_envs * ranks.size
        self._own = ranks.share(self.num_envs)

    @property
    def reader(self) -> Reader | None:
        return self._part.reader

    def reset(self, seed: int | None = None) -> Tensor:
        return self._begun(self._part.reset(seed))

    def _begun(self, obs: Tensor) -> Tensor:
        """All observations at the start of episodes, from this rank's."""
        result = self._exchanged({"obs": obs, "mask": self._part.mask})
        self.mask = result.get("mask")
        return result["obs"]

    def step(self, actions: Tensor) -> Step:
        step = self._part.step(actions[:, self._own.start : self._own.stop])
        named = {field.name: getattr(step, field.name) for field in fields(step)}
        if named["done"] is not None:
            named["done"] = named["done"][None]
        result = self._exchanged(named)
        if "done" in result:
            result["done"] = result["done"][0]
        return Step(**result)

    def _exchanged(self, named: dict[str, Tensor | None]) -> dict[str, Tensor]:
        """Tensors [n, R / ranks, ...] to [n, R, ...], all in one exchange."""
        given = {name: x for name, x in named.items() if x is not None}
        packed = torch.cat([x.transpose(0, 1).flatten(1).to(self.dtype) for x in given.values()], dim=1)
        columns = self._ranks.rows(packed).split([x[:, 0].numel() for x in given.values()], dim=1)
        return {
            name: column.unflatten(1, (x.shape[0], *x.shape[2:])).transpose(0, 1).to(x.dtype)
            for (name, x), column in zip(given.items(), columns, strict=True)
        }

    def state_dict(self) -> dict[str, Any]:
        """On rank 0 the state of all environments."""
        state: dict[str, Any] = self._ranks.joined(self._part.state_dict())
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take this rank's rows of the state of all environments."""
        self._part.load_state_dict(part_of(state, self._own, self.num_envs))

    def renewed(self, state: dict[str, Any]) -> Tensor:
        return self._begun(self._part.renewed(part_of(state, self._own, self.num_envs)))

    def close(self) -> None:
        self._part.close()


class PartStream(Stream):
    """Draws this rank's part of the numbers that one process would draw; the batch is the third dimension from last."""

    def __init__(self, whole: Stream, ranks: Ranks) -> None:
        self.name, self.key_R, self.counter = whole.name, whole.key_R, whole.counter
        self._ranks = ranks
        self._index = {}
        self._positions: dict[tuple[int, ...], Tensor] = {}

    def _words(self, shape: tuple[int, ...]) -> Tensor:
        if shape not in self._positions:
            ranks, rows = self._ranks, shape[-3]
            whole = super()._words((*shape[:-3], rows * ranks.size, *shape[-2:]))
            whole = whole.view(*shape[:-3], rows * ranks.size, *shape[-2:])
            self._positions[shape] = whole.narrow(-3, rows * ranks.rank, rows).flatten()
        return self._positions[shape]


class PartSource:
    """A batch source that all ranks fill and draw from alike; each gets its part of the rows.

    Args:
        whole: the source of all rows.
        ranks: the processes; their number divides the batch size.
    """

    def __init__(self, whole: BatchSource, ranks: Ranks) -> None:
        self._whole, self._ranks = whole, ranks

    @property
    def ready(self) -> bool:
        """No: the ranks talk to each other."""
        return False

    def add(self, transitions: Transitions) -> None:
        self._whole.add(transitions)

    def sample(self, batch_size: int) -> Batch:
        """This rank's rows of a batch of `batch_size`, as views."""
        own = self._ranks.share(batch_size)
        return self._whole.sample(batch_size).rows(slice(own.start, own.stop))

    def state_dict(self) -> dict[str, Any]:
        return self._whole.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._whole.load_state_dict(state)

    def interrupt(self) -> None:
        self._whole.interrupt()

    def metrics(self) -> dict[str, Tensor]:
        return self._whole.metrics()

    def warnings(self) -> list[str]:
        return self._whole.warnings()


class SplitUpdates:
    """This rank's share of every update: its rows of the minibatch and of the noise, and the mean of all gradients.

    What `MADDPG` takes as `share` (marl/learner/interfaces.py).

    Args:
        ranks: the processes.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks

    def mean(self, gradient_SGP: Tensor) -> Tensor:
        return self._ranks.mean(gradient_SGP)

    def stream(self, whole: Stream) -> PartStream:
        return PartStream(whole, self._ranks)
