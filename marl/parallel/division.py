"""Which part of a run every process does, and what of it rank 0 writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from marl.config.schema import Config
from marl.errors import UserError
from marl.parallel.ranks import Ranks, mapped


@dataclass(frozen=True)
class Division:
    """Which part of a run every rank does.

    Args:
        ranks: the processes.
        replicas: S of the whole run.
        shared: mode "data": every rank trains every replica; else each trains some of them.
    """

    ranks: Ranks
    replicas: int = 1
    shared: bool = False

    @classmethod
    def of(cls, config: Config, ranks: Ranks) -> Division:
        """As the configuration says.

        Raises:
            UserError: there are more ranks than parts, or parts of unequal size.
        """
        size, replicas, shared = ranks.size, config.num_replicas, config.distributed == "data"
        if not shared and size > replicas:
            raise UserError(
                f"{size} processes cannot share num_replicas {replicas}; expected at least one replica a process. "
                f"Start fewer processes, train more replicas, or split every replica with --distributed data."
            )
        if not shared and any(len(part) % config.population for part in ranks.shares(replicas)):
            raise UserError(
                f"{size} processes cannot share num_replicas {replicas} in populations of {config.population}; "
                f"expected as many whole populations as processes, or a multiple."
            )
        if size > 1 and config.opponents.kind == "pool" and config.opponents.replicas:
            raise UserError(
                f"{size} processes do not see each other's snapshots, which --opponents.replicas draws from; expected "
                f"one process, or opponents of each replica's own."
            )
        parts = {"num_replicas * num_envs": replicas * config.num_envs, "maddpg.batch_size": config.maddpg.batch_size}
        for name, count in parts.items():
            if shared and count % size:
                raise UserError(
                    f"{name} is {count}, which is not a multiple of the {size} processes; expected equal parts for "
                    f"--distributed data."
                )
        return cls(ranks, replicas, shared)

    @property
    def trained(self) -> range:
        """The replicas that this rank trains."""
        return range(self.replicas) if self.shared else self.ranks.share(self.replicas)

    @property
    def evaluated(self) -> range:
        """The replicas that this rank evaluates."""
        return self.ranks.share(self.replicas)

    def rows(self, num_envs: int) -> range:
        """The environments that this rank steps, of `num_envs` for each replica."""
        if self.shared:
            return self.ranks.share(self.replicas * num_envs)
        return range(self.trained.start * num_envs, self.trained.stop * num_envs)

    def joined(self, state: Any) -> Any:
        """All ranks: on rank 0 the state of all replicas."""
        return state if self.shared else self.ranks.joined(state)

    def cut(self, state: Any) -> Any:
        """All ranks: of rank 0's state that of the replicas trained here."""
        shares = [range(self.replicas)] * self.ranks.size if self.shared else self.ranks.shares(self.replicas)
        return self.ranks.cut(state, shares, self.replicas)

    def record(self, values: dict[str, float | Tensor]) -> dict[str, float | Tensor]:
        """All ranks: on rank 0 the values of all replicas, or their means over the ranks that share them."""
        if not self.shared or self.ranks.size == 1:
            result: dict[str, float | Tensor] = self.joined(values)
            return result
        every = self.ranks.collected([mapped(values, lambda x: x.detach().cpu())])
        return {
            name: torch.stack([one[name] for one in every]).mean(0) if isinstance(value, Tensor) else value
            for name, value in every[0].items()
        }
