"""The HTML page of a run, and of several side by side. `python -m marl.report RUN` writes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marl.lazy import lazy

if TYPE_CHECKING:
    from marl.report.run_page import write_report

__all__ = ["write_report"]

__getattr__ = lazy(__name__, {"write_report": "marl.report.run_page"})
