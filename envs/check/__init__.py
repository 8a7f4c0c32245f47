"""The environment contract: `envs.check(env)` in Python, `python -m envs.check ID` as a command."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from envs.check.command import check, main

__all__ = ["check", "main"]


class _CallablePackage(ModuleType):
    """`envs.check` is this package, since `python -m envs.check` needs one, and the function as well."""

    def __call__(self, *args: Any, **kwargs: Any) -> list[str]:
        return check(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
