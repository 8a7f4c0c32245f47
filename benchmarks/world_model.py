"""How well and how fast the world models predict: open-loop errors, rewards, messages, milliseconds an update.

    python -m benchmarks.world_model                               every task and kind, then timing, table and figures
    python -m benchmarks.world_model --env simple_spread --kind rssm --updates 500 --wm.nx 20    an experiment: printed
    python -m benchmarks.world_model --timing                      the timing alone
    python -m benchmarks.world_model --figures                     tables and figures from what is there

Protocol: random policy; 2000 episodes to learn from, other 400 to predict; 5 steps observed, the other 20 predicted
from the actions alone; root mean square error of the joint observation in the environment's units, message slots
included. Results: benchmarks/results/world_model/prediction.json, prediction.md and <env>_*.png.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.gumbel import ROOT, meta
from envs.mpe.catalogue import canonical_id
from envs.streams import Stream
from marl import plots
from marl.config import Config, WorldModelConfig
from marl.configure import parse
from marl.durable import replace_text
from marl.world_model.assess import assess, collect, latents_figure
from marl.world_model.imagination import make_model
from marl.world_model.layout import Layout
from marl.world_model.model import WorldModel
from marl.world_model.sequences import FrameStore, Sequences, StepRows

RESULTS = ROOT / "benchmarks" / "results" / "world_model"
TASKS = ("simple_speaker_listener", "simple_reference", "simple_spread")
UPDATES = {"rssm": 6000, "mlp": 3000, "linear": 3000}
AIM = {"simple_speaker_listener": 0.05, "simple_reference": 0.05, "simple_spread": 0.15}
TRAIN, TEST, STEPS = 2000, 400, 25
GROWTH = 1.6  # of the updates between two measurements


def steps_of(seq: Sequences, episodes: slice) -> list[StepRows]:
    """Episodes of equal length as joint steps."""
    part = {name: x[:, :, episodes] for name, x in vars(seq).items()}
    return [
        StepRows(
            obs=part["obs"][:, t],
            action=part["action"][:, t + 1],
            reward=part["reward"][:, t + 1],
            alive=part["alive"][:, t + 1],
            next_obs=part["obs"][:, t + 1],
            first=part["first"][:, t],
            last=part["last"][:, t + 1],
        )
        for t in range(seq.first.shape[1] - 1)
    ]


def learn(config: Config, layout: Layout, train: Sequences, test: Sequences, updates: int) -> dict[str, Any]:
    """Train a model of `config.wm` on `train`; `assess` of it on `test`, and a shorter record on the way there."""
    stream = Stream(config.seed, "training", [0])
    model = make_model(layout, config.wm, config.maddpg.gamma, Stream(config.seed, "model", [0]))
    widths = (layout.full_size, layout.action_size, layout.spec.num_agents)
    episodes = train.first.shape[2]
    store = FrameStore(widths, 1, episodes, episodes * train.first.shape[1], "cpu")
    everything = torch.ones(1, episodes, dtype=torch.bool)
    for step in steps_of(train, slice(None)):
        store.add(step, everything)
        model.absorb(step, everything)
    window = config.wm.window or STEPS + 1
    path, due, spent = [], 300.0, 0.0
    for done in range(1, updates + 1):
        start = time.process_time()
        model.update(store.windows(window, config.wm.size("sequences"), stream), stream)
        spent += time.process_time() - start
        if done >= due or done == updates:
            due *= GROWTH
            model.check()
            found = assess(model, layout, test, train, Stream(config.seed, "test", [0]))
            path.append({"updates": done, "cpu_seconds": spent, **summary(found)})
            print(config.env, config.wm.kind, path[-1], flush=True)
    return {"path": path, **found}


def summary(found: dict[str, Any]) -> dict[str, float]:
    """The numbers of the goals."""
    slots = found["slots"]
    return {
        "rmse": round(found["rmse"]["model"]["all"][0], 5),
        "rmse_1": round(found["rmse"]["model"]["steps"][0][0], 5),
        "rmse_20": round(found["rmse"]["model"]["steps"][0][-1], 5),
        "reward_r2_5": round(found["reward_r2"][0][4], 4),
        "reward_r2_20": round(found["reward_r2"][0][-1], 4),
        **({} if slots is None else {"slots": slots[0]}),
    }


def configuration(env_id: str, kind: str, extra: Sequence[str]) -> Config:
    """Settings of one model, checked as on the command line of run.py."""
    return parse(["--env", env_id, "--world-model", "--wm.kind", kind, *extra]).config


def measure(env_id: str, kind: str, updates: int, extra: Sequence[str], train_episodes: int = TRAIN) -> dict[str, Any]:
    """One model of one task."""
    config = configuration(env_id, kind, extra)
    train = collect(env_id, None, 1, train_episodes, STEPS, 1)
    test = collect(env_id, None, 1, TEST, STEPS, 1_000_000)
    import envs

    layout = Layout(envs.make(env_id).spec)
    return learn(config, layout, train, test, updates)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--env")
    parser.add_argument("--kind")
    parser.add_argument("--updates", type=int)
    options, extra = parser.parse_known_args()
    torch.set_num_threads(1)
    measure(options.env, options.kind, options.updates, extra)
