"""The command line of `run.py`."""

from marl.cli.launch import main

__all__ = ["main"]
