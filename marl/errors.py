"""Faults that end a run: the user's (exit code 2) and the run's own (exit code 1)."""

from __future__ import annotations

from envs.errors import UserError, did_you_mean

__all__ = ["RunFailed", "UserError", "did_you_mean"]


class RunFailed(Exception):
    """The run cannot go on (NaN, a dead worker, a full disk): says where, and which checkpoint is good."""
