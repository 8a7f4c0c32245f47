"""The command line of `python -m marl.export`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from envs.commands import run


@dataclass(frozen=True)
class CommandLine:
    """Writes the actors of a run for other programs: one file for each agent, and a description of all.

      python -m marl.export RUN --format onnx --out actors         AGENT.onnx, for onnxruntime and the like
      python -m marl.export RUN --format torch --out actors        AGENT.pt2, for torch.export.load
      python -m marl.export simple_reference --pretrained --out actors

    A file takes an agent's observations (and action masks, where the environment has them) and returns logits and
    greedy choices. actors.json names every input and output with its shape: docs/export.md.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run directory, as training printed it; with --pretrained the task."""
    out: Annotated[Path, arg(metavar="DIR")]
    """Where the files go; made where it is missing."""
    format: Literal["onnx", "torch"] = "onnx"
    """ONNX, or a program of torch.export."""
    pretrained: bool = False
    """RUN is a task: export the policy that comes with the package."""
    replica: int = 0
    """The replica of RUN."""
    checkpoint: Annotated[int | None, arg(metavar="STEP")] = None
    """The checkpoint of RUN at this step; default: the newest."""


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m marl.export`; returns the exit code."""
    return run(CommandLine, _exported, "python -m marl.export", argv)


def _exported(options: CommandLine) -> str:
    from marl.export.files import exported  # here: --help need not wait for torch

    return exported(options)
