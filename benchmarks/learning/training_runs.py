"""Trains an arm of a study and reads back what it did: shared by the learning benchmarks.

An arm is a task, a seed, a number of replicas and the flags that differ from the task's configuration. Its record is
plain data: settings, the learning curve of every replica, the final policies' returns on unseen episodes, seconds.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import seeds
from benchmarks.judgement import judge
from marl import Policy, train
from marl.cli.parse import parse
from marl.config.schema import Config
from marl.runs.checkpoint import DIRECTORY, newest
from marl.runs.logs.records import RunRecords, read_run
from marl.training.experiment import RunResult
from marl.training.trainer import Watch

PLACES = ("--keep", "--out", "--repeat")  # flags of benchmarks that name a folder of this machine
_COLUMNS = {"step": "step", "seconds": "time/seconds"}


def run_arm(
    env: str,
    flags: Sequence[str],
    seed: int,
    replicas: int,
    episodes: int,
    episodes_seed: int,
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
        episodes_seed: of the judgement; its purpose goes into the record (benchmarks/seeds.py).
        modes: "greedy", "sampled" or both.
        backend: what the judgement plays in: the real environment or our port (equal to it within rounding).
        keep: the run directory, in which a run that was cut off goes on; None: a temporary one.

    Returns:
        {env, flags, purpose, configuration, seed, replicas, steps, seconds, processor, curve: {step: [n], return,
        score, gain: [n][R]}, judged: {mode: the JSON of `benchmarks.judgement.Judged`}}. Both times are of the
        training of all replicas: on the wall, and of the processor.
    """
    with tempfile.TemporaryDirectory() as scratch:
        directory = keep or Path(scratch) / "run"
        began = time.process_time()
        config, result = train_arm(env, flags, seed, replicas, directory)
        processor = time.process_time() - began
        run = read_run(directory)
        judged = {}
        for mode in modes:
            players = [Policy.load(directory, replica, greedy=mode == "greedy") for replica in range(replicas)]
            judged[mode] = judge(
                players, env, episodes, episodes_seed, mode=mode, backend=backend, env_args=config.env_args
            ).to_json()
    return {
        "env": env,
        "flags": list(flags),
        "purpose": seeds.purpose_of(seeds.EPISODES, episodes_seed),
        "configuration": seeds.fingerprint(config),
        "seed": seed,
        "replicas": replicas,
        "steps": result.step,
        "seconds": round(result.seconds, 1),
        "processor": round(processor, 1),
        "curve": curve(run),
        "judged": judged,
    }


def train_arm(
    env: str, flags: Sequence[str], seed: int, replicas: int, directory: Path, watch: Watch | None = None
) -> tuple[Config, RunResult]:
    """Train with the task's configuration and `flags`, without report or judgement; the settings and what came out.

    A run of the same settings that was cut off in `directory` goes on. `watch` is that of `train`.
    """
    own = ["--env", env, "--seed", str(seed), "--num-replicas", str(replicas), "--run-dir", str(directory)]
    quiet = ["--logging.report", "false", "--logging.tensorboard", "false", "--evaluation.final-episodes", "2"]
    every = ["--evaluation.every", "10000"]  # as the published curves have it, unless the flags say otherwise
    cut_off = newest(directory / DIRECTORY) is not None
    launch = parse([*(["--resume", str(directory)] if cut_off else []), *own, *quiet, *every, *flags])
    return launch.config, train(launch.config, resume=launch.resume, watch=watch)


def steps_of(config: Config) -> int:
    """Environment steps of a replica in a whole run: rounds of all its environments; the last may overshoot."""
    return -(-config.total_steps // config.num_envs) * config.num_envs


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


def split_at_dashes(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """A benchmark's own arguments, and the flags of run.py behind `--`."""
    own = list(argv)
    at = own.index("--") if "--" in own else len(own)
    return own[:at], own[at + 1 :]


def placeless(words: Sequence[str]) -> list[str]:
    """A command's words without the places of this machine: those of `PLACES` go, a run that was played is RUN."""
    kept: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        if before not in PLACES and word not in PLACES:
            kept.append("RUN" if before == "--run" else word)
    return kept
