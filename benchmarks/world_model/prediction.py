"""How well and how fast the world models predict: open-loop errors, rewards, messages, milliseconds an update.

    python -m benchmarks.world_model                               every task and kind, then timing, table and figures
    python -m benchmarks.world_model --env simple_spread --kind rssm --updates 500 --wm.nx 20    printed, not stored
    python -m benchmarks.world_model --timing                      the timing alone
    python -m benchmarks.world_model --figures                     tables and figures from what is there

Protocol: random policy; 2000 episodes to learn from, other 400 to predict; 5 steps observed, the other 20 predicted
from the actions alone; root mean square error of the joint observation in the environment's units, message slots
included. Results: benchmarks/results/world_model/prediction.json, prediction.md, errors_<env>.png, latents_<env>.png.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

import envs
from benchmarks.gumbel.page import ROOT, meta
from envs.streams import Stream
from marl.cli.parse import parse
from marl.config.schema import Config
from marl.figures import plots
from marl.runs.durable import replace_text
from marl.world_model.assess import Assessment, Latents, assess, collect, latents_figure
from marl.world_model.imagination.source import make_model
from marl.world_model.layout import Layout
from marl.world_model.protocol import WorldModel
from marl.world_model.sequences import FrameStore, Sequences, StepRows

RESULTS = ROOT / "benchmarks" / "results" / "world_model"
TASKS = ("simple_speaker_listener", "simple_reference", "simple_spread")
UPDATES = {"linear": 1000, "mlp": 1000, "rssm": 4500}
FLAGS = {
    "rssm": ("--wm.window", "13", "--wm.sequences", "32", "--wm.average", "0.997"),  # for a long training
    "mlp": ("--wm.ensemble", "5"),
}
ONE_OBSERVATION = ("--maddpg.frames", "1")  # a model predicts one, where a task ships with more too
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
            flags=part["flags"][:, t],
            next_flags=part["flags"][:, t + 1],
        )
        for t in range(seq.first.shape[1] - 1)
    ]


def stored(seq: Sequences, layout: Layout, model: WorldModel) -> FrameStore:
    """Episodes in a store, and absorbed by `model`."""
    replicas, _, episodes = seq.first.shape
    widths = (layout.full_size, layout.action_size, layout.spec.num_agents)
    store = FrameStore(widths, replicas, episodes, episodes * seq.first.shape[1], "cpu")
    everything = torch.ones(replicas, episodes, dtype=torch.bool)
    for step in steps_of(seq, slice(None)):
        store.add(step, everything)
        model.absorb(step, everything)
    return store


def learn(config: Config, layout: Layout, train: Sequences, test: Sequences, updates: int) -> dict[str, Any]:
    """Train a model of `config.wm` on `train`; `assess` of it on `test`, and a shorter record on the way there."""
    stream = Stream(config.seed, "training", [0])
    model = make_model(layout, config.wm, config.maddpg.gamma, Stream(config.seed, "model", [0]))
    store = stored(train, layout, model)
    window = config.wm.window or STEPS + 1
    path, due, spent = [], 300.0, 0.0
    for done in range(1, updates + 1):
        start = time.process_time()
        seq = store.windows(window, config.wm.size("sequences"), stream)
        model.update(seq, stream, store.windows(2, model.pairs, stream) if model.pairs else None)
        spent += time.process_time() - start
        if done >= due or done == updates:
            due *= GROWTH
            model.check()
            result = assess(model, layout, test, train, Stream(config.seed, "test", [0]))
            path.append({"updates": done, "cpu_seconds": spent, **summary(result)})
            print(config.env, config.wm.kind, path[-1], flush=True)
    return {"path": path, **result.to_json()}


def summary(result: Assessment) -> dict[str, float]:
    """The numbers of the goals."""
    slots = result.slots
    return {
        "rmse": round(result.rmse["model"].all[0], 5),
        "rmse_1": round(result.rmse["model"].steps[0][0], 5),
        "rmse_20": round(result.rmse["model"].steps[0][-1], 5),
        "reward_r2_5": round(result.reward_r2[0][4], 4),
        "reward_r2_20": round(result.reward_r2[0][-1], 4),
        **({} if slots is None else {"slots": slots[0]}),
    }


def configuration(env_id: str, kind: str, extra: Sequence[str] = ()) -> Config:
    """Settings of one model, checked as on the command line of run.py."""
    return parse(["--env", env_id, "--world-model", "--wm.kind", kind, *ONE_OBSERVATION, *extra]).config


def measure(env_id: str, kind: str, updates: int, extra: Sequence[str] = ()) -> dict[str, Any]:
    """One model of one task: what `assess` finds, and the way there."""
    train = collect(env_id, None, 1, TRAIN, STEPS, 1)
    test = collect(env_id, None, 1, TEST, STEPS, 1_000_000)
    result = learn(configuration(env_id, kind, extra), Layout(envs.make(env_id).spec), train, test, updates)
    return {**result, "flags": list(extra)}


def timing(repeats: int = 40) -> dict[str, Any]:
    """Milliseconds of one RSSM update on 16 episodes of 25 steps, cpu preset.

    `wall_2`: wall time on two threads; `cpu_1`: CPU time on one, which other processes on the machine disturb least.
    Medians and least values of `repeats`.
    """
    results: dict[str, Any] = {"repeats": repeats, "load": os.getloadavg()[0]}
    before = torch.get_num_threads()
    for env_id in TASKS:
        config = configuration(env_id, "rssm")
        layout, seq = Layout(envs.make(env_id).spec), collect(env_id, None, 1, 16, STEPS, 0)
        model = make_model(layout, config.wm, config.maddpg.gamma, Stream(0, "model", [0]))
        stream = Stream(0, "training", [0])
        for name, threads, clock in (("wall_2", 2, time.perf_counter), ("cpu_1", 1, time.process_time)):
            torch.set_num_threads(threads)
            times = []
            for _ in range(repeats + 3):
                start = clock()
                model.update(seq, stream)
                times.append(1e3 * (clock() - start))
            results.setdefault(env_id, {})[name] = {"median": float(np.median(times[3:])), "least": min(times[3:])}
    torch.set_num_threads(before)
    return results


# ------------------------------------------------------------------ tables and figures
def table(numbers: dict[str, Any]) -> str:
    """Markdown: open-loop errors of models and baselines, rewards, message slots."""
    lines = [
        "| task | model | updates | error, 20 steps | after 1 / 5 / 20 | rewards' R² after 5 / 20 | messages exact |",
        "|---|---|---|---|---|---|---|",
    ]
    for env_id, kinds in numbers["tasks"].items():
        some = next(iter(kinds.values()))
        for name in ("copy last", "mean", "linear"):
            lines.append(f"| {env_id} | {name} | | {_errors_words(some['rmse'][name])} | | |")
        for kind, result in kinds.items():
            updates, r2 = result["path"][-1]["updates"], np.mean(result["reward_r2"], axis=0)
            slots = "" if result["slots"] is None else f"{100 * float(np.mean(result['slots'])):.1f} %"
            errors = _errors_words(result["rmse"]["model"])
            lines.append(f"| {env_id} | **{kind}** | {updates} | {errors} | {r2[4]:.3f} / {r2[19]:.3f} | {slots} |")
    if "timing" in numbers:
        told = numbers["timing"]
        lines += ["", "One RSSM update, 16 episodes of 25 steps, cpu preset, in milliseconds, least / median; "]
        lines[-1] += f"{told['load']:.1f} processes wanted the machine's {os.cpu_count()} cores:"
        lines += ["", "| task | wall, 2 threads | CPU time, 1 thread |", "|---|---|---|"]
        for env_id in TASKS:
            cells = [f"{told[env_id][n]['least']:.0f} / {told[env_id][n]['median']:.0f}" for n in ("wall_2", "cpu_1")]
            lines.append(f"| {env_id} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def _errors_words(entry: dict[str, Any]) -> str:
    steps = np.mean(entry["steps"], axis=0)
    some = " / ".join(f"{steps[k]:.3g}" for k in (0, 4, 19))
    return f"{float(np.mean(entry['all'])):.3g} | {some}"


def errors(env_id: str, kinds: dict[str, Any]) -> Figure:
    """Left: error over the steps of an episode. Right: error over the updates of training."""
    figure, (left, right) = plots.canvas(3.2, 2 * plots.WIDTH, columns=2)
    some = next(iter(kinds.values()))
    curves = {kind: result["rmse"]["model"]["steps"][0] for kind, result in kinds.items()}
    curves |= {name: some["rmse"][name]["steps"][0] for name in ("linear", "copy last", "mean") if name not in curves}
    steps = some["context"] + 1 + np.arange(len(some["reward_r2"][0]))
    for colour, (name, values) in zip(plots.COLOURS, curves.items(), strict=False):
        left.plot(steps, values, color=colour, label=name, linestyle="-" if name in kinds else ":")
    for colour, (kind, result) in zip(plots.COLOURS, kinds.items(), strict=False):
        path = result["path"]
        right.plot([one["updates"] for one in path], [one["rmse"] for one in path], "o-", color=colour, label=kind)
    right.axhline(AIM[env_id], color=plots.FAINT, linewidth=0.8, linestyle=":")
    for ax in (left, right):
        ax.set_yscale("log")
    left.legend(fontsize=plots.FONT - 2, frameon=False)
    plots.label(left, f"{env_id}: open loop after 5 steps observed", "step", "root mean square error")
    plots.label(right, "All 20 steps, while the model learns (dotted: aim)", "model updates", "")
    return figure


def publish(numbers: dict[str, Any]) -> str:
    """Write figures and table; the table's text."""
    for env_id, kinds in numbers["tasks"].items():
        plots.save(errors(env_id, kinds), RESULTS / f"errors_{env_id}.png")
        if "rssm" in kinds:
            plots.save(latents_figure(Latents.from_json(kinds["rssm"])), RESULTS / f"latents_{env_id}.png")
    text = table(numbers)
    replace_text(RESULTS / "prediction.md", text)
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m benchmarks.world_model`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.world_model", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--env", choices=TASKS, nargs="*", default=list(TASKS))
    parser.add_argument("--kind", choices=tuple(UPDATES), nargs="*", default=list(UPDATES))
    parser.add_argument("--updates", type=int, help="of every model (default: by kind)")
    parser.add_argument("--timing", action="store_true", help="the timing alone")
    parser.add_argument("--figures", action="store_true", help="draw what is there again")
    options, flags = parser.parse_known_args(argv)
    torch.set_num_threads(1)
    if flags:  # an experiment
        for env_id in options.env:
            for kind in options.kind:
                measure(env_id, kind, options.updates or UPDATES[kind], flags)
        return 0
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / "prediction.json"
    numbers: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"tasks": {}}
    if not options.figures:
        for env_id in [] if options.timing else options.env:
            for kind in options.kind:
                result = measure(env_id, kind, options.updates or UPDATES[kind], FLAGS.get(kind, ()))
                numbers["tasks"].setdefault(env_id, {})[kind] = result
                replace_text(path, json.dumps(numbers) + "\n")
        if options.timing or options.env == list(TASKS):
            numbers["timing"] = timing()
        numbers["meta"] = meta("python -m benchmarks.world_model")
        replace_text(path, json.dumps(numbers) + "\n")
    print(publish(numbers))
    return 0
