"""What does an update cost beside the matrix products that it cannot do without?

    python -m benchmarks.speed.update [--env simple_speaker_listener] [--rounds 15] [--out benchmarks/results/update]

The settings that ship for the task, one thread, processor time. Contenders run in turn in one process, a few calls
each, round after round: the products alone (every torch.bmm of the explicit update, with its operands, in its buffers),
the explicit update with numba's and with torch's kernels, and the update by autograd. A call is a training round's
sixteen updates with the batches that they draw; the products draw none. The table shows the medians over rounds of
each round's fastest call, by update, and medians of each round's own ratios.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import envs
from envs.streams import Stream
from marl.config.resolve import tuned
from marl.data.collector import Collector
from marl.data.replay import Replay
from marl.learner import explicit_update, perceptrons
from marl.learner.kernels import select
from marl.learner.maddpg import MADDPG
from marl.training.devices import keep_freed_memory

ENVS = 16
CALLS = ("bmm", "baddbmm")
UPDATES = 16  # of a training round: one for each environment


class _Recording:
    """`torch` as a module sees it, which keeps what its products are called with."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], Any]] = []

    def __getattr__(self, name: str) -> Any:
        function = getattr(torch, name)
        if name not in CALLS:
            return function

        def kept(*args: Any, **named: Any) -> Any:
            self.calls.append(lambda: function(*args, **named))
            return function(*args, **named)

        return kept


class Case:
    """One task, number of replicas and batch size: every contender has a learner of its own, all alike."""

    def __init__(self, env_id: str, replicas: int, rows: int) -> None:
        settings = tuned(env_id)
        env = envs.make(env_id, replicas * ENVS)
        env.reset(seed=0)
        if settings.maddpg.frames > 1:
            raise SystemExit(f"{env_id} sees several frames: name another task")
        learner = MADDPG(env.spec, settings.maddpg, 0, range(replicas))
        stream = Stream(0, "replay", range(replicas))
        replay = Replay(env.spec, 4000, ENVS, stream, settings.maddpg.gamma, settings.maddpg.n_step)
        collector = Collector(env, learner.act, replicas)
        for _ in range(60):
            replay.add(collector.collect()[0])
        self.batch = replay.sample(rows)
        self.contenders: dict[str, Callable[[], Any]] = {}
        forms = ["torch"] if select().form == "torch" else ["numba", "torch"]
        for name in [*(f"explicit, {form}" for form in forms), "autograd"]:
            one = copy.deepcopy(learner)
            if name == "autograd":
                one.autograd = "the reference"
            else:
                one.kernel_form = name.split(", ")[1]
            source = copy.deepcopy(replay)
            self.contenders[name] = lambda one=one, source=source: one.update_many(source, rows, UPDATES, 0.1)
        self.contenders = {"products": self._products(learner), **self.contenders}

    def _products(self, learner: MADDPG) -> Callable[[], None]:
        """All products of one update, as recorded while it ran."""
        recording = _Recording()
        modules = (explicit_update, perceptrons)
        learner.update(self.batch, 0.1)
        for module in modules:
            module.torch = recording  # type: ignore[attr-defined]
        try:
            learner.update(self.batch, 0.1)
        finally:
            for module in modules:
                module.torch = torch  # type: ignore[attr-defined]
        calls = recording.calls

        def products() -> None:
            for _ in range(UPDATES):
                for call in calls:
                    call()

        return products


def fastest(function: Callable[[], object], repeats: int) -> float:
    """Processor seconds of an update in the fastest of `repeats` calls."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    return min(seconds) / UPDATES


def measure(case: Case, rounds: int, repeats: int) -> dict[str, list[float]]:
    """Processor seconds: contender -> one number a round; a first round warms up."""
    results: dict[str, list[float]] = {name: [] for name in case.contenders}
    for k in range(rounds + 1):
        for name, function in case.contenders.items():
            seconds = fastest(function, repeats)
            if k:
                results[name].append(seconds)
    return results


def table(result: dict[str, dict[str, list[float]]]) -> str:
    """Markdown: milliseconds of one update of all replicas, then ratios."""
    lines = ["| replicas, batch | contender | ms | / products | / autograd |", "|---|---|---|---|---|"]
    for case, seconds in result.items():
        for name, times in seconds.items():
            ratios = [
                statistics.median(t / other for t, other in zip(times, seconds[base], strict=True))
                for base in ("products", "autograd")
            ]
            lines.append(
                f"| {case} | {name} | {statistics.median(times) * 1e3:.2f} | {ratios[0]:.2f} | {ratios[1]:.3f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--env", default="simple_speaker_listener")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 256, 1024])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/update"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    results = {}
    for replicas in args.replicas:
        for rows in args.batches:
            repeats = max(512 // (replicas * rows), 2)
            results[f"{replicas}, {rows}"] = measure(Case(args.env, replicas, rows), args.rounds, repeats)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"{args.env}.json").write_text(json.dumps(results) + "\n")
    (args.out / f"{args.env}.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
