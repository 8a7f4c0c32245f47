"""Environments for the learner: MPE in torch, and any PettingZoo ParallelEnv. Knows nothing of learning."""

from __future__ import annotations

from envs.batched import BatchedEnv, Step
from envs.errors import UserError
from envs.spec import AgentSpec, EnvSpec, Head, Route

__all__ = ["AgentSpec", "BatchedEnv", "EnvSpec", "Head", "Route", "Step", "UserError"]
