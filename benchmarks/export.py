"""Exported actors beside the policy in the real environment: how many of their decisions differ.

    python -m benchmarks.export                        every pretrained policy, 1000 episodes in each format
    python -m benchmarks.export simple_reference --episodes 100 --formats onnx

The policy plays, greedy, in `mpe2`; at every step the exported files are given the same observations. A decision is one
agent's action. They may differ only where two choices are equal within rounding, since the formats sum in other orders.
Written: benchmarks/results/export.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine
from marl import Policy
from marl.errors import UserError
from marl.export.files import SUFFIXES, export
from marl.export.player import Exported
from marl.play.rollout import play
from marl.pretrained import library

RESULTS = Path(__file__).resolve().parent / "results" / "export.json"
SEED = 7_000_000  # of the first episode


class Beside:
    """The policy as a player, that counts where exported actors decide otherwise."""

    def __init__(self, policy: Policy, others: dict[str, Exported]) -> None:
        self._policy, self._others = policy, others
        self.decisions, self.different = 0, dict.fromkeys(others, 0)

    def reset(self, num_envs: int) -> None:
        self._policy.reset(num_envs)
        for other in self._others.values():
            other.reset(num_envs)

    def act(self, observations: dict[str, Any], masks: dict[str, Any] | None = None) -> dict[str, np.ndarray]:
        actions = self._policy.act(observations, masks)
        self.decisions += sum(len(one) for one in actions.values())
        for name, other in self._others.items():
            again = other.act(observations, masks)
            self.different[name] += sum(int((again[agent] != one).sum()) for agent, one in actions.items())
        return actions


def compared(task: str, episodes: int, formats: list[str]) -> dict[str, Any]:
    """{decisions, different: {format: count}} of a pretrained policy's first replica."""
    policy = Policy.pretrained(task)
    with tempfile.TemporaryDirectory() as scratch:
        others = {}
        for kind in formats:
            export(policy, Path(scratch) / kind, kind)
            others[kind] = Exported(Path(scratch) / kind, policy.spec)
        player = Beside(policy, others)
        play(task, player, episodes, SEED, spec=policy.spec)
    return {"episodes": episodes, "decisions": player.decisions, "different": player.different}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="*", help="pretrained policies (default: all)")
    parser.add_argument("--episodes", type=int, default=1000, help="of each (default 1000)")
    parser.add_argument("--formats", nargs="+", choices=list(SUFFIXES), default=list(SUFFIXES), help="default: all")
    options = parser.parse_args()
    tasks = {}
    for task in options.tasks or library.names():
        tasks[task] = compared(task, options.episodes, options.formats)
        print(task, tasks[task], flush=True)
    if not options.tasks:
        record = {"command": " ".join(["python -m benchmarks.export", *sys.argv[1:]]), "machine": machine()}
        RESULTS.write_text(json.dumps({**record, "seed": SEED, "tasks": tasks}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f"error: {error}")
