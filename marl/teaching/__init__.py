"""Fresh agents beside frozen ones. `python -m marl.teaching RUN --learners AGENT` times them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marl.lazy import lazy

if TYPE_CHECKING:
    from marl.teaching.ease import beside, ease_of_teaching

__all__ = ["beside", "ease_of_teaching"]

__getattr__ = lazy(__name__, {"beside": "marl.teaching.ease", "ease_of_teaching": "marl.teaching.ease"})
