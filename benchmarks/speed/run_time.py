"""Where does the time of a run go? A default run of each backend with a stopwatch around its parts.

    python -m benchmarks.speed.run_time [--total-steps 20000] [--out benchmarks/results/training]

Times are exclusive: what a part spends in another part of the list counts there. "all else" is the loop itself, the
set-up and whatever has no stopwatch.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from envs.mpe.env import MPE
from envs.pettingzoo.env import PettingZooEnv
from marl.cli.launch import main as run
from marl.data.collector import Collector
from marl.data.replay import Replay
from marl.learner.maddpg import MADDPG
from marl.runs import checkpoint
from marl.runs.logger import Logger
from marl.training import finish, rounds
from marl.training.evaluator import Evaluator

PARTS: list[tuple[str, Any, str]] = [
    ("environment", MPE, "step"),
    ("environment", PettingZooEnv, "step"),
    ("policy", MADDPG, "act"),
    ("collector", Collector, "collect"),
    ("storing", Replay, "add"),
    ("sampling", Replay, "sample"),
    ("relabelling", MADDPG, "relabel"),
    ("targets", MADDPG, "targets"),
    ("critic", MADDPG, "update_critic"),
    ("actor", MADDPG, "update_actor"),
    ("following", MADDPG, "_follow"),
    ("logging", Logger, "log"),
    ("logging", Logger, "advance"),
    ("logging", Logger, "flush"),
    ("diagnostics", rounds, "diagnose"),
    ("evaluation", Evaluator, "during_training"),
    ("checkpoints", checkpoint, "save"),
    ("final evaluation", finish, "_final_evaluation"),
    ("report", finish, "_page"),
]


class Stopwatch:
    """Exclusive seconds of every part; parts may call each other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._open: list[tuple[str, float]] = []  # name, time when it last went on

    def _count(self) -> float:
        now = time.perf_counter()
        if self._open:
            name, since = self._open[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - since
        return now

    def enter(self, name: str) -> None:
        self._open.append((name, self._count()))

    def leave(self) -> None:
        now = self._count()
        self._open.pop()
        if self._open:
            self._open[-1] = (self._open[-1][0], now)

    def around(self, name: str, function: Any) -> Any:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.enter(name)
            try:
                return function(*args, **kwargs)
            finally:
                self.leave()

        return timed


def measure(backend: str, total_steps: int) -> dict[str, float]:
    """Seconds of every part of one run."""
    watch = Stopwatch()
    originals = [(owner, method, getattr(owner, method)) for _, owner, method in PARTS]
    for (name, owner, method), (_, _, original) in zip(PARTS, originals, strict=True):
        setattr(owner, method, watch.around(name, original))
    try:
        with tempfile.TemporaryDirectory() as folder:
            words = ["--env", "simple_speaker_listener", "--backend", backend, "--total-steps", str(total_steps)]
            watch.enter("all else")
            code = run([*words, "--run-dir", f"{folder}/run", "--logging.no-progress"])
            watch.leave()
    finally:
        for owner, method, original in originals:
            setattr(owner, method, original)
    if code:
        raise SystemExit(code)
    return watch.seconds


def figure(found: dict[str, dict[str, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, len(found), figsize=(10, 4), sharey=True, layout="constrained")
    names = [*dict.fromkeys(name for name, _, _ in PARTS), "all else"]
    for ax, (backend, seconds) in zip(axes, found.items(), strict=True):
        total = sum(seconds.values())
        bars = ax.barh(names, [seconds.get(name, 0.0) for name in names])
        ax.bar_label(bars, [f" {100 * seconds.get(name, 0.0) / total:.0f} %" for name in names])
        ax.set_xlabel("seconds")
        ax.set_title(f"{backend}: {total:.0f} s", loc="left")
        ax.margins(x=0.15)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    fig.savefig(path, dpi=120)
    plt.close(fig)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--total-steps", type=int, default=20_000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/training"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    found = {backend: measure(backend, args.total_steps) for backend in ("torch", "pettingzoo")}
    (args.out / "run_time.json").write_text(json.dumps(found, indent=1) + "\n")
    figure(found, args.out / "run_time.png")
    for backend, seconds in found.items():
        print(backend, {name: round(value, 2) for name, value in seconds.items()})


if __name__ == "__main__":
    main()
