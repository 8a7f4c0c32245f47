"""The environment contract: `envs.check(env)` in Python, `python -m envs.check ID` as a command."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from envs.check.verdict import check

__all__ = ["check"]


class _CallablePackage(ModuleType):
    """`envs.check` is this package, since `python -m envs.check` needs one, and the function as well."""

    def __call__(self, *args: Any, **kwargs: Any) -> list[str]:
        from envs.check.verdict import check  # here: --help need not wait for PettingZoo

        return check(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage


def __getattr__(name: str) -> Any:
    if name == "check":
        from envs.check.verdict import check

        return check
    raise AttributeError(f"module 'envs.check' has no attribute {name!r}")
