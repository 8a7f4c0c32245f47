"""The two kinds of environment ids: names of MPE tasks, and functions of any module."""

from __future__ import annotations


def names_function(env_id: str) -> bool:
    """Whether `env_id` is `package.module:function`, which only the pettingzoo backend plays; else it is an MPE id."""
    return ":" in env_id
