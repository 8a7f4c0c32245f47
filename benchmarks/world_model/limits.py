"""What the small world model is worth where the world is not the one that it was built beside.

    python -m benchmarks.world_model.limits                  every environment, then the table
    python -m benchmarks.world_model.limits --only torus     one of them, printed, not stored

simple_spread with its bodies of .15 and with bodies of .16, simple_tag (speed limits; bodies of several sizes), and two
agents on a torus of 5 x 5 cells. Protocol: random policy; 200 episodes, of which every tenth is held out to choose what
imagines; other 400 to predict; 5 steps observed, 20 predicted from the actions alone; one seed.
Results: benchmarks/results/world_model/limits.json, limits.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

import envs
from benchmarks.gumbel.page import meta
from benchmarks.world_model.prediction import RESULTS, STEPS, steps_of
from envs.mpe.env import MPE
from envs.mpe.tasks.simple_spread import SimpleSpread
from envs.streams import Stream
from marl.config.world_model import WorldModelConfig
from marl.runs.durable import replace_text
from marl.world_model.assess import assess, collect_in
from marl.world_model.layout import Layout
from marl.world_model.sequences import FrameStore
from marl.world_model.small.model import SmallModel

EPISODES, TEST, REPLICAS, UPDATES = 200, 400, 1, 200
LEVELS = ("copy last", "linear", "pushes", "networks")


def spread(size: float, num_envs: int) -> MPE:
    """simple_spread with bodies of another size; rewards still count a collision below .30."""
    scenario = SimpleSpread()
    scenario.agents = [replace(body, size=size) for body in scenario.agents]
    return MPE(scenario, num_envs)


WORLDS: dict[str, Callable[[int], envs.BatchedEnv]] = {
    "simple_spread, bodies of .15": lambda count: spread(0.15, count),
    "simple_spread, bodies of .16": lambda count: spread(0.16, count),
    "simple_tag": lambda count: envs.make("simple_tag", num_envs=count),
    "torus of 5 x 5": lambda count: envs.make(
        "benchmarks.world_model.torus:torus", num_envs=count, backend="pettingzoo"
    ),
}


def measure(
    make: Callable[[int], envs.BatchedEnv], episodes: int = EPISODES, test: int = TEST, replicas: int = REPLICAS,
    updates: int = UPDATES,
) -> dict[str, Any]:  # fmt: skip
    """Errors of the small model and of simple predictors, the level that imagines, processor seconds."""
    learned = collect_in(make(replicas * episodes), None, replicas, STEPS, 1)
    unseen = collect_in(make(replicas * test), None, replicas, STEPS, 1_000_000)
    layout = Layout(make(1).spec)
    model = SmallModel(layout, WorldModelConfig(), 0.95, Stream(0, "model", range(replicas)))
    widths = (layout.full_size, layout.action_size, layout.spec.num_agents)
    training, held_out = (FrameStore(widths, replicas, episodes, episodes * (STEPS + 1), "cpu") for _ in range(2))
    mask = (torch.arange(episodes) % 10 != 9).expand(replicas, -1)
    start = time.process_time()
    for step in steps_of(learned, slice(None)):
        training.add(step, mask)
        held_out.add(step, ~mask)
        model.absorb(step, mask)
    stream = Stream(0, "training", range(replicas))
    for _ in range(updates):
        model.update(training.windows(STEPS // 2 + 1, 32, stream), stream)
    model.calibrate(held_out.windows(STEPS + 1, 32, stream), stream)
    spent = time.process_time() - start
    result = assess(model, layout, unseen, learned, Stream(0, "test", range(replicas)))
    radii = [] if model.solved.pushes is None else model.solved.pushes.radius_SK.tolist()
    return {
        **result.to_json(),
        "level": [LEVELS[level] for level in model.level_S.tolist()],
        "radii": [[round(radius, 5) for radius in row if radius > 0] for row in radii],
        "cpu_seconds": round(spent, 1),
    }


def table(worlds: dict[str, Any]) -> str:
    """Markdown: means over replicas, and their range for the model."""
    lines = [
        "| environment | copy last | linear | small model | imagined by | rewards' R² after 5 |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in worlds.items():
        error = {kind: entry["all"] for kind, entry in result["rmse"].items()}
        simple = " | ".join(f"{np.mean(error[kind]):.3g}" for kind in ("copy last", "linear"))
        own = f"{np.mean(error['model']):.2g} ({min(error['model']):.2g} to {max(error['model']):.2g})"
        rewards = f"{np.mean([row[4] for row in result['reward_r2']]):.2f}"
        lines.append(f"| {name} | {simple} | {own} | {', '.join(sorted(set(result['level'])))} | {rewards} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m benchmarks.world_model.limits`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.world_model.limits", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--only", help="the environments whose name contains this; nothing is stored")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    worlds = {name: measure(make) for name, make in WORLDS.items() if (options.only or "") in name}
    if options.only is None:
        RESULTS.mkdir(parents=True, exist_ok=True)
        numbers = {"worlds": worlds, "meta": meta("python -m benchmarks.world_model.limits")}
        replace_text(RESULTS / "limits.json", json.dumps(numbers) + "\n")
        replace_text(RESULTS / "limits.md", table(worlds))
    print(table(worlds))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
