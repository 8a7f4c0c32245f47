"""The command line of `python -m marl.report`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from envs.commands import run


@dataclass(frozen=True)
class CommandLine:
    """report.html: one self-contained page about a run, and a page that compares several.

      python -m marl.report RUN                      writes RUN/report.html
      python -m marl.report RUN RUN ... [--out FILE] prints a table and writes the comparison (comparison.html)

    Pictures and numbers are those that lie in the run directory: run python -m marl.evaluate and python -m
    marl.communication first for the newest ones.
    """

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN ...")]
    """Run directories, as training printed them."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """The page; default: RUN/report.html, or comparison.html for several runs."""
    marl_eval: Annotated[Path | None, arg(metavar="FILE")] = None
    """Write the learning curves of the runs as raw data for the package marl-eval too."""


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m marl.report`; returns the exit code."""
    return run(CommandLine, _written, "python -m marl.report", argv)


def _written(options: CommandLine) -> str:
    from marl.report.run_page import written  # here: --help need not wait for its pictures

    return written(options.runs, options.out, options.marl_eval)
