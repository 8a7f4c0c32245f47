"""Gradients that are not finite: noticed, not applied, and told with everything that finds the cause."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from marl.errors import RunFailed


class FiniteGradients:
    """Watches the norms of the gradients of every loss.

    On a CPU a bad norm raises at once. Elsewhere to ask for it would wait for the device, and a recorded CUDA graph
    cannot ask: the device keeps a flag that holds back this and every later step of the optimisers, and with it the
    norms in question, until `check` reads it.

    Shape suffixes: S replicas, G groups of a loss.

    Args:
        sizes: loss -> G, a multiple of its owners.
        owners: loss -> for every group of one set, in their order, the names of the agents whose gradient it is.
        replicas: the global index of every replica.
        device: where the gradients are.
        at_once: raise at the bad norm itself.
    """

    def __init__(
        self,
        sizes: dict[str, int],
        owners: Mapping[str, Sequence[Sequence[str]]],
        replicas: Sequence[int],
        device: torch.device,
        at_once: bool,
    ) -> None:
        self.owners, self.replicas, self.at_once = owners, tuple(replicas), at_once
        self.broken = torch.zeros((), device=device)  # 1 from the first bad norm on, else 0: Adam's `found_inf`
        self._norms = {name: torch.zeros(len(replicas), size, device=device) for name, size in sizes.items()}
        self._update = torch.zeros((), dtype=torch.int64, device=device)  # the update of these norms

    def begin(self) -> None:
        """Another update begins."""
        if not self.at_once:
            self._update += self.broken == 0

    def watch(self, name: str, norm_SG: Tensor, update: int) -> None:
        """Look at the norms of a loss.

        Args:
            name: of the loss.
            norm_SG: norms of its gradients.
            update: number of the update, counted from 1.

        Raises:
            RunFailed: one is not finite, and this is to be told at once.
        """
        if self.at_once:
            if not math.isfinite(norm_SG.sum().item()):
                raise self._failure(name, norm_SG, update)
            return
        kept_SG = self._norms[name]
        torch.where(self.broken > 0, kept_SG, norm_SG, out=kept_SG)
        torch.maximum(self.broken, (~kept_SG.sum().isfinite()).to(kept_SG.dtype), out=self.broken)

    def check(self) -> None:
        """Read what the device has kept.

        Raises:
            RunFailed: a norm was not finite; names the loss, the agent, the replica and the update.
        """
        if self.at_once or not bool(self.broken):
            return
        for name, norm_SG in self._norms.items():
            if not math.isfinite(norm_SG.sum().item()):
                raise self._failure(name, norm_SG, int(self._update))

    def restart(self, updates: int) -> None:
        """Go on after so many updates, all of them good."""
        self.broken.zero_()
        self._update.fill_(updates)

    def _failure(self, name: str, norm_SG: Tensor, update: int) -> RunFailed:
        place = int(norm_SG.nan_to_num(nan=math.inf).argmax())  # the first of those that are not finite
        replica, group = divmod(place, norm_SG.shape[1])
        owners = self.owners[name]
        agents = owners[group % len(owners)]
        whose = f"agent{'s' * (len(agents) > 1)} {', '.join(map(repr, agents))}"
        return RunFailed(
            f"the gradient of the {name} loss of {whose} (replica {self.replicas[replica]}) is not finite at "
            f"update {update}; it was not applied. Try a smaller --maddpg.actor-lr or --maddpg.critic-lr, or, where a "
            "world model adds its loss, a smaller --wm.lr."
        )
