"""The command `python -m marl.world_model.evaluate`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from envs.commands import run


@dataclass(frozen=True)
class CommandLine:
    """Looks at the world model of a run: how far ahead it can be trusted.

      python -m marl.world_model.evaluate RUN          prints a table, writes figures beside the run
      python -m marl.world_model.evaluate RUN --episodes 500 --seed 7 --json FILE --gif FILE --own-policy

    Fresh episodes are played under random actions (or the run's own policy), five steps of each are observed and the
    rest is predicted from the actions alone. Written to RUN: world_model.json, world_model_errors.png,
    world_model_latents.png (models with latents) and world_model.gif, imagined (rings) against true (dots). Where
    agents observe pictures, the film and world_model_strip.png show imagined pictures below true ones.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run directory of a training with --world-model."""
    episodes: int = 200
    """Episodes of each replica."""
    seed: int = 0
    """Seed of the episodes."""
    own_policy: bool = False
    """Act by the run's policy; default: at random."""
    json: Annotated[Path | None, arg(metavar="FILE")] = None
    """Where the numbers go; default: beside the run."""
    gif: Annotated[Path | None, arg(metavar="FILE")] = None
    """Where the film goes; default: beside the run."""


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m marl.world_model.evaluate`; returns the exit code."""
    return run(CommandLine, _written, "python -m marl.world_model.evaluate", argv)


def _written(options: CommandLine) -> str:
    from marl.world_model.prediction import written  # here: --help need not wait for torch

    return written(options)


if __name__ == "__main__":
    sys.exit(main())
