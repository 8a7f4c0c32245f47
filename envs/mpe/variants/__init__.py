"""speaker_listener_variant: a task for research on channels, as tensors and as a PettingZoo environment."""

from __future__ import annotations

from typing import Any

__all__ = ["parallel_env"]


def __getattr__(name: str) -> Any:
    """`parallel_env`, imported when it is first asked for: the catalogue, which it needs, reads the settings first."""
    if name == "parallel_env":
        from envs.mpe.variants.parallel import parallel_env

        return parallel_env
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
