"""Environments for the learner: MPE in torch, and any PettingZoo ParallelEnv. Knows nothing of learning."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from envs.errors import EnvFailure, UserError, did_you_mean
from envs.ids import names_function
from envs.spec import AgentSpec, EnvSpec, Head, Route

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from envs.batched import BatchedEnv, Step

__all__ = [
    "BACKENDS",
    "AgentSpec",
    "BatchedEnv",
    "EnvFailure",
    "EnvSpec",
    "Head",
    "Route",
    "Step",
    "UserError",
    "check",
    "make",
]

BACKENDS = ("torch", "pettingzoo")


def make(
    env_id: str,
    num_envs: int = 1,
    device: torch.device | str = "cpu",
    backend: str = "torch",
    dtype: torch.dtype | None = None,
    *,
    rows: Sequence[int] | Tensor | None = None,
    stagger: bool = False,
    workers: int = 0,
    env_args: Mapping[str, Any] | None = None,
    **more: Any,
) -> BatchedEnv:
    """Environments stepped together.

    Args:
        env_id: an MPE id with or without its version, or `package.module:function` that returns a PettingZoo
            ParallelEnv (always played by the pettingzoo backend).
        num_envs: E, number of environments.
        device: where observations and rewards live.
        backend: "torch" (MPE as tensors on `device`) or "pettingzoo" (the real environments).
        dtype: float type of observations and rewards; None: float32.
        rows: global index of every environment, int [E]; default 0 .. E - 1. A row's random numbers depend on it
            alone, not on the rows beside it.
        stagger: torch only: shift the phases of the rows, so that not all episodes end in the same step.
        workers: pettingzoo only: number of worker processes, 0 for none.
        env_args: the environment's own arguments, whatever their names.
        more: further arguments of the environment; pettingzoo only: also `heads`, `routes` and the other declarations
            of `PettingZooEnv`.

    Raises:
        UserError: unknown id, backend or argument, or a value that is not supported; with close matches.
    """
    import torch

    dtype = torch.float32 if dtype is None else dtype
    if backend not in BACKENDS:
        close = did_you_mean(backend, BACKENDS)
        raise UserError(f"unknown backend {backend!r}, expected {' or '.join(BACKENDS)}.{close}")
    if backend == "pettingzoo":
        if stagger:
            raise UserError('stagger=True needs backend="torch".')
        from envs.pettingzoo.env import PettingZooEnv

        rows = rows.tolist() if isinstance(rows, torch.Tensor) else rows
        return PettingZooEnv(
            env_id, num_envs=num_envs, device=device, dtype=dtype, rows=rows, workers=workers, env_args=env_args, **more
        )
    if names_function(env_id):
        raise UserError(f'{env_id!r} is not an MPE id and needs backend="pettingzoo".')
    if workers:
        raise UserError(f'workers={workers} needs backend="pettingzoo"; the torch backend has no worker processes.')
    from envs import mpe

    scenario = mpe.make_scenario(env_id, **{**(env_args or {}), **more})
    return mpe.MPE(scenario, num_envs, device, dtype, rows, stagger)


def __getattr__(name: str) -> Any:
    """What is imported when it is first asked for: `python -m envs.check` must find it not yet imported, and
    `run.py --help` need not wait for torch."""
    if name == "check":
        return importlib.import_module("envs.check")
    if name in ("BatchedEnv", "Step"):
        return getattr(importlib.import_module("envs.batched"), name)
    raise AttributeError(f"module 'envs' has no attribute {name!r}")
