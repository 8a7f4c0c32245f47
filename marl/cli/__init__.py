"""The command line of `run.py`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from marl.cli.parse import parse

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the command line says and return the exit code; see `marl.cli.launch.main`.

    Args:
        argv: the arguments without the program's name; None: the process's own.
    """
    began = time.perf_counter()
    words = list(sys.argv[1:] if argv is None else argv)
    if "--help" in words or "-h" in words:  # here: it need not wait for torch
        try:
            parse(words)
        except SystemExit as stop:
            return int(stop.code or 0)
    from marl.cli.launch import main as launch

    return launch(words, began)
