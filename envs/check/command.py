"""The command line of `python -m envs.check`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from envs.commands import Answer, run


@dataclass(frozen=True)
class CommandLine:
    """Does an environment keep the contract that learning relies on?

      python -m envs.check my_package.my_module:my_env
      python -m envs.check simple_spread N=4 --episodes 5

    Plays random episodes and lists every breach. Exit code 0: it keeps the contract; 2: it does not.
    """

    env: Annotated[Positional[str], arg(metavar="ENV")]
    """An MPE id, or package.module:function that returns a ParallelEnv."""
    env_args: Annotated[Positional[tuple[str, ...]], arg(metavar="[NAME=VALUE ...]")] = ()
    """Keyword arguments of the environment."""
    episodes: int = 3
    """Episodes to play."""
    seed: int = 0
    """Seed of the first episode; the following ones count up."""
    max_steps: int = 2000
    """Steps within which an episode must end."""
    rebuild: bool = False
    """Play every episode in a new environment, as a run with --rebuild does."""


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m envs.check`; returns the exit code."""
    return run(CommandLine, _verdict, "python -m envs.check", argv)


def _verdict(options: CommandLine) -> Answer:
    from envs.check.verdict import verdict  # here: --help need not wait for PettingZoo

    return verdict(options)
