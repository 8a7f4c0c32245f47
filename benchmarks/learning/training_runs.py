"""Trains an arm of a study and reads back what it did: shared by the learning benchmarks.

An arm is a task, a seed, a number of replicas and the flags that differ from the task's configuration. Its record is
plain data: settings, the learning curve of every replica, the final policies' returns on unseen episodes, seconds.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from marl import Policy, train
from marl.cli.parse import parse
from marl.config.schema import Config
from marl.evaluate.returns import evaluate
from marl.runs.records import RunRecords, read_run
from marl.training.experiment import RunResult

EPISODES_SEED = 5_000_000  # of the episodes that judge; far from those of training-time evaluations
_COLUMNS = {"step": "step", "seconds": "time/seconds"}


def run_arm(
    env: str,
    flags: Sequence[str],
    seed: int,
    replicas: int,
    episodes: int,
    modes: Sequence[str] = ("greedy",),
    backend: str = "pettingzoo",
    keep: Path | None = None,
) -> dict[str, Any]:
    """Train and judge.

    Args:
        env: task id.
        flags: of run.py, beyond env, seed and replicas.
        seed: of the run.
        replicas: trained side by side.
        episodes: per replica, in the judgement of the final policies.
        modes: "greedy", "sampled" or both.
        backend: what the judgement plays in: the real environment or our port (equal to it within rounding).
        keep: the run directory; None: a temporary one.

    Returns:
        {env, flags, seed, replicas, steps, seconds, updates, curve: {step: [n], return, score, gain: [n][S]},
        final: {mode: the JSON of `marl.evaluate.evaluate`'s result}}.
    """
    with tempfile.TemporaryDirectory() as scratch:
        directory = keep or Path(scratch) / "run"
        config, result = train_arm(env, flags, seed, replicas, directory)
        run = read_run(directory)
        final = {}
        for mode in modes:
            players = [Policy.load(directory, replica, greedy=mode == "greedy") for replica in range(replicas)]
            final[mode] = evaluate(
                players,
                env,
                episodes=episodes,
                seed=EPISODES_SEED,
                mode=mode,
                env_args=config.env_args,
                backend=backend,
                batch=min(episodes, 1000) if backend == "torch" else 32,
            ).to_json()
    return {
        "env": env,
        "flags": list(flags),
        "seed": seed,
        "replicas": replicas,
        "steps": result.step,
        "seconds": round(result.seconds, 1),
        "curve": curve(run),
        "final": final,
    }


def train_arm(env: str, flags: Sequence[str], seed: int, replicas: int, directory: Path) -> tuple[Config, RunResult]:
    """Train with the task's configuration and `flags`, without report or judgement; the settings and what came out."""
    own = ["--seed", str(seed), "--num-replicas", str(replicas), "--run-dir", str(directory)]
    quiet = ["--logging.report", "false", "--logging.tensorboard", "false", "--evaluation.final-episodes", "2"]
    config = parse(["--env", env, *own, *quiet, *flags]).config
    return config, train(config)


def curve(run: RunRecords) -> dict[str, Any]:
    """The evaluations during training: {step: [n], seconds: [n], return, score and gain: [n][S]} where they exist.

    The one at the end is left out: it plays other episodes, and here hardly any.
    """
    end = run.config.total_steps
    lines = [line for line in run.metrics if "evaluation/return" in line and line["step"] < end]
    results: dict[str, Any] = {name: [line[key] for line in lines] for name, key in _COLUMNS.items()}
    for name in ("return", "score", "gain"):
        steps, values = run.series(f"evaluation/{name}")
        if len(steps):
            results[name] = values[steps < end].tolist()
    return results


def first_reached(curve: dict[str, Any], measure: str, threshold: float, what: str = "step") -> list[float]:
    """Step (or seconds) of the first evaluation at or above a threshold, one a replica; infinity: never."""
    values_nS, at_n = np.array(curve[measure]), np.array(curve[what], dtype=float)
    reached_nS = values_nS >= threshold
    return [float(at_n[hit.argmax()]) if hit.any() else float("inf") for hit in reached_nS.T]


def median(values: Sequence[float]) -> float:
    """The median, infinite where half or more never arrived."""
    return float(np.median(values)) if np.isfinite(values).sum() * 2 > len(values) else float("inf")


def machine() -> str:
    """Processor, cores in use, torch and date, for the record of a measurement."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor()
    return f"{processor}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, {date.today()}"


def split_at_dashes(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """A benchmark's own arguments, and the flags of run.py behind `--`."""
    own = list(argv)
    at = own.index("--") if "--" in own else len(own)
    return own[:at], own[at + 1 :]
