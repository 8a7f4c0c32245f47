"""Adam's moments of one network as plain tensors, which both updates share; the optimiser itself only where it is used.

The first `torch.optim.Adam` of a process imports torch._dynamo, which takes seconds that the explicit update need not
wait for. What a checkpoint holds is what `torch.optim.Adam.state_dict` gives.

The world model has an Adam of its own, `ReplicaAdam` in marl/world_model/optimiser.py, which says why: the two differ
in their arithmetic, so that one in place of the other would change the results of runs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Moments:
    """Moments of one flat parameter [S, G, P] and the optimiser that goes on from them.

    Args:
        flat: the parameter.
        lr: the step size, a tensor that is written in place.
        found_inf: where it is 1, the optimiser does not step; None: it always does.
    """

    def __init__(self, flat: nn.Parameter, lr: Tensor, found_inf: Tensor | None) -> None:
        self.flat, self.lr, self.found_inf = flat, lr, found_inf
        device = flat.device
        self.step = torch.zeros((), device=device)
        self.mean_SGP, self.square_SGP = (torch.zeros_like(flat.detach()) for _ in range(2))
        self._fused, self._graphs = device.type in ("cpu", "cuda"), device.type == "cuda"
        self._optimiser: torch.optim.Adam | None = None

    @property
    def optimiser(self) -> torch.optim.Adam:
        """An optimiser that a CUDA graph can hold and that `found_inf` can hold back, made at the first call."""
        if self._optimiser is None:
            made = torch.optim.Adam([self.flat], lr=self.lr, fused=self._fused, capturable=self._graphs)
            made.state[self.flat] = {"step": self.step, "exp_avg": self.mean_SGP, "exp_avg_sq": self.square_SGP}
            if self.found_inf is not None:
                made.found_inf = self.found_inf  # type: ignore[attr-defined]  # as torch.amp.GradScaler gives it
            # torch would warn of steps outside of a graph, of which there are a few in every run
            made._warned_capturable_if_run_uncaptured = True
            self._optimiser = made
        return self._optimiser

    def state_dict(self) -> dict[str, Any]:
        """In the format of `torch.optim.Adam`, with the step size as a number."""
        state = {"step": self.step, "exp_avg": self.mean_SGP, "exp_avg_sq": self.square_SGP}
        group = {
            "lr": float(self.lr), "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False,
            "maximize": False, "foreach": None, "capturable": self._graphs, "differentiable": False,
            "fused": self._fused, "decoupled_weight_decay": False, "params": [0],
        }  # fmt: skip
        return {"state": {0: state} if float(self.step) else {}, "param_groups": [group]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the moments, in place; the step size stays the tensor that it is."""
        kept = state["state"].get(0)
        for name, x in (("step", self.step), ("exp_avg", self.mean_SGP), ("exp_avg_sq", self.square_SGP)):
            if kept is None:
                x.zero_()
            else:
                x.copy_(torch.as_tensor(kept[name]))
