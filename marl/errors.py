"""Faults that end a run: the user's (exit code 2) and the run's own (exit code 1)."""

from __future__ import annotations

try:
    from envs.errors import Failure, UserError, did_you_mean
except ModuleNotFoundError as error:
    import envs

    raise ImportError(
        f"another package named envs, {envs.__file__}, hides the one that belongs to marl. Rename its folder, or start "
        f"from another directory; a folder envs without __init__.py does not hide it."
    ) from error

__all__ = ["Failure", "RunFailed", "UserError", "did_you_mean"]


class RunFailed(Failure):
    """The run cannot go on (NaN, a dead worker, a full disk): says where, and which checkpoint is good."""
