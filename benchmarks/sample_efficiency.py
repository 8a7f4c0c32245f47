"""Environment steps to a gain (on spread, a score): MADDPG with and without a world model.

    python -m benchmarks.sample_efficiency --env simple_speaker_listener            all arms, then table and figure
    python -m benchmarks.sample_efficiency --env simple_speaker_listener --arms ceiling mlp
    python -m benchmarks.sample_efficiency --env pistonball --replicas 3            agents that see pictures
    python -m benchmarks.sample_efficiency --figures                                table and figure from what is there

All replicas of an arm train side by side in one process. The greedy policies play the same 200 episodes after every
250 steps. How much easier or harder these are than others is known from a scripted policy, which plays them and 20,000
others, and is taken off. Plain MADDPG gets more steps than the arms with a model; step sizes fall over all steps of an
arm. A threshold counts as reached at the first of two evaluations in a row at or above it, or at the end. Given are the
median over replicas and their range, which for five replicas holds the true median with 94 %. Results, all below
benchmarks/results/world_model/: sample_efficiency.json, sample_efficiency.md, sample_efficiency_<env>.png.
Tasks, arms, and what differs in single ones: benchmarks/world_model/sample_tasks.py.
Settings were chosen on seeds 0 to 9; published are seeds from 100 on.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.gumbel.page import ROOT, meta
from benchmarks.world_model import contests
from benchmarks.world_model.sample_tasks import EVALUATION_SEED, TASKS, Arm, Task, arms_of
from benchmarks.world_model.simulator_model import SimulatorModel
from envs.history import History
from envs.spec import EnvSpec
from envs.streams import Stream
from marl.cli.parse import parse
from marl.config.schema import Config
from marl.data.batch import BatchSource
from marl.data.collector import Collector
from marl.data.pictures import PictureReplay
from marl.data.replay import Replay
from marl.data.windows import WindowReplay
from marl.figures import plots
from marl.learner import relaxation
from marl.learner.maddpg import MADDPG
from marl.learner.recurrent.maddpg import RecurrentMADDPG
from marl.learner.recurrent.unrolled import acting
from marl.play.policy import Policy
from marl.play.rollout import play
from marl.runs.durable import replace_text
from marl.scripted.by_name import scripted
from marl.world_model import attach as compose
from marl.world_model.layout import Layout

RESULTS = ROOT / "benchmarks" / "results" / "world_model"
FIRST_SEED = 100  # below are seeds that settings were chosen on
LEGEND = 60  # characters of a line
LINES = "-", "--", ":", "-."  # of arms of a figure that have the same colour

Watch = Callable[[MADDPG, BatchSource, int], None]
"""Looks at the learner and its source after so many steps, and changes nothing."""


def run(name: str, arm: Arm, config: Config, say: Callable[[str], None], watch: Watch | None = None) -> dict[str, Any]:
    """Train all replicas of `config`; returns at every evaluation, [times][S], and what the model was like.

    `watch` is called after every evaluation.
    """
    task = TASKS[name]
    env = task.make(config.num_replicas * config.num_envs)
    env = History(env, 1, own_action=True) if config.maddpg.recurrent else env
    env.reset(seed=config.seed)
    learner, replay = _learner(task, config, env.spec)
    memory = learner.memory(config.num_envs)
    source: BatchSource = replay
    if config.world_model:
        model = SimulatorModel(Layout(env.spec), config.maddpg.gamma, config.num_replicas) if arm.perfect else None
        source = compose.imagining(replay, learner, config, model)
    collector = Collector(env, learner.act if memory is None else memory.act, config.num_replicas, memory)
    results: dict[str, Any] = {"steps": [], "returns": [], "model": [], "updates": 0}
    credit, started = 0.0, time.process_time()
    for step in range(config.num_envs, config.total_steps + config.num_envs, config.num_envs):
        source.add(collector.collect()[0])
        if step > config.maddpg.warmup_steps:
            credit += config.num_envs * config.maddpg.updates_per_step
            while credit >= 1.0:
                credit -= 1.0
                learner.update(source.sample(config.maddpg.batch_size), step / config.total_steps)
        if step // task.every > (step - config.num_envs) // task.every:
            results["steps"].append(step)
            if task.opponents:
                sides_SC = side_scores(task, learner, config)
                results.setdefault("sides", []).append(sides_SC.tolist())
                results["returns"].append(sides_SC.mean(1).tolist())
            else:
                results["returns"].append(greedy_returns(task, learner, config.num_replicas).tolist())
            told = {n.split("/")[1]: v.tolist() for n, v in source.metrics().items() if n.startswith("world_model/")}
            results["model"].append({n: told[n] for n in ("rollout", "rmse_1", "reward_rmse_1") if n in told})
            if watch is not None:
                watch(learner, source, step)
            say(f"{step:>7} {np.round(results['returns'][-1], 2)} {results['model'][-1].get('rollout', '')}")
    return {**results, "updates": learner.updates, "cpu_seconds": time.process_time() - started}


def _learner(task: Task, config: Config, spec: EnvSpec) -> tuple[MADDPG, Replay]:
    """The learner of all replicas, and its replay of all that it will see."""
    m, replicas, size = config.maddpg, range(config.num_replicas), config.total_steps + config.num_envs
    stream = Stream(config.seed, "replay", replicas)
    if m.recurrent:
        recurrent = RecurrentMADDPG(spec, m, config.seed, replicas)
        stored = m.gamma, m.window, m.burn_in, recurrent.memory_shape, recurrent.stored_team_NN
        return recurrent, WindowReplay(spec, size, config.num_envs, stream, *stored)
    kind, learner = PictureReplay if task.pictures else Replay, MADDPG(spec, m, config.seed, replicas)
    return learner, kind(spec, size, config.num_envs, stream, m.gamma, team=learner.stored_team_NN)


@torch.no_grad()
def greedy_returns(task: Task, learner: MADDPG, replicas: int) -> Tensor:
    """Mean return per agent of every replica's greedy policy [S]; all play the same episodes."""
    env, obs = task.evaluation(replicas, learner.config.recurrent)
    policy = acting(learner.actor, env.num_envs // replicas)
    total, running_R = torch.zeros(env.spec.num_agents, env.num_envs), torch.ones(env.num_envs, dtype=torch.bool)
    while bool(running_R.any()):
        logits = policy(obs.unflatten(1, (replicas, -1)).transpose(0, 1))
        choice = relaxation.greedy_onehot(logits, learner.head_mask).argmax(-1)
        step = env.step(choice.transpose(0, 1).flatten(1, 2))
        total, obs = total + step.reward * running_R, step.obs
        running_R &= ~step.ended
    return total.mean(0).unflatten(0, (replicas, -1)).mean(1)


def side_scores(task: Task, learner: MADDPG, config: Config) -> np.ndarray:
    """Scores of both sides of every replica's greedy policies against scripts, float64 [S, sides]."""
    players = [Policy(learner.spec, config, flat_GP) for flat_GP in learner.actor.mlp.flat]
    return contests.scores(task.env, task.opponents, players, task.episodes)


@functools.cache
def ease(env_id: str | None) -> float:
    """By how much returns per agent are higher in the evaluation's episodes than in others; 0 without a script."""
    if env_id is None:
        return 0.0
    script = scripted(env_id, "coast")
    count = TASKS[env_id].episodes
    same = play(env_id, script, count, EVALUATION_SEED, backend="torch", batch=count)
    others = play(env_id, script, 20_000, EVALUATION_SEED + 1, backend="torch", batch=1000)
    return float(same.returns.mean() - others.returns.mean())


def measured(env_id: str, returns: Sequence[float]) -> list[float]:
    """Gains (scores where messages do not exist) of returns in the evaluation's episodes."""
    task = TASKS[env_id]
    result = (task.measure(task.scale or "", value - ease(task.scale)) for value in returns)
    return [float("nan") if one is None else one for one in result]


def configuration(env_id: str, arm: Arm, seed: int, replicas: int, extra: Sequence[str] = ()) -> Config:
    """The task's and the arm's settings, checked as on the command line of run.py."""
    task = TASKS[env_id]
    words = ["--env", task.env, "--seed", str(seed), "--num-replicas", str(replicas)]
    if task.env_args:
        words += ["--env-args", *(f"{name}={json.dumps(value)}" for name, value in task.env_args.items())]
    words += ["--total-steps", str(round(task.steps * arm.stretch))]
    words += ["--maddpg.updates-per-step", str(updates(task, arm)), *task.flags, *arm.flags, *extra]
    return parse(words).config


def updates(task: Task, arm: Arm) -> float:
    """Of the learner, an environment step of a replica."""
    return task.updates if arm.updates is None else arm.updates


def labels(env_id: str, arms: dict[str, Any]) -> dict[str, str]:
    """The arms of a record in words; those of one name with their steps."""
    told = {}
    for name in arms:
        arm = arms_of(env_id)[name]
        rate = updates(TASKS[env_id], arm)
        told[name] = f"{arm.label}, {rate:g} update{'s' * (rate > 1)} a step"
    twice = {text for text in told.values() if list(told.values()).count(text) > 1}
    return {
        name: f"{text}, {arms[name]['steps'][-1]:,} steps" if text in twice else text for name, text in told.items()
    }


# ------------------------------------------------------------------ what it comes to
def reached(scores_T: Sequence[float], steps_T: Sequence[int], threshold: float) -> float:
    """Steps at the first of two evaluations in a row at or above `threshold`, or at the last one; else infinite."""
    good = np.asarray(scores_T) >= threshold
    both = np.flatnonzero(good & np.append(good[1:], True))
    return float(steps_T[both[0]]) if len(both) else float("inf")


def steps_to(env_id: str, result: dict[str, Any], threshold: float) -> list[float]:
    """Of every replica."""
    scores_TS = [measured(env_id, row) for row in result["returns"]]
    return [reached(column, result["steps"], threshold) for column in zip(*scores_TS, strict=True)]


def table(env_id: str, arms: dict[str, Any]) -> str:
    """Markdown: steps to each threshold (median and range of the replicas), the last gain, updates, seconds."""
    task = TASKS[env_id]
    heads = [f"steps to {threshold:.2f}" for threshold in task.thresholds]
    lines = ["| arm | " + " | ".join(heads) + " | at the end | updates | CPU seconds per replica |"]
    lines.append("|---" * (len(heads) + 4) + "|")
    words = labels(env_id, arms)
    for name, result in arms.items():
        cells = [
            _steps_words(steps_to(env_id, result, threshold), result["steps"][-1]) for threshold in task.thresholds
        ]
        last = measured(env_id, result["returns"][-1])
        cells.append(f"{np.median(last):.2f} ({min(last):.2f} to {max(last):.2f})")
        cells += [str(result["updates"]), f"{result['cpu_seconds'] / len(last):.0f}"]
        lines.append(f"| {words[name]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _steps_words(steps: list[float], budget: int) -> str:
    low, high = min(steps), max(steps)

    def word(value: float) -> str:
        return f"{value:,.0f}" if np.isfinite(value) else f"> {budget:,}"

    return f"{word(float(np.median(steps)))} ({word(low)} to {word(high)})"


def curves(env_id: str, arms: dict[str, Any]) -> Figure:
    """The median of every arm over environment steps, with the range of its replicas."""
    task = TASKS[env_id]
    words = {name: textwrap.fill(label, LEGEND) for name, label in labels(env_id, arms).items()}
    figure, ax = plots.canvas(3.6 + 0.18 * len("\n".join(words.values()).splitlines()))
    for place, (name, result) in enumerate(arms.items()):
        again, nth = divmod(place, len(plots.COLOURS))
        colour, line = plots.COLOURS[nth], LINES[again]
        values_TS = np.array([measured(env_id, row) for row in result["returns"]])
        steps = np.array(result["steps"])
        ax.fill_between(steps, values_TS.min(1), values_TS.max(1), color=colour, alpha=0.12, linewidth=0)
        middle = np.median(values_TS, axis=1)
        ax.plot(steps, middle, line, color=colour, label=words[name], linewidth=1.6)
    for threshold in task.thresholds:
        ax.axhline(threshold, color=plots.FAINT, linewidth=0.8, linestyle=":")
    ends = [float(np.median(measured(env_id, result["returns"][-1]))) for result in arms.values()]
    ax.set_ylim(min(-0.3, min(ends) - 0.1), 1.05)
    ax.set_xlim(0, 4.0 * task.steps)
    ax.legend(fontsize=plots.FONT - 2, frameon=False, loc="upper left", bbox_to_anchor=(0.0, -0.16))
    plots.label(ax, f"{env_id}: median and range of replicas", "environment steps of a replica", task.measure.__name__)
    return figure


def publish(numbers: dict[str, Any]) -> str:
    """Write figures and tables; the tables' text."""
    parts = []
    for env_id, arms in numbers["tasks"].items():
        ordered = {name: arms[name] for name in arms_of(env_id) if name in arms}
        plots.save(curves(env_id, ordered), RESULTS / f"sample_efficiency_{env_id}.png")
        parts.append(f"### {env_id}\n\n{table(env_id, ordered)}\n")
    text = "\n".join(parts)
    replace_text(RESULTS / "sample_efficiency.md", text)
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m benchmarks.sample_efficiency`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sample_efficiency", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--env", choices=tuple(TASKS), nargs="*", default=[name for name, task in TASKS.items() if not task.pictures]
    )
    parser.add_argument(
        "--arms",
        choices=sorted({name for task in TASKS for name in arms_of(task)}),
        nargs="*",
        help="default: all that a task has",
    )
    parser.add_argument("--replicas", type=int, default=5, help="of every arm (default 5)")
    parser.add_argument("--total-steps", type=int, help="of every arm (default: the task's times the arm's stretch)")
    parser.add_argument("--figures", action="store_true", help="draw what is there again, train nothing")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / "sample_efficiency.json"
    numbers: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"tasks": {}}
    extra = [] if options.total_steps is None else ["--total-steps", str(options.total_steps)]
    for env_id in [] if options.figures else options.env:
        for name, arm in arms_of(env_id).items():
            if options.arms and name not in options.arms:
                continue
            print(f"{env_id}, {name}: {arm.label}", flush=True)
            config = configuration(env_id, arm, FIRST_SEED, options.replicas, extra)
            result = run(env_id, arm, config, lambda text: print(text, flush=True))
            result["flags"] = [*TASKS[env_id].flags, *arm.flags, *extra]
            numbers["tasks"].setdefault(env_id, {})[name] = result
            numbers["meta"] = meta("python -m benchmarks.sample_efficiency")
            replace_text(path, json.dumps(numbers) + "\n")
    print(publish(numbers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
