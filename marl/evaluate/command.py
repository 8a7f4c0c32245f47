"""The command line of `python -m marl.evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from envs.commands import run

EPISODES, PRETRAINED_EPISODES = 1000, 200
"""Of each replica where nothing is said: of a run, and of a policy that comes with the package, for a first look."""


@dataclass(frozen=True)
class CommandLine:
    """Plays a trained policy, or a scripted one, in the real environment and prints what it earned.

      python -m marl.evaluate RUN                      every replica of a run, greedy
      python -m marl.evaluate RUN --sampled --episodes 4000 --json result.json --gif film.gif
      python -m marl.evaluate RUN --against OTHER_RUN  competitive tasks: both ways round
      python -m marl.evaluate RUN --against chase      or against a scripted opponent
      python -m marl.evaluate simple_reference --pretrained      a policy that comes with the package, in seconds
      python -m marl.evaluate simple_reference --pretrained --replica 0 1 2 --episodes 1000      all of it
      python -m marl.evaluate --scripted oracle --env simple_reference
      python -m marl.evaluate --scripted chase+flee --env simple_tag

    Score: 0 is random, 1 the best known. Gain: 0 is the best without messages.
    """

    run: Annotated[Positional[Path | None], arg(metavar="[RUN]")] = None
    """Run directory, as training printed it; with --pretrained the task; left out with --scripted."""
    pretrained: bool = False
    """RUN is a task: play the policy of the tables of results that comes with the package."""
    episodes: Annotated[int | None, arg(metavar="INT")] = None
    """Episodes of each replica; default: 1000, with --pretrained 200."""
    seed: int = 0
    """Episode i is reset with this seed plus i."""
    max_steps: int = 10_000
    """Steps after which an episode is stopped, with a warning; an environment's own longer time limit takes
    precedence."""
    seconds: float = 0.0
    """About the seconds after which the rest of the episodes is not played; 0: no limit."""
    sampled: bool = False
    """Sample every choice; default: the likeliest one."""
    json: Annotated[Path | None, arg(metavar="FILE")] = None
    """Write everything that was measured here too."""
    gif: Annotated[Path | None, arg(metavar="FILE")] = None
    """Film three episodes, with the messages said."""
    replica: Annotated[tuple[int, ...], arg(metavar="I ...")] = ()
    """These replicas of RUN only; default: all, with --pretrained the first."""
    checkpoint: Annotated[int | None, arg(metavar="STEP")] = None
    """The checkpoint of RUN at this step; default: the newest."""
    backend: Literal["pettingzoo", "torch"] = "pettingzoo"
    """The real environment, or our batched port of it."""
    against: Annotated[str | None, arg(metavar="RUN|SCRIPT")] = None
    """Competitive tasks: each side against the other side of this one."""
    scripted: Annotated[str | None, arg(metavar="NAME")] = None
    """Evaluate a scripted policy; two sides: NAME+NAME."""
    env: Annotated[str | None, arg(metavar="ID")] = None
    """The environment of --scripted."""

    def number_of_episodes(self) -> int:
        """Of each replica."""
        default = PRETRAINED_EPISODES if self.pretrained else EPISODES
        return default if self.episodes is None else self.episodes

    def replicas(self) -> tuple[int, ...]:
        """Those of RUN that play; () for all."""
        return self.replica or ((0,) if self.pretrained else ())


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m marl.evaluate`; returns the exit code."""
    return run(CommandLine, _written, "python -m marl.evaluate", argv)


def _written(options: CommandLine) -> str:
    from marl.evaluate.returns import written  # here: --help need not wait for torch

    return written(options)
