"""What the RSSM knows after a hundred random episodes, by decoder and number of updates.

    python -m benchmarks.world_model.few_episodes                                  every task and arm, then the table
    python -m benchmarks.world_model.few_episodes --env simple_reference --arms change      printed, not stored

Errors in standard deviations of each entry after 1 to 20 open-loop steps from every frame of 200 episodes that it has
not learned from (the measure of the gate, marl/world_model/imagination/gate.py); random policy, one seed. By what
rewards are told is chosen on 20 further episodes.
Results: benchmarks/results/world_model/few_episodes.json, few_episodes.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import torch

import envs
from benchmarks.gumbel.page import meta
from benchmarks.world_model.prediction import RESULTS, STEPS, configuration, stored
from envs.streams import Stream
from marl.runs.durable import replace_text
from marl.world_model.assess import collect
from marl.world_model.imagination.gate import rollout_errors
from marl.world_model.imagination.source import make_model
from marl.world_model.layout import Layout

TASKS = {"simple_speaker_listener": 100, "simple_reference": 150, "simple_spread": 150}  # episodes
ARMS: dict[str, tuple[str, ...]] = {
    "state": ("--wm.decoder", "state"),
    "change, no penalty": ("--wm.no-solved-rewards", "--wm.sparse", "0"),
    "change": ("--wm.no-solved-rewards",),
    "change, rewards solved for": (),
    "change, a state for every agent": ("--wm.no-solved-rewards", "--wm.factors", "agent"),
}
UPDATES = (150, 300, 600)
AHEAD = (1, 3, 8, 20)  # steps
TEST = 200
HELD_OUT = 20  # further episodes, by which a model chooses what of it imagines


def measure(env_id: str, episodes: int, flags: Sequence[str], updates: Sequence[int] = UPDATES) -> list[dict[str, Any]]:
    """After each number of updates: {updates, cpu_seconds, observation and reward: the errors after AHEAD steps}."""
    config = configuration(env_id, "rssm", flags)
    layout = Layout(envs.make(env_id).spec)
    learned, unseen = collect(env_id, None, 1, episodes, STEPS, 1), collect(env_id, None, 1, TEST, STEPS, 1_000_000)
    held_out = collect(env_id, None, 1, HELD_OUT, STEPS, 2_000_000)
    model = make_model(layout, config.wm, config.maddpg.gamma, Stream(0, "model", [0]))
    store = stored(learned, layout, model)
    stream, window = Stream(0, "training", [0]), config.wm.window or STEPS // 2 + 1
    results, started = [], time.process_time()
    for done in range(1, max(updates) + 1):
        seq = store.windows(window, config.wm.size("sequences"), stream)
        model.update(seq, stream, store.windows(2, model.pairs, stream) if model.pairs else None)
        if done in updates:
            spent = time.process_time() - started
            test = Stream(0, "test", [0])
            model.calibrate(held_out, Stream(0, "held out", [0]))
            errors = rollout_errors(model, model.observe(unseen, test), unseen, max(AHEAD), layout, test)
            observation, reward = ([round(float(row[0, k - 1]), 4) for k in AHEAD] for row in errors)
            results.append(
                {"updates": done, "cpu_seconds": round(spent, 1), "observation": observation, "reward": reward}
            )
            started = time.process_time() - spent
    return results


def table(tasks: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """Markdown: a row for every task, arm and number of updates."""
    ahead = " / ".join(map(str, AHEAD))
    lines = [
        f"| task, episodes | decoder | updates | observation after {ahead} steps | reward | processor s |",
        "|---|---|---|---|---|---|",
    ]
    for env_id, arms in tasks.items():
        for name, rows in arms.items():
            for row in rows:
                cells = [" / ".join(f"{x:.3f}" for x in row[what]) for what in ("observation", "reward")]
                start = f"| `{env_id}`, {TASKS[env_id]} | {name} | {row['updates']} | "
                lines.append(start + " | ".join(cells) + f" | {row['cpu_seconds']:.0f} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m benchmarks.world_model.few_episodes`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.world_model.few_episodes", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--env", choices=tuple(TASKS), nargs="+", default=list(TASKS), help="tasks (default: all)")
    parser.add_argument("--arms", choices=tuple(ARMS), nargs="+", default=list(ARMS), help="arms (default: all)")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    tasks = {
        env_id: {name: measure(env_id, TASKS[env_id], ARMS[name]) for name in options.arms} for env_id in options.env
    }
    if (options.env, options.arms) == (list(TASKS), list(ARMS)):
        numbers = {"tasks": tasks, "meta": meta("python -m benchmarks.world_model.few_episodes")}
        replace_text(RESULTS / "few_episodes.json", json.dumps(numbers) + "\n")
        replace_text(RESULTS / "few_episodes.md", table(tasks))
    print(table(tasks))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
