"""What agents say, who listens, and what it is worth. `python -m marl.communication RUN` prints it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marl.communication.options import Options
from marl.lazy import lazy

if TYPE_CHECKING:
    from marl.communication.run_analysis import Analysis, analyse_players, analyse_run

__all__ = ["Analysis", "Options", "analyse_players", "analyse_run"]

_RUNS = "marl.communication.run_analysis"
__getattr__ = lazy(__name__, {"Analysis": _RUNS, "analyse_players": _RUNS, "analyse_run": _RUNS})
