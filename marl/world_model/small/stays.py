"""Whether all agents stay until an episode ends, as the small model takes for granted: watched, since few tell.

An environment of which it is not known (`metadata["fixed_agents"]` is not declared) is taken to have fixed agents as
long as none was ever absent.

Shape suffixes: S replicas, N agents, E environments.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from envs.spec import EnvSpec
from marl.errors import UserError
from marl.world_model.flags import Flags
from marl.world_model.sequences import StepRows


class Stays:
    """Who has been absent.

    Args:
        spec: agents, and whether they are known to stay.
        flags: tables.
        replicas: S.
        device: of what is kept.
    """

    def __init__(self, spec: EnvSpec, flags: Flags, replicas: int, device: torch.device | str) -> None:
        self._spec, self._agents = spec, flags.agents
        self.absent_SN = torch.zeros(replicas, flags.agents, dtype=torch.bool, device=device)
        self._early_SN: Tensor | None = None  # at the end of the warm-up

    def see(self, step: StepRows) -> None:
        """Take note of who does not act in a joint step."""
        if self._agents and step.flags is not None:
            self.absent_SN = self.absent_SN | (step.flags[..., : self._agents] < 0.5).any(1)

    def begin(self) -> None:
        """The warm-up is over."""
        if self._early_SN is None:
            self._early_SN = self.absent_SN

    @property
    def broken_S(self) -> Tensor:
        """Bool [S]: somebody has been absent."""
        return self.absent_SN.any(1)

    @property
    def why(self) -> str:
        """Who was absent and since when, without a stop; '' where nobody was."""
        early_SN = self.absent_SN if self._early_SN is None else self._early_SN
        early = bool(early_SN.any())
        absent_N = (early_SN if early else self.absent_SN).any(0)
        if not bool(absent_N.any()):
            return ""
        names = [self._spec.agent_names[n] for n in absent_N.nonzero()[:, 0].tolist()]
        when = (
            "during the warm-up"
            if early
            else "after all had stayed throughout the warm-up (nothing is declared in metadata['fixed_agents'])"
        )
        return f"{names} of {self._spec.id!r} were absent while others played, {when}"

    def check(self, kind: str) -> None:
        """Raise `UserError` where somebody has been absent: a model of this kind alone cannot imagine that."""
        if why := self.why:
            raise UserError(
                f"--wm.kind {kind}: {why}, which the small world model does not predict: train with --wm.kind auto or "
                "--wm.kind rssm, which learn who is there, or, where they should have stayed, mend the environment and "
                "declare metadata = {'fixed_agents': True}."
            )

    def state_dict(self) -> dict[str, Any]:
        return {"absent": self.absent_SN, "early": self._early_SN}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        device = self.absent_SN.device
        self.absent_SN = state["absent"].to(device)
        self._early_SN = None if state["early"] is None else state["early"].to(device)
