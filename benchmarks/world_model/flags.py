"""What the RSSM knows of who is there and what is allowed, after random episodes of an environment with both.

    python -m benchmarks.world_model.flags                                    the table, stored
    python -m benchmarks.world_model.flags --episodes 50 --updates 100        printed, not stored

Errors after 1 to 8 open-loop steps from every frame of 200 episodes of examples/own_environment.py that it has not
learned from, as the gate measures them (marl/world_model/imagination/gate.py): of the observation in standard
deviations of each entry, and the balanced error rate of the flags (marl/world_model/flags.py), beside that of the guess
that they stay as they are. Random policy, one seed.
Results: benchmarks/results/world_model/flags.json, flags.md.
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
from benchmarks.world_model.prediction import RESULTS, configuration, steps_of
from envs.streams import Stream
from marl.runs.durable import replace_text
from marl.world_model.assess import collect
from marl.world_model.imagination.choice import CopyLast
from marl.world_model.imagination.gate import rollout_errors
from marl.world_model.imagination.source import make_model, suited
from marl.world_model.layout import Layout
from marl.world_model.sequences import FrameStore
from marl.world_model.small.model import ObsState

ENV = "examples.own_environment:make"
STEPS, WINDOW = 12, 13  # of an episode at most; frames of a training sequence
AHEAD = (1, 2, 4, 8)  # steps
EPISODES, UPDATES, TEST = 300, 600, 200


def measure(episodes: int, updates: int, test: int = TEST) -> dict[str, Any]:
    """{model, as before: {observation, flags: errors after AHEAD steps}, cpu_seconds}."""
    spec = envs.make(ENV, num_envs=1, backend="pettingzoo").spec
    config, layout = configuration(ENV, "rssm", ()), Layout(spec)
    model = make_model(layout, suited(config.wm, spec), config.maddpg.gamma, Stream(0, "model", [0]))
    learned, unseen = (
        collect(ENV, None, 1, count, STEPS, seed, backend="pettingzoo")
        for count, seed in ((episodes, 1), (test, 1_000_000))
    )
    store = FrameStore(layout.widths, 1, episodes, episodes * (STEPS + 1), "cpu")
    for t, step in enumerate(steps_of(learned, slice(None))):
        store.add(step, learned.valid[:, t + 1])
        model.absorb(step, learned.valid[:, t + 1])
    stream, started = Stream(0, "training", [0]), time.process_time()
    for _ in range(updates):
        pairs = store.windows(2, model.pairs, stream) if model.pairs else None
        model.update(store.windows(WINDOW, config.wm.size("sequences"), stream), stream, pairs)
    spent = time.process_time() - started
    draws, same = Stream(0, "test", [0]), CopyLast(model.obs_scale, model.reward_scale)
    at = ObsState(unseen.obs[..., layout.dynamic_J].flatten(1, 2))
    results: dict[str, Any] = {"cpu_seconds": round(spent, 1)}
    for name, predictor, state in (("model", model, model.observe(unseen, draws)), ("as before", same, at)):
        observation, _, wrong = rollout_errors(predictor, state, unseen, max(AHEAD), layout, draws)
        results[name] = {
            what: [round(float(row[0, k - 1]), 4) for k in AHEAD]
            for what, row in (("observation", observation), ("flags", wrong))
        }
    return results


def table(result: dict[str, Any]) -> str:
    """Markdown: a row for the model and one for the guess that nothing changes."""
    ahead = " / ".join(map(str, AHEAD))
    lines = [f"| predictor | observation after {ahead} steps | flags, balanced error rate |", "|---|---|---|"]
    for name in ("model", "as before"):
        cells = [" / ".join(f"{x:.3f}" for x in result[name][what]) for what in ("observation", "flags")]
        lines.append(f"| {name} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m benchmarks.world_model.flags`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.world_model.flags", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--episodes", type=int, default=EPISODES, help="to learn from")
    parser.add_argument("--updates", type=int, default=UPDATES, help="of the model")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    result = measure(options.episodes, options.updates)
    if (options.episodes, options.updates) == (EPISODES, UPDATES):
        record = {"result": result, "meta": meta("python -m benchmarks.world_model.flags")}
        replace_text(RESULTS / "flags.json", json.dumps(record) + "\n")
        replace_text(RESULTS / "flags.md", table(result))
    print(f"{table(result)}\n{result['cpu_seconds']} processor seconds")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
