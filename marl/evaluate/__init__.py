"""What policies earn in the real environments. `python -m marl.evaluate RUN` prints it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marl.lazy import lazy

if TYPE_CHECKING:
    from marl.evaluate.returns import evaluate

__all__ = ["evaluate"]

__getattr__ = lazy(__name__, {"evaluate": "marl.evaluate.returns"})
