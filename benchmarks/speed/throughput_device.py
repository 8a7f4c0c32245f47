"""Steps per second of our MPE on one device against the number of environments, up to the knee.

    python -m benchmarks.speed.throughput --device cuda

Three ways to step: *eager*; *compiled*, by torch.compile; *graph* and *compiled graph*, a CUDA graph of a whole round
of 25 steps with its resets, which is possible because the host knows beforehand which rows end when. Actions are drawn
beforehand. The clock is stopped after the device has finished.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import envs
from envs.mpe.env import usable_device

HORIZON = 25
COUNTS = tuple(2**power for power in range(8, 23))
MODES = ("eager", "compiled", "graph", "compiled graph")
ENOUGH = 0.9  # of the best rate: the smallest number of environments that reaches it is the knee
Round = Callable[[], Any]


def prepare(task: str, count: int, device: str, mode: str) -> Round:
    """A function that plays one round of 25 steps, resets included."""
    env: Any = envs.make(task, num_envs=count, device=device)
    if "compiled" in mode:
        torch._dynamo.reset()
        env.compile()
    generator = torch.Generator(device).manual_seed(0)
    sizes = env.spec.head_mask.sum(2).clamp(min=1)[:, None].to(device)
    shape = (HORIZON, env.spec.num_agents, count, env.spec.num_heads)
    ring = (torch.rand(shape, generator=generator, device=device) * sizes).long().unbind(0)

    def play() -> Any:
        for actions in ring:
            step = env.step(actions)
        return step

    if "graph" not in mode:
        return play
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):  # compiles, checks the actions, fills the caches of views
            play()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = play()

    def replay() -> Any:
        graph.replay()
        return kept

    return replay


def rate(play: Round, count: int, device: str, repeats: int = 5, seconds: float = 0.2) -> float:
    """Steps per second: median of the repeats, each of `seconds` at least."""

    def finish() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)

    play()
    rates = []
    for _ in range(repeats):
        finish()
        steps, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            play()
            finish()
            steps += HORIZON * count
        rates.append(steps / (time.perf_counter() - start))
    return statistics.median(rates)


def sweep(device: str, tasks: Sequence[str], counts: Sequence[int], modes: Sequence[str]) -> list[dict[str, Any]]:
    """One row for each task, way and number of environments, until memory ends or the rate falls far off its best."""
    rows = []
    for task in tasks:
        for mode in modes:
            best = 0.0
            for count in counts:
                try:
                    result = rate(prepare(task, count, device, mode), count, device)
                except torch.OutOfMemoryError:
                    break
                rows.append({"task": task, "mode": mode, "envs": count, "rate": result})
                best = max(best, result)
                if result < best / 2:
                    break
    return rows


def knee(points: Sequence[tuple[int, float]]) -> tuple[int, float]:
    """(environments, rate) of the smallest number that reaches `ENOUGH` of the best rate."""
    best = max(rate for _, rate in points)
    return next((count, rate) for count, rate in sorted(points) if rate >= ENOUGH * best)


def draw(rows: Sequence[dict[str, Any]], device: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    tasks = list(dict.fromkeys(row["task"] for row in rows))
    figure, axes = plt.subplots(1, len(tasks), figsize=(4 * len(tasks), 3.6), sharey=True, squeeze=False)
    for axis, task in zip(axes[0], tasks, strict=True):
        for mode in dict.fromkeys(row["mode"] for row in rows):
            points = [(row["envs"], row["rate"]) for row in rows if row["task"] == task and row["mode"] == mode]
            if points:
                axis.loglog(*zip(*points, strict=True), marker=".", label=mode)
        axis.set_title(task)
        axis.set_xlabel("environments")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel(f"steps per second on {device}")
    axes[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def sweep_and_save(
    device: str, tasks: Sequence[str], out: Path, counts: Sequence[int] = COUNTS, modes: Sequence[str] = MODES
) -> str:
    """Sweep, write `throughput_<device>.json` and `.png` into `out`, and tell the knees.

    Raises:
        UserError: there is no such device.
    """
    usable_device(device)
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    rows = sweep(device, tasks, counts, modes)
    stem = f"throughput_{device.replace(':', '')}"
    results = {"device": name, "torch": torch.__version__, "dtype": "float32", "rows": rows}
    (out / f"{stem}.json").write_text(json.dumps(results, indent=1) + "\n")
    draw(rows, name, out / f"{stem}.png")
    lines = [f"{name}, torch {torch.__version__}"]
    for task, mode in dict.fromkeys((row["task"], row["mode"]) for row in rows):
        points = [(row["envs"], row["rate"]) for row in rows if (row["task"], row["mode"]) == (task, mode)]
        count, reached = knee(points)
        lines.append(f"{task}, {mode}: {reached:.3g} steps/s at the knee of {count:,} environments")
    return "\n".join(lines)
