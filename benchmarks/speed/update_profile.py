"""Where does the time of an update go? Every call inside the explicit update, timed in its place.

    python -m benchmarks.speed.update_profile [--env simple_speaker_listener] [--replicas 1 16] [--batches 128 256]

The settings that ship for the task, on one pinned core. Four numbers of every case, measured in turn, round after
round (medians of the rounds):

- the update as it runs, and its matrix products alone: one after another in their buffers, nothing in between;
- the products *in their place*: the same calls timed inside the update, where every loop between two products takes
  part of the caches from them;
- every kernel in its place, by name: calls and milliseconds;
- the rest: Python between the calls, and torch's calls that are neither (views, copies, the noise's logarithms).

Processor time; what timing a call costs is taken off. Written: benchmarks/results/update/profile.json
and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine
from benchmarks.speed.update_cases import CALLS, PROGRESS, UPDATES, Case
from marl.learner.explicit import perceptrons
from marl.learner.explicit import update as explicit_update
from marl.learner.explicit.kernels import NAMES
from marl.training.devices import keep_freed_memory

RESULTS = Path(__file__).resolve().parents[1] / "results" / "update"
PRODUCTS = "products, in their place"
REST = "the rest: Python, views, copies, logarithms"
Clock = dict[str, list[int]]  # name -> nanoseconds and calls


class Stopwatch:
    """Wraps functions and adds up their time by name."""

    def __init__(self) -> None:
        self.spent: Clock = defaultdict(lambda: [0, 0])
        self.cost = 0
        empty = self.around("nothing", lambda: None)
        for _ in range(20_000):
            empty()
        nanoseconds, calls = self.spent.pop("nothing")
        self.cost = nanoseconds // calls

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, timed."""
        clock = time.thread_time_ns

        def timed(*args: Any, **named: Any) -> Any:
            start = clock()
            result = function(*args, **named)
            spent = self.spent[name]
            spent[0] += clock() - start - self.cost
            spent[1] += 1
            return result

        return timed


class _TimedTorch:
    """`torch` as a module sees it, whose products are timed."""

    def __init__(self, watch: Stopwatch) -> None:
        self._products = {name: watch.around(PRODUCTS, getattr(torch, name)) for name in CALLS}

    def __getattr__(self, name: str) -> Any:
        return self._products.get(name) or getattr(torch, name)


def profile(env_id: str, form: str, replicas: int, rows: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of one update of all replicas, by what they are spent on.

    Returns:
        `update` and `products alone`, milliseconds; `parts`: name -> [milliseconds, calls] in the update.
    """
    case = Case(env_id, replicas, rows)
    contenders = case.contenders()
    watch = Stopwatch()
    learner, source = case.learner, case.replay
    learner.use(form)
    learner.update_many(source, rows, UPDATES, PROGRESS)
    kernels = learner._explicit_at(rows).form
    for name in NAMES:
        if getattr(kernels, name) is not None:
            setattr(kernels, name, watch.around(name, getattr(kernels, name)))
    kept: dict[str, list[float]] = defaultdict(list)
    for k in range(rounds + 1):
        plain = {name: min(contenders[name](4)) / UPDATES for name in ("products", f"explicit, {form}")}
        watch.spent.clear()
        modules = (explicit_update, perceptrons)
        for module in modules:
            module.torch = _TimedTorch(watch)  # type: ignore[attr-defined]
        try:
            start = time.thread_time_ns()
            learner.update_many(source, rows, UPDATES, PROGRESS)
            whole = time.thread_time_ns() - start
        finally:
            for module in modules:
                module.torch = torch  # type: ignore[attr-defined]
        if not k:
            continue
        kept["products alone"].append(plain["products"] * 1e3)
        kept["update"].append(plain[f"explicit, {form}"] * 1e3)
        for name, (spent, _) in watch.spent.items():
            kept[name].append(spent / UPDATES / 1e6)
        calls = sum(calls for _, calls in watch.spent.values())
        inside = sum(spent for spent, _ in watch.spent.values())
        kept[REST].append((whole - inside - calls * 2 * watch.cost) / UPDATES / 1e6)
    count = {name: calls / UPDATES for name, (_, calls) in watch.spent.items()}
    medians = {name: statistics.median(values) for name, values in kept.items()}
    parts = {name: [ms, count.get(name)] for name, ms in medians.items() if name not in ("update", "products alone")}
    return {"update": medians["update"], "products alone": medians["products alone"], "parts": parts}


def table(cases: dict[str, dict[str, Any]]) -> str:
    """Markdown: milliseconds, calls, and the share of the update of every part, largest first."""
    lines = [
        "| kernels, replicas, batch | part of the update | ms | calls | / products alone |",
        "|---|---|---:|---:|---:|",
    ]
    for name, case in cases.items():
        floor = case["products alone"]
        for what in ("update", "products alone"):
            lines.append(f"| {name} | **{what}** | {case[what]:.2f} | | {case[what] / floor:.2f} |")
        for part, (ms, calls) in sorted(case["parts"].items(), key=lambda item: -item[1][0]):
            shown = "" if calls is None else f"{calls:.3g}"
            lines.append(f"| {name} | {part if ' ' in part else f'`{part}`'} | {ms:.3f} | {shown} | {ms / floor:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--env", default="simple_speaker_listener")
    parser.add_argument("--forms", nargs="+", default=["numba", "torch"], help="of the kernels")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    keep_freed_memory()
    cases = {
        f"{form}, {s}, {b}": profile(args.env, form, s, b, args.rounds)
        for form in args.forms
        for s in args.replicas
        for b in args.batches
    }
    about = {"machine": machine(), "env": args.env, "rounds": args.rounds}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "profile.json").write_text(json.dumps({"about": about, "cases": cases}) + "\n")
    (args.out / "profile.md").write_text(table(cases) + f"\n{about['machine']}; medians of {args.rounds} rounds.\n")
    print(table(cases))


if __name__ == "__main__":
    main()
