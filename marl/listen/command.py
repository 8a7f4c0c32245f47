"""The command line of `python -m marl.listen`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from envs.commands import run


@dataclass(frozen=True)
class CommandLine:
    """listen.html: take the place of one agent beside its trained partner, in a browser.

      python -m marl.listen RUN                                     writes RUN/listen.html
      python -m marl.listen simple_speaker_listener --pretrained    a policy that comes with the package

    For simple_speaker_listener and simple_reference. The page is one file that needs no server and no network: open it.
    You hear what the speaker says, or speak yourself, and your score stands beside that of the trained pair, of the
    best known plan and of play without a word, all on the same episodes.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run directory, as training printed it; with --pretrained the task."""
    pretrained: bool = False
    """RUN is a task: play with the policy of the tables of results that comes with the package."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """The page; default: RUN/listen.html, with --pretrained runs/pretrained/RUN/listen.html."""
    replica: Annotated[int | None, arg(metavar="I")] = None
    """The replica of RUN; default: the one that its pictures show, else the first."""
    episodes: int = 6
    """Rounds of a game."""
    seed: int = 19
    """Round i is reset with this seed plus i. From the default on, every goal of simple_speaker_listener comes up
    twice in six rounds."""


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m marl.listen`; returns the exit code."""
    return run(CommandLine, _written, "python -m marl.listen", argv)


def _written(options: CommandLine) -> str:
    from marl.listen.page import written  # here: --help need not wait for torch

    return written(options)
