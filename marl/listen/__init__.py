"""listen.html: a page on which a person plays with a trained partner. `python -m marl.listen RUN` writes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marl.lazy import lazy

if TYPE_CHECKING:
    from marl.listen.page import write_listen

__all__ = ["write_listen"]

__getattr__ = lazy(__name__, {"write_listen": "marl.listen.page"})
