"""The command line of `python -m marl.teaching`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from envs.commands import run


@dataclass(frozen=True, kw_only=True)
class CommandLine:
    """Ease of teaching: how soon fresh agents learn beside frozen ones.

      python -m marl.teaching RUN --learners listener_0        six fresh listeners beside the run's speaker
      python -m marl.teaching RUN --learners speaker_0         six fresh speakers beside the run's listener

    A language that is easy to learn is soon learnt. Prints the steps to each gain, and writes the curves to
    teaching.json in the directory of the training.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run directory, as training printed it."""
    learners: Annotated[tuple[str, ...], arg(metavar="AGENT ...")]
    """Agents to train from scratch."""
    replica: int = 0
    """Whose policy is frozen."""
    students: int = 6
    """Independent sets of learners; six or more for a finite interval."""
    total_steps: int = 50_000
    """Environment steps of each."""
    episodes: int = 50
    """Episodes of each of the 20 evaluations."""
    seed: int = 0
    """Root seed of the students."""
    device: str = "auto"
    """What the training runs on: auto, cpu, cuda or cuda:i."""
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """Directory of the training; default: RUN/teaching_AGENT."""


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m marl.teaching`; returns the exit code."""
    return run(CommandLine, _taught, "python -m marl.teaching", argv)


def _taught(options: CommandLine) -> str:
    from marl.teaching.ease import ease_of_teaching, in_words  # here: --help need not wait for torch

    result = ease_of_teaching(
        options.run, options.learners, replica=options.replica, students=options.students,
        total_steps=options.total_steps, episodes=options.episodes, seed=options.seed, device=options.device,
        out=options.out, progress=True,
    )  # fmt: skip
    return in_words(result)
