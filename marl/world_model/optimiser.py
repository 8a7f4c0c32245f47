"""Adam over all parameters of all replicas, each replica clipped and guarded on its own, and their running average.

Shape suffixes: S replicas, P parameters of all replicas in one row.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)


class ReplicaAdam(Generic[Net]):
    """Adam whose state is one row of numbers; parameters and their gradients become views of such rows.

    The gradient of a replica that is not finite counts as zero and is counted in `faults_S`; momentum, decay and
    shrinking still move its parameters, which stay finite. `averaged` is a copy of the module with exponentially
    averaged parameters, which take no gradient: a world model's updates are noisy, as they sample, and their average
    predicts better than the last of them.

    Args:
        module: all its parameters have leading dimension S * G, G members of a replica.
        replicas: S.
        lr: step size, reached after `warmup` updates.
        max_grad_norm: a replica's gradient is scaled down to this norm.
        warmup: updates over which the step size rises linearly.
        average: share of the old average that an update keeps; less at the start of training.
        decay: weight decay per update as a share of the step size, apart from the moments.

    The learner has `torch.optim.Adam` (marl/learner/moments.py) and not this one, nor can the model have that: here
    epsilon is added to the root of the uncorrected second moment (the paper's "epsilon hat", end of its section 2),
    there to the corrected one, which makes another step of small gradients; this one leaves out a single gradient that
    is not finite, that one holds back all replicas; and a step of the learner is fused, over one tensor [S, G, P].

    Source: Kingma and Ba 2015 (arXiv 1412.6980), algorithm 1 with epsilon hat; decay as in Loshchilov and Hutter 2019
    (1711.05101); averaging: Polyak and Juditsky 1992.
    """

    BETA_1, BETA_2, EPS = 0.9, 0.999, 1e-8

    def __init__(
        self,
        module: Net,
        replicas: int,
        lr: float,
        max_grad_norm: float,
        warmup: int = 0,
        average: float = 0.99,
        decay: float = 0.0,
    ) -> None:
        parameters = list(module.parameters())
        self._lr, self._max_norm, self._warmup, self._decay = lr, max_grad_norm, max(warmup, 1), decay
        self._forget = 1.0 - average
        self.averaged: Net = deepcopy(module).requires_grad_(False)
        self.flat_P = torch.cat([p.detach().flatten() for p in parameters])
        self.average_P = self.flat_P.clone()
        self._grad_P = torch.zeros_like(self.flat_P)
        self.first_P, self.second_P = torch.zeros_like(self.flat_P), torch.zeros_like(self.flat_P)
        self.updates = torch.zeros((), dtype=torch.int64, device=self.flat_P.device)
        self.faults_S = torch.zeros(replicas, dtype=torch.int64, device=self.flat_P.device)
        self._replicas = replicas
        self._sizes = [p.numel() for p in parameters]
        offset = 0
        for p, mean in zip(parameters, self.averaged.parameters(), strict=True):
            part = slice(offset, offset + p.numel())
            mean.data = self.average_P[part].view_as(p)
            p.data, p.grad = self.flat_P[part].view_as(p), self._grad_P[part].view_as(p)
            offset = part.stop
        self._shrunk: list[nn.Parameter] = []
        self._force = 0.0
        self._grads = self._rows(self._grad_P)  # every parameter's gradient as [S, ...]

    @property
    def size(self) -> int:
        """Parameters of one replica."""
        return len(self.flat_P) // self._replicas

    def shrink(self, part: nn.Module, force: float) -> None:
        """From now on draw the weights (not biases) of `part` of the module to zero, by `force` step sizes an update.

        The proximal step of an L1 penalty, apart from Adam's moments, as decay is of an L2 penalty.
        Source: soft thresholding, Daubechies, Defrise and De Mol 2004 (arXiv math/0307152).
        """
        self._shrunk = [p for name, p in part.named_parameters() if name.endswith("weight")] if force > 0 else []
        self._force = force

    def zero_grad(self) -> None:
        self._grad_P.zero_()

    @torch.no_grad()
    def step(self) -> Tensor:
        """One update from the gradients accumulated since `zero_grad`; their norms before clipping, [S]."""
        norm_S = torch.stack([grad.square().sum(1) for grad in self._grads]).sum(0).sqrt()
        finite_S = norm_S.isfinite()
        self.faults_S += ~finite_S
        scale_S1 = (self._max_norm / norm_S.clamp(min=self._max_norm))[:, None]
        for grad in self._grads:
            grad.copy_(torch.where(finite_S[:, None], grad * scale_S1, 0.0))
        self.updates += 1
        t = self.updates.to(self.flat_P.dtype)
        rate = self._lr * (t / self._warmup).clamp(max=1.0)
        self.first_P.lerp_(self._grad_P, 1 - self.BETA_1)
        self.second_P.mul_(self.BETA_2).addcmul_(self._grad_P, self._grad_P, value=1 - self.BETA_2)
        size = rate * (1 - self.BETA_2**t).sqrt() / (1 - self.BETA_1**t)
        if self._decay:
            self.flat_P.mul_(1 - rate * self._decay)
        self.flat_P.sub_(size * self.first_P / (self.second_P.sqrt() + self.EPS))
        for weight in self._shrunk:
            weight.copy_(weight.sign() * (weight.abs() - rate * self._force).clamp(min=0.0))
        self.average_P.lerp_(self.flat_P, (10.0 / (10.0 + t)).clamp(min=self._forget))
        return norm_S

    def _rows(self, row_P: Tensor) -> list[Tensor]:
        """Every parameter's share of a row of numbers, as views [S, ...]."""
        return [part.view(self._replicas, -1) for part in row_P.split(self._sizes)]

    def state_dict(self) -> dict[str, Any]:
        """Parameters, their average and moments, each [S, P / S]; counters."""
        rows = {name: torch.cat(self._rows(row_P), 1) for name, row_P in self._numbers().items()}
        return {**rows, "updates": self.updates, "faults": self.faults_S}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        widths = [size // self._replicas for size in self._sizes]
        for name, row_P in self._numbers().items():
            for mine, given in zip(self._rows(row_P), state[name].split(widths, 1), strict=True):
                mine.copy_(given)
        self.updates.copy_(state["updates"])
        self.faults_S.copy_(state["faults"])

    def _numbers(self) -> dict[str, Tensor]:
        return {
            "parameters": self.flat_P,
            "average": self.average_P,
            "first": self.first_P,
            "second": self.second_P,
        }
