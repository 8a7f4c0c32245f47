"""Exported actors beside the policy in the real environment: how many of their decisions differ.

    python -m benchmarks.export                        every pretrained policy, 1000 episodes in each format
    python -m benchmarks.export simple_reference --episodes 100 --formats onnx

The policy plays, greedy, in `mpe2`; at every step the exported files are given the same observations. A decision is one
agent's action. They can differ where the logits of two choices are equal within rounding, since every program sums in
its own order: so can the policy itself between many observations at a time (torch) and one (numpy), which is counted
beside them. `gap` is the largest distance between the two best logits at a decision that differs.

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
    """The policy as a player, that counts where others decide otherwise.

    Args:
        task: of the pretrained policy.
        policy: it.
        others: {format: its exported actors}.
    """

    def __init__(self, task: str, policy: Policy, others: dict[str, Exported]) -> None:
        self._task, self._policy, self._others = task, policy, others
        self._single: list[Policy] = []  # one for each environment
        self.decisions, self.gap = 0, 0.0
        self.different = dict.fromkeys([*others, "policy, one observation at a time"], 0)

    def reset(self, num_envs: int) -> None:
        self._policy.reset(num_envs)
        self._single += [Policy.pretrained(self._task) for _ in range(num_envs - len(self._single))]
        for player in (*self._single, *self._others.values()):
            player.reset(1)

    def act(self, observations: dict[str, Any], masks: dict[str, Any] | None = None) -> dict[str, np.ndarray]:
        actions = self._policy.act(observations, masks)
        count = len(next(iter(actions.values())))
        self.decisions += count * len(actions)
        each = [
            policy({name: x[e] for name, x in observations.items()}) for e, policy in enumerate(self._single[:count])
        ]
        again = {"policy, one observation at a time": {name: np.array([one[name] for one in each]) for name in actions}}
        again |= {kind: other.act(observations, masks) for kind, other in self._others.items()}
        for kind, their in again.items():
            for agent in self._policy.spec.agents:
                differs = their[agent.name] != actions[agent.name]
                self.different[kind] += int(differs.sum())
                if differs.any() and kind in self._others:
                    self._note(self._others[kind].logits[agent.name][differs], [head.size for head in agent.heads])
        return actions

    def _note(self, logits: np.ndarray, sizes: list[int]) -> None:
        """Keep the largest distance of the two best logits, of each row in its closest head."""
        heads = np.split(logits, np.cumsum(sizes)[:-1], axis=1)
        gaps = [np.diff(np.sort(head, axis=1)[:, -2:], axis=1)[:, 0] for head in heads]
        self.gap = max(self.gap, float(np.min(gaps, axis=0).max()))


def compared(task: str, episodes: int, formats: list[str]) -> dict[str, Any]:
    """What `Beside` counts for a pretrained policy's first replica."""
    policy = Policy.pretrained(task)
    with tempfile.TemporaryDirectory() as scratch:
        others = {}
        for kind in formats:
            export(policy, Path(scratch) / kind, kind)
            others[kind] = Exported(Path(scratch) / kind, policy.spec)
        player = Beside(task, policy, others)
        play(task, player, episodes, SEED, spec=policy.spec)
    return {"episodes": episodes, "decisions": player.decisions, "different": player.different, "gap": player.gap}


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
